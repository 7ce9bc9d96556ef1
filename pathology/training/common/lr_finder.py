"""The learning rate at which the loss falls fastest (Smith 2017, WACV), with fastai 1's numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["STEPS", "find_rate", "steepest_rate"]

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
"""Rates and number of steps of the sweep: ``lr_find``'s defaults in fastai 1."""
_SMOOTHING = 0.98
_SKIP_FIRST, _SKIP_LAST = 10, 5
"""Ends that fastai's recorder leaves out before it looks for the steepest fall."""


def find_rate(step: Callable[[float], float]) -> float:
    """Raise the rate exponentially until the loss explodes and return where it fell fastest.

    Parameters
    ----------
    step
        Trains one batch at a rate and returns its loss.
    """
    rates, losses = [], []
    average, best = 0.0, math.inf
    for number in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (number / (STEPS - 1))
        loss = step(rate)
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        smooth = average / (1 - _SMOOTHING ** (number + 1))
        if not math.isfinite(smooth) or (number > 0 and smooth > 4 * best):
            break
        best = min(best, smooth)
        rates.append(rate)
        losses.append(smooth)
    return steepest_rate(rates, losses)


def steepest_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at the most negative gradient of the smoothed loss; the ends do not count."""
    middle = slice(_SKIP_FIRST, -_SKIP_LAST) if len(rates) > _SKIP_FIRST + _SKIP_LAST + 1 else slice(None)
    kept = np.asarray(losses[middle])
    if len(kept) < 2:
        return rates[middle][0]
    return float(rates[middle][int(np.argmin(np.gradient(kept)))])

"""Learning rate finder (Smith 2017, WACV) with the parameters of fastai 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["STEPS", "find_rate", "steepest_rate"]

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
"""Range and number of steps of the sweep: defaults of ``lr_find`` in fastai 1."""
_SMOOTHING = 0.98
_SKIP_FIRST, _SKIP_LAST = 10, 5
"""Steps at both ends that fastai's recorder skips when searching for the steepest decrease."""


def find_rate(step: Callable[[float], float]) -> float:
    """Increase the rate exponentially until the loss diverges, and return the rate of the steepest decrease.

    Parameters
    ----------
    step
        Trains one batch at the given rate and returns its loss.
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
    """Return the rate at the most negative gradient of the smoothed loss, excluding the ends."""
    middle = slice(_SKIP_FIRST, -_SKIP_LAST) if len(rates) > _SKIP_FIRST + _SKIP_LAST + 1 else slice(None)
    kept = np.asarray(losses[middle])
    if len(kept) < 2:
        return rates[middle][0]
    return float(rates[middle][int(np.argmin(np.gradient(kept)))])

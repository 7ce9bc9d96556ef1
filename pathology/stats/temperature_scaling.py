"""Temperature scaling: calibrated probabilities, fitted on patients not used in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["ReliabilityBin", "TemperatureFit", "fit_temperature", "negative_log_likelihood", "reliability", "tempered"]

Floats = npt.NDArray[np.floating]

_LOG_RANGE = (-4.0, 4.0)
"""Natural logarithms of the temperatures searched: 0.018 to 55, beyond which a softmax is a step or flat."""
_TINY = 1e-12
"""Lower clip of probabilities before the logarithm: a stored 0 would have infinite loss."""


class TemperatureFit(Record):
    """A fitted temperature and its effect."""

    temperature: Annotated[float, Field(gt=0)]
    """Logits are divided by it before the softmax; above 1, the model was overconfident."""
    loss_before: float
    """Mean negative log likelihood (nats) at temperature 1, on the fitted rows."""
    loss_after: float
    """The same at the fitted temperature; never above ``loss_before``."""
    n: Annotated[int, Field(ge=1)]
    """Number of fitted rows."""
    groups: Annotated[int, Field(ge=1)]
    """Their patients (or slides), weighted equally."""


class ReliabilityBin(Record):
    """One bin of a reliability diagram."""

    low: float
    """Lower edge of the confidences, excluded."""
    high: float
    """Upper edge, included."""
    confidence: float | None
    """Mean probability of the predicted class; ``None`` in an empty bin."""
    accuracy: float | None
    """Fraction classified correctly; ``None`` in an empty bin."""
    n: Annotated[int, Field(ge=0)]
    """Rows in the bin."""


def negative_log_likelihood(
    logits: Floats, labels: Sequence[int] | npt.NDArray[np.integer], temperature: float = 1.0
) -> Floats:
    """Return the loss of each row in nats.

    Parameters
    ----------
    logits
        ``(N, C)``; log probabilities also work, since a softmax is invariant to a constant.
    labels
        Class numbers, length N.
    temperature
        Above 0.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    highest = scaled.max(axis=1, keepdims=True)
    total = np.log(np.exp(scaled - highest).sum(axis=1)) + highest[:, 0]
    result: Floats = total - scaled[np.arange(len(scaled)), np.asarray(labels)]
    return result


def fit_temperature(
    logits: Floats,
    labels: Sequence[int] | npt.NDArray[np.integer],
    *,
    groups: Sequence[str] | npt.NDArray[np.generic] | None = None,
) -> TemperatureFit:
    """Find the temperature that minimises the negative log likelihood (Guo et al. 2017, ICML, section 4.2).

    The loss is convex in the inverse temperature, so the minimum is unique.  If all of a few patients are classified
    correctly, the minimum lies at full certainty, which so few patients cannot support: below temperature 1, the mean
    probability of the predicted class is therefore limited to (n + 1) / (n + 2) for n patients, Laplace's rule of
    succession.

    Parameters
    ----------
    logits
        ``(N, C)`` of calibration patients; log probabilities also work.
    labels
        Class numbers, length N.
    groups
        Patient of each row; patients are then weighted equally.  ``None``: rows are weighted equally.

    Raises
    ------
    UsageError
        If there are no rows, the lengths differ, or a logit is not finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 500)
    >>> logits = rng.normal(size=(500, 2))
    >>> logits[np.arange(500), labels] += 1.0
    >>> fit_temperature(4 * logits, labels).temperature > 1
    True
    """
    values, truth = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    if values.ndim != 2 or not len(values) or len(values) != len(truth):
        raise UsageError(f"logits: expected (N, C) with N = {len(truth)} >= 1, got {values.shape}")
    if not np.isfinite(values).all():
        raise UsageError("logits: some are not finite", remedy="Exclude patches that could not be read")
    owners = np.arange(len(truth)) if groups is None else np.asarray(groups)
    _, place, size = np.unique(owners, return_inverse=True, return_counts=True)
    weights = 1 / size[place] / len(size)

    def loss(log_temperature: float) -> float:
        return float(weights @ negative_log_likelihood(values, truth, float(np.exp(log_temperature))))

    def sureness(log_temperature: float) -> float:
        highest = values.max(axis=1, keepdims=True)
        return float(weights @ (1 / np.exp((values - highest) / np.exp(log_temperature)).sum(axis=1)))

    from scipy.optimize import brentq, minimize_scalar

    best = float(minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-6}).x)
    most = (len(size) + 1) / (len(size) + 2)
    if best < 0 and sureness(best) > most:
        # Confidence falls with temperature and the loss rises away from the minimum, so the bound is the best allowed.
        best = 0.0 if sureness(0.0) >= most else float(brentq(lambda t: sureness(t) - most, best, 0.0))
    before, after = loss(0.0), loss(best)
    if after >= before:
        best, after = 0.0, before
    return TemperatureFit(
        temperature=float(np.exp(best)), loss_before=before, loss_after=after, n=len(truth), groups=len(size)
    )


def tempered(probabilities: Floats, temperature: float) -> npt.NDArray[np.float64]:
    """Return probabilities as a softmax of the same logits at another temperature.

    Parameters
    ----------
    probabilities
        ``(N, C)`` at temperature 1; rows of NaN stay NaN.
    temperature
        Above 0.

    Examples
    --------
    >>> tempered(np.array([[0.9, 0.1]]), 2.0).round(2).tolist()
    [[0.75, 0.25]]
    """
    powers = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY)) / temperature
    powers = np.exp(powers - powers.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def reliability(
    labels: Sequence[int] | npt.NDArray[np.integer], probabilities: Floats, *, bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """Return the bins of a reliability diagram, as in
    :func:`pathology.stats.classification.expected_calibration_error`.

    Parameters
    ----------
    labels
        Class numbers, length N.
    probabilities
        ``(N, C)``.
    bins
        Number of equal bins over 0..1.
    """
    truth, p = np.asarray(labels), np.asarray(probabilities, np.float64)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    result = []
    for k in range(bins):
        inside = place == k
        n = int(inside.sum())
        result.append(
            ReliabilityBin(
                low=k / bins,
                high=(k + 1) / bins,
                confidence=float(confidence[inside].mean()) if n else None,
                accuracy=float(right[inside].mean()) if n else None,
                n=n,
            )
        )
    return tuple(result)

"""DeLong's interval and test for areas under the ROC curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import stats

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.intervals import Floats, Interval

__all__ = ["DeLongTest", "delong", "delong_test"]


class DeLongTest(Record):
    """Comparison of two areas under the curve on the same patients."""

    first: Interval
    second: Interval
    difference: Interval
    """First minus second."""
    z: float
    p: Annotated[float, Field(ge=0, le=1)]
    """Two-sided."""


def delong(labels: Sequence[int] | npt.NDArray[np.generic], scores: Floats, *, level: float = 0.95) -> Interval:
    """Return the area under the ROC curve with DeLong's interval (DeLong 1988, Biometrics 44:837).

    Parameters
    ----------
    labels
        0 or 1, one per patient (DeLong's variance assumes independent rows: tiles of one patient are not).
    scores
        Higher means more likely 1, shape (N,).
    level
        Confidence level, 0 to 1.

    Returns
    -------
    Interval
        The area, with a normal interval clipped to 0..1.  With perfect separation the variance is 0 and the interval a
        point, as noted in ``method``.  NaN if one class is absent.

    Raises
    ------
    UsageError
        Labels other than 0 and 1, or different lengths.

    Examples
    --------
    >>> print(delong([0, 0, 0, 1, 1, 1], np.array([0.1, 0.3, 0.6, 0.5, 0.8, 0.9])))
    0.889 (95 % CI 0.581-1, n = 6)
    """
    truth = _binary(labels)
    area, covariance = _placements(truth, np.atleast_2d(_scores(scores, truth)))
    return _area_interval(float(area[0]), float(covariance[0, 0]), len(truth), level)


def delong_test(
    labels: Sequence[int] | npt.NDArray[np.generic], first: Floats, second: Floats, *, level: float = 0.95
) -> DeLongTest:
    """Compare two areas under the ROC curve on the same patients (DeLong 1988).

    Parameters
    ----------
    labels
        0 or 1, one per patient.
    first, second
        Scores of the two models, shape (N,).
    level
        Confidence level, 0 to 1.

    Raises
    ------
    UsageError
        Labels other than 0 and 1, or different lengths.

    Examples
    --------
    >>> labels, first = [0, 0, 0, 1, 1, 1], np.array([0.1, 0.3, 0.6, 0.5, 0.8, 0.9])
    >>> test = delong_test(labels, first, np.array([0.4, 0.3, 0.6, 0.5, 0.2, 0.9]))
    >>> 0 <= test.p <= 1
    True
    """
    truth = _binary(labels)
    area, covariance = _placements(truth, np.stack([_scores(first, truth), _scores(second, truth)]))
    difference = float(area[0] - area[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    sd = np.sqrt(max(variance, 0.0))
    # Equal scores have difference and variance 0: no evidence of a difference, rather than undefined.
    z = difference / sd if sd > 1e-12 else (0.0 if abs(difference) < 1e-12 else np.copysign(np.inf, difference))
    half = float(stats.norm.ppf((1 + level) / 2)) * sd
    return DeLongTest(
        first=_area_interval(float(area[0]), float(covariance[0, 0]), len(truth), level),
        second=_area_interval(float(area[1]), float(covariance[1, 1]), len(truth), level),
        difference=Interval(
            value=difference, low=difference - half, high=difference + half, level=level, n=len(truth), method="DeLong"
        ),
        z=float(z),
        p=float(min(1.0, 2 * stats.norm.sf(abs(z)))) if np.isfinite(difference) else 1.0,
    )


def _area_interval(area: float, variance: float, n: int, level: float) -> Interval:
    half = float(stats.norm.ppf((1 + level) / 2)) * np.sqrt(variance)
    method = "DeLong" if variance > 0 or np.isnan(area) else "DeLong, degenerate: the classes separate perfectly"
    low, high = (np.nan, np.nan) if np.isnan(half) else (max(0.0, area - half), min(1.0, area + half))
    return Interval(value=area, low=float(low), high=float(high), level=level, n=n, method=method)


def _placements(truth: npt.NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """Areas and their covariance by midranks (Sun and Xu 2014, IEEE Signal Process Lett 21:1389)."""
    positive, negative = scores[:, truth], scores[:, ~truth]
    m, n = positive.shape[1], negative.shape[1]
    if m == 0 or n == 0:
        k = len(scores)
        return np.full(k, np.nan), np.full((k, k), np.nan)
    together = stats.rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    v10 = (together[:, :m] - stats.rankdata(positive, axis=1)) / n
    v01 = 1 - (together[:, m:] - stats.rankdata(negative, axis=1)) / m
    covariance = np.zeros((len(scores), len(scores)))
    if m > 1:
        covariance = covariance + np.atleast_2d(np.cov(v10)) / m
    if n > 1:
        covariance = covariance + np.atleast_2d(np.cov(v01)) / n
    if m == 1 or n == 1:
        covariance = np.full_like(covariance, np.nan)
    return v10.mean(axis=1), covariance


def _binary(labels: Sequence[int] | npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise UsageError("labels must be a list of 0 and 1")
    return array.astype(bool)


def _scores(scores: Floats, truth: npt.NDArray[np.bool_]) -> Floats:
    array = np.asarray(scores, dtype=float)
    if array.shape != truth.shape or not np.isfinite(array).all():
        raise UsageError(f"scores have shape {array.shape}, expected {truth.shape} without missing values")
    return array

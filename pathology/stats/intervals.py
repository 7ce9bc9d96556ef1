"""Intervals and tests: every metric the package prints has the number of patients and an interval.

Closed forms come from SciPy where available.  Methods implemented here (DeLong, the bootstrap by patient, reader
studies) cite their source and are tested against brute force, textbook values or SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import scipy
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["Interval", "PairedTest", "mcnemar", "mean_interval", "poisson_interval", "wilson"]

Floats = npt.NDArray[np.float64]


class Interval(Record):
    """A value with its confidence interval, sample size and interval method.

    ``low`` and ``high`` are NaN if no interval can be given (for a single patient, for example); the text says so.
    """

    value: float
    low: float
    high: float
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level, 0 to 1."""
    n: Annotated[int, Field(ge=0)]
    """Number of independent units (patients, slides, lesions) behind the value."""
    method: str
    """Interval method, such as ``Wilson`` or ``percentile bootstrap by patient (2000)``."""

    def __str__(self) -> str:
        """``0.82 (95 % CI 0.75-0.88, n = 108)``, without the method."""
        if not math.isfinite(self.low):
            return f"{self.value:.3g} (no interval, n = {self.n})"
        if self.low == self.high:
            return f"{self.value:.3g} (no interval: no resample differs, n = {self.n})"
        return f"{self.value:.3g} ({self.level:.0%} CI {self.low:.3g}-{self.high:.3g}, n = {self.n})".replace("%", " %")

    def __contains__(self, value: float) -> bool:
        """Whether ``value`` lies within the interval, including its limits."""
        return self.low <= value <= self.high


class PairedTest(Record):
    """A paired comparison on the same patients."""

    difference: Interval
    """First minus second."""
    statistic: float
    p: Annotated[float, Field(ge=0, le=1)]
    """Two-sided."""
    method: str


def wilson(successes: int, n: int, *, level: float = 0.95, continuity: bool = False) -> Interval:
    """Return a proportion with Wilson's score interval.

    Parameters
    ----------
    successes, n
        Counts, ``0 <= successes <= n``, ``n >= 1``.
    level
        Confidence level, 0 to 1.
    continuity
        Use the continuity correction (Newcombe 1998, Stat Med 17:857, method 4), as some papers report.

    Raises
    ------
    UsageError
        Invalid counts.

    Examples
    --------
    >>> print(wilson(18, 20))
    0.9 (95 % CI 0.699-0.972, n = 20)
    """
    _check_counts(successes, n)
    kind: Literal["wilson", "wilsoncc"] = "wilsoncc" if continuity else "wilson"
    ci = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(level, method=kind)
    method = "Wilson, continuity corrected" if continuity else "Wilson"
    return Interval(value=successes / n, low=float(ci.low), high=float(ci.high), level=level, n=n, method=method)


def poisson_interval(count: int, *, exposure: float = 1.0, level: float = 0.95) -> Interval:
    """Return a rate with Garwood's exact Poisson interval (Garwood 1936, Biometrika 28:437).

    Parameters
    ----------
    count
        Observed events (mitoses), at least 0.
    exposure
        Exposure (area in mm²), above 0; the rate is ``count / exposure``.
    level
        Confidence level, 0 to 1.

    Returns
    -------
    Interval
        ``n`` is the count.

    Raises
    ------
    UsageError
        A negative count or an exposure that is not positive.

    Examples
    --------
    >>> print(poisson_interval(12, exposure=1.734))
    6.92 (95 % CI 3.58-12.1, n = 12)
    """
    if count < 0 or not exposure > 0:
        raise UsageError(f"count {count} in an exposure of {exposure}: the count must be >= 0 and the exposure > 0")
    tail = (1 - level) / 2
    low = scipy.stats.chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    high = scipy.stats.chi2.ppf(1 - tail, 2 * count + 2) / 2
    return Interval(
        value=count / exposure,
        low=float(low) / exposure,
        high=float(high) / exposure,
        level=level,
        n=count,
        method="exact Poisson (Garwood)",
    )


def mean_interval(values: Sequence[float] | Floats, *, level: float = 0.95) -> Interval:
    """Return a mean with Student's t interval; the limits are NaN with fewer than two values.

    Parameters
    ----------
    values
        Independent measurements, one per unit (reader, patient).  Folds of one cross-validation share their training
        data and are not independent.
    level
        Confidence level, 0 to 1.

    Examples
    --------
    >>> print(mean_interval([0.71, 0.75, 0.68, 0.74]))
    0.72 (95 % CI 0.67-0.77, n = 4)
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise UsageError("the mean needs at least one value")
    mean = float(array.mean())
    if array.size < 2:
        return Interval(value=mean, low=np.nan, high=np.nan, level=level, n=array.size, method="t, needs two values")
    half = float(scipy.stats.t.ppf((1 + level) / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return Interval(value=mean, low=mean - half, high=mean + half, level=level, n=array.size, method="Student's t")


def mcnemar(
    first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], *, level: float = 0.95, exact: bool = True
) -> PairedTest:
    """Compare two accuracies on the same cases (McNemar 1947).

    Parameters
    ----------
    first, second
        Whether each case was correct, bool, shape (N,).
    level
        Confidence level, 0 to 1.
    exact
        Binomial test on the discordant cases; otherwise chi-squared with 1 degree of freedom, uncorrected.

    Returns
    -------
    PairedTest
        Difference of the proportions with Wald's interval for paired proportions (Agresti, Categorical Data Analysis,
        section 10.1.1); ``statistic`` is the smaller discordant count (exact) or chi-squared.

    Raises
    ------
    UsageError
        Lengths differ or there are no cases.

    Examples
    --------
    >>> first = np.array([True] * 18 + [False] * 2)
    >>> second = np.array([True] * 12 + [False] * 8)
    >>> round(mcnemar(first, second).p, 3)
    0.031
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise UsageError(f"answers have shapes {a.shape} and {b.shape}, expected two non-empty lists of equal length")
    n = a.size
    only_first, only_second = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_first + only_second
    difference = (only_first - only_second) / n
    half = float(scipy.stats.norm.ppf((1 + level) / 2)) * np.sqrt((discordant / n - difference**2) / n)
    if exact:
        statistic = float(min(only_first, only_second))
        p = float(scipy.stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    else:
        statistic = (only_first - only_second) ** 2 / discordant if discordant else 0.0
        p = float(scipy.stats.chi2.sf(statistic, 1))
    return PairedTest(
        difference=Interval(
            value=difference, low=difference - half, high=difference + half, level=level, n=n, method="Wald, paired"
        ),
        statistic=statistic,
        p=min(p, 1.0),
        method="McNemar, exact" if exact else "McNemar, chi-squared",
    )


def _check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(
            f"{successes} of {n} is not a proportion", remedy="Counts must satisfy 0 <= successes <= n and n >= 1"
        )

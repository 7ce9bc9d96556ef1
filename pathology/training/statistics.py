"""Intervals and tests: every figure the package prints carries the number of patients and an interval.

Closed forms come from SciPy where it has them.  What is written out here (DeLong, the bootstrap by patient, reader
studies) cites its source and is held against brute force, textbook values or SciPy in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import stats

from pathology.errors import UsageError
from pathology.settings import Settings

__all__ = [
    "DeLongTest",
    "Interval",
    "PairedTest",
    "ReaderStudy",
    "bootstrap",
    "clopper_pearson",
    "delong",
    "delong_test",
    "mcnemar",
    "mean_interval",
    "poisson_interval",
    "reader_study",
    "wilson",
]

Floats = npt.NDArray[np.float64]
Statistic = Callable[[npt.NDArray[np.int64]], float]


class Interval(Settings):
    """A figure with its confidence interval, the number behind it and how the interval was made.

    ``low`` and ``high`` are NaN where no interval can be given (one patient, say): that is said, not hidden.
    """

    value: float
    low: float
    high: float
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level, 0 to 1."""
    n: Annotated[int, Field(ge=0)]
    """How many independent units (patients, slides, lesions) the figure rests on."""
    method: str
    """How the interval was made, such as ``Wilson`` or ``percentile bootstrap by patient (2000)``."""

    def __str__(self) -> str:
        """``0.82 (95 % CI 0.75-0.88, n = 108)``; the method is kept in the record."""
        if not math.isfinite(self.low):
            return f"{self.value:.3g} (no interval, n = {self.n})"
        if self.low == self.high:
            return f"{self.value:.3g} (no interval: no resample differs, n = {self.n})"
        return f"{self.value:.3g} ({self.level:.0%} CI {self.low:.3g}-{self.high:.3g}, n = {self.n})".replace("%", " %")

    def __contains__(self, value: float) -> bool:
        """Whether ``value`` lies within the interval, its ends included."""
        return self.low <= value <= self.high


class PairedTest(Settings):
    """A comparison of two things measured on the same patients."""

    difference: Interval
    """First minus second."""
    statistic: float
    p: Annotated[float, Field(ge=0, le=1)]
    """Two-sided."""
    method: str


class DeLongTest(Settings):
    """Two areas under the curve on the same patients, compared."""

    first: Interval
    second: Interval
    difference: Interval
    """First minus second."""
    z: float
    p: Annotated[float, Field(ge=0, le=1)]
    """Two-sided."""


class ReaderStudy(Settings):
    """Readers' accuracy without and with aid on the same cases."""

    readers: int
    cases: int
    unaided: Interval
    """Mean accuracy over readers; the interval is for the mean of readers like these (t)."""
    unaided_sd: float
    """Standard deviation between readers: what papers print behind a plus-minus sign."""
    aided: Interval
    aided_sd: float
    gain: Interval
    """Aided minus unaided, bootstrapped over readers and cases: for other readers on other cases."""
    t_test: PairedTest
    """Paired t test over readers: for other readers on these cases."""
    wilcoxon_p: float
    """Wilcoxon signed-rank test over readers, exact where there are no ties; NaN where nobody changed."""
    by_reader: tuple[PairedTest, ...]
    """McNemar's exact test for each reader."""


def wilson(successes: int, n: int, *, level: float = 0.95, continuity: bool = False) -> Interval:
    """Return a share with Wilson's score interval.

    Parameters
    ----------
    successes, n
        Counts, ``0 <= successes <= n``, ``n >= 1``.
    level
        Confidence level, 0 to 1.
    continuity
        Use the continuity correction (Newcombe 1998, Stat Med 17:857, method 4), as some papers print.

    Raises
    ------
    UsageError
        Counts that cannot be.
    """
    _check_counts(successes, n)
    kind: Literal["wilson", "wilsoncc"] = "wilsoncc" if continuity else "wilson"
    ci = stats.binomtest(int(successes), int(n)).proportion_ci(level, method=kind)
    method = "Wilson, continuity corrected" if continuity else "Wilson"
    return Interval(value=successes / n, low=float(ci.low), high=float(ci.high), level=level, n=n, method=method)


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return a share with Clopper and Pearson's exact interval; parameters and errors as in :func:`wilson`."""
    _check_counts(successes, n)
    ci = stats.binomtest(int(successes), int(n)).proportion_ci(level, method="exact")
    return Interval(
        value=successes / n, low=float(ci.low), high=float(ci.high), level=level, n=n, method="Clopper-Pearson"
    )


def poisson_interval(count: int, *, exposure: float = 1.0, level: float = 0.95) -> Interval:
    """Return a rate with Garwood's exact Poisson interval (Garwood 1936, Biometrika 28:437).

    Parameters
    ----------
    count
        Events seen (mitoses), at least 0.
    exposure
        What they were seen in (mm²), above 0; the rate is ``count / exposure``.
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
    """
    if count < 0 or not exposure > 0:
        raise UsageError(
            f"count {count} in an exposure of {exposure}: the count must not be negative, the exposure > 0"
        )
    tail = (1 - level) / 2
    low = stats.chi2.ppf(tail, 2 * count) / 2 if count else 0.0
    high = stats.chi2.ppf(1 - tail, 2 * count + 2) / 2
    return Interval(
        value=count / exposure,
        low=float(low) / exposure,
        high=float(high) / exposure,
        level=level,
        n=count,
        method="exact Poisson (Garwood)",
    )


def mean_interval(values: Sequence[float] | Floats, *, level: float = 0.95) -> Interval:
    """Return a mean with Student's t interval; ends are NaN below two values.

    Parameters
    ----------
    values
        Independent measurements, one a unit (reader, patient).  Folds of one cross-validation share their training
        data and are not independent.
    level
        Confidence level, 0 to 1.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise UsageError("there are no values to take the mean of")
    mean = float(array.mean())
    if array.size < 2:
        return Interval(value=mean, low=np.nan, high=np.nan, level=level, n=array.size, method="t, needs two values")
    half = float(stats.t.ppf((1 + level) / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return Interval(value=mean, low=mean - half, high=mean + half, level=level, n=array.size, method="Student's t")


def bootstrap(
    statistic: Statistic,
    groups: Sequence[Hashable] | npt.NDArray[np.generic],
    *,
    strata: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    method: Literal["percentile", "bca"] = "percentile",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    unit: str = "patient",
) -> Interval:
    """Return a statistic with a bootstrap interval in which whole patients are drawn, never single rows.

    Parameters
    ----------
    statistic
        Function of row numbers (int64, with repeats) that returns the figure for those rows, such as
        ``lambda rows: roc_auc_score(y[rows], p[rows])``.  NaN, or a ``ValueError`` that is no usage error, marks a
        resample on which the figure does not exist (one class only); such resamples are left out and counted.
    groups
        Patient of each row, length N.
    strata
        Class of each row's patient: patients are then drawn within their class, so that rare classes stay.
    method
        ``percentile``, or ``bca``: bias-corrected and accelerated (Efron 1987, JASA 82:171), the acceleration by
        leaving out one patient at a time.
    resamples
        Number of resamples, at least 100.
    level
        Confidence level, 0 to 1.
    seed
        Decides the draws.
    unit
        What a group is, for the record.

    Returns
    -------
    Interval
        ``value`` is the statistic on all rows, ``n`` the number of patients.  Ends are NaN below two patients, and
        where more than half of the resamples do not have the figure.

    Raises
    ------
    UsageError
        Lengths differ, a patient lies in two strata, or too few resamples.
    """
    if resamples < 100:
        raise UsageError(f"{resamples} resamples cannot give an interval", remedy="Use at least 100, better 2000")
    names, owner = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    n = len(names)
    order = np.argsort(owner, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    pools = _pools(owner, n, strata)

    def figure(rows: npt.NDArray[np.int64]) -> float:
        try:
            return float(statistic(rows))
        except UsageError:
            raise
        except ValueError:
            return float("nan")

    value = figure(np.arange(len(owner)))
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for b in range(resamples):
        chosen = np.concatenate([rng.choice(pool, size=len(pool)) for pool in pools])
        draws[b] = figure(np.concatenate([members[g] for g in chosen]))
    draws = draws[np.isfinite(draws)]
    name = {"percentile": "percentile", "bca": "BCa"}[method]
    how = f"{name} bootstrap by {unit} ({len(draws)} of {resamples} resamples)"
    if strata is not None:
        how = f"stratified {how}"
    if n < 2 or len(draws) < resamples / 2 or not np.isfinite(value):
        return Interval(value=value, low=np.nan, high=np.nan, level=level, n=n, method=f"{how}, undefined")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        left_out = np.array([figure(np.concatenate(members[:g] + members[g + 1 :])) for g in range(n)])
        tails = _bca_tails(value, draws, left_out[np.isfinite(left_out)], tails)
    low, high = np.quantile(draws, tails)
    return Interval(value=value, low=float(low), high=float(high), level=level, n=n, method=how)


def _pools(
    owner: npt.NDArray[np.int64], n: int, strata: Sequence[Hashable] | npt.NDArray[np.generic] | None
) -> list[npt.NDArray[np.int64]]:
    if strata is None:
        return [np.arange(n)]
    stratum_of: dict[int, str] = {}
    if len(strata) != len(owner):
        raise UsageError(f"strata has {len(strata)} entries for {len(owner)} rows")
    for g, s in zip(owner.tolist(), strata, strict=True):
        if stratum_of.setdefault(g, str(s)) != str(s):
            raise UsageError("a patient lies in two strata", remedy="Give each patient one stratum")
    by_stratum: dict[str, list[int]] = {}
    for g in range(n):
        by_stratum.setdefault(stratum_of[g], []).append(g)
    return [np.asarray(by_stratum[s]) for s in sorted(by_stratum)]


def _bca_tails(value: float, draws: Floats, left_out: Floats, tails: Floats) -> Floats:
    # The share of draws below the value, half of the equal ones counted, shifts the tails (bias correction z0).
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    below = min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws))
    z0 = stats.norm.ppf(below)
    deviation = left_out.mean() - left_out
    spread = np.sum(deviation**2) ** 1.5
    acceleration = np.sum(deviation**3) / (6 * spread) if spread > 0 else 0.0
    z = z0 + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(z0 + z / (1 - acceleration * z)), dtype=float)


def delong(labels: Sequence[int] | npt.NDArray[np.generic], scores: Floats, *, level: float = 0.95) -> Interval:
    """Return the area under the ROC curve with DeLong's interval (DeLong 1988, Biometrics 44:837).

    Parameters
    ----------
    labels
        0 or 1, one a patient (DeLong's variance takes rows as independent: tiles of one patient are not).
    scores
        Higher means more likely 1, shape (N,).
    level
        Confidence level, 0 to 1.

    Returns
    -------
    Interval
        The area, with a normal interval cut to 0..1.  With perfect separation the variance is 0 and the interval a
        point; the method says so.  NaN where one class is absent.

    Raises
    ------
    UsageError
        Labels other than 0 and 1, or lengths that differ.
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
        0 or 1, one a patient.
    first, second
        Scores of the two models, shape (N,).
    level
        Confidence level, 0 to 1.

    Raises
    ------
    UsageError
        Labels other than 0 and 1, or lengths that differ.
    """
    truth = _binary(labels)
    area, covariance = _placements(truth, np.stack([_scores(first, truth), _scores(second, truth)]))
    difference = float(area[0] - area[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    sd = np.sqrt(max(variance, 0.0))
    # Equal scores have difference and variance 0: no evidence of a difference, not an undefined one.
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


def mcnemar(
    first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], *, level: float = 0.95, exact: bool = True
) -> PairedTest:
    """Compare two shares of right answers on the same cases (McNemar 1947).

    Parameters
    ----------
    first, second
        Whether each case was right, bool, shape (N,).
    level
        Confidence level, 0 to 1.
    exact
        Binomial test on the discordant cases; otherwise chi-squared with 1 degree of freedom, uncorrected.

    Returns
    -------
    PairedTest
        Difference of the shares with Wald's interval for paired shares (Agresti, Categorical Data Analysis,
        section 10.1.1); ``statistic`` is the smaller discordant count (exact) or chi-squared.

    Raises
    ------
    UsageError
        Lengths differ or there are no cases.
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise UsageError(f"answers have shapes {a.shape} and {b.shape}, expected two equal lists that are not empty")
    n = a.size
    only_first, only_second = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_first + only_second
    difference = (only_first - only_second) / n
    half = float(stats.norm.ppf((1 + level) / 2)) * np.sqrt((discordant / n - difference**2) / n)
    if exact:
        statistic = float(min(only_first, only_second))
        p = float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    else:
        statistic = (only_first - only_second) ** 2 / discordant if discordant else 0.0
        p = float(stats.chi2.sf(statistic, 1))
    return PairedTest(
        difference=Interval(
            value=difference, low=difference - half, high=difference + half, level=level, n=n, method="Wald, paired"
        ),
        statistic=statistic,
        p=min(p, 1.0),
        method="McNemar, exact" if exact else "McNemar, chi-squared",
    )


def reader_study(
    unaided: npt.NDArray[np.generic],
    aided: npt.NDArray[np.generic],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ReaderStudy:
    """Compare readers' accuracy without and with aid, each reader reading every case both ways.

    Parameters
    ----------
    unaided, aided
        Whether each answer was right, bool, shape (R readers, C cases).
    level
        Confidence level, 0 to 1.
    resamples, seed
        Of the bootstrap over readers and cases.

    Raises
    ------
    UsageError
        Shapes differ, or fewer than two readers or cases.
    """
    before, after = np.asarray(unaided, dtype=bool), np.asarray(aided, dtype=bool)
    if before.shape != after.shape or before.ndim != 2 or min(before.shape) < 2:
        raise UsageError(
            f"answers have shapes {before.shape} and {after.shape}, expected (readers, cases), 2 or more each"
        )
    readers, cases = before.shape
    accuracy_before, accuracy_after = before.mean(axis=1), after.mean(axis=1)
    gain = accuracy_after - accuracy_before
    change = after.astype(float) - before.astype(float)
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            change[np.ix_(rng.integers(readers, size=readers), rng.integers(cases, size=cases))].mean()
            for _ in range(resamples)
        ]
    )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    mean_gain = mean_interval(gain, level=level)
    spread = gain.std(ddof=1)
    t = float(gain.mean() / (spread / np.sqrt(readers))) if spread > 0 else (0.0 if gain.mean() == 0 else float("inf"))
    return ReaderStudy(
        readers=readers,
        cases=cases,
        unaided=mean_interval(accuracy_before, level=level),
        unaided_sd=float(accuracy_before.std(ddof=1)),
        aided=mean_interval(accuracy_after, level=level),
        aided_sd=float(accuracy_after.std(ddof=1)),
        gain=Interval(
            value=float(gain.mean()),
            low=float(low),
            high=float(high),
            level=level,
            n=cases,
            method=f"percentile bootstrap over {readers} readers and {cases} cases ({resamples})",
        ),
        t_test=PairedTest(
            difference=mean_gain,
            statistic=t,
            p=float(2 * stats.t.sf(abs(t), readers - 1)),
            method="paired t over readers",
        ),
        wilcoxon_p=float(stats.wilcoxon(gain).pvalue) if np.any(gain != 0) else float("nan"),
        by_reader=tuple(mcnemar(after[r], before[r], level=level) for r in range(readers)),
    )


def _check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise UsageError(f"{successes} of {n} is no share", remedy="Counts must satisfy 0 <= successes <= n and n >= 1")


def _binary(labels: Sequence[int] | npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    array = np.asarray(labels)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise UsageError("labels must be a list of 0 and 1")
    return array.astype(bool)


def _scores(scores: Floats, truth: npt.NDArray[np.bool_]) -> Floats:
    array = np.asarray(scores, dtype=float)
    if array.shape != truth.shape or not np.isfinite(array).all():
        raise UsageError(f"scores have shape {array.shape}, expected {truth.shape}, all of them numbers")
    return array

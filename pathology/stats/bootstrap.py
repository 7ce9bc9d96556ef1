"""Bootstrap intervals by patient: bias-corrected and accelerated, or percentile."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from pathology.errors import UsageError
from pathology.stats.intervals import Floats, Interval

__all__ = ["Statistic", "bootstrap"]


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
    """Return a statistic with a bootstrap interval that resamples whole patients, never single rows.

    Parameters
    ----------
    statistic
        Function of row numbers (int64, with repeats) that returns the statistic for those rows, such as
        ``lambda rows: roc_auc_score(y[rows], p[rows])``.  NaN, or a ``ValueError`` other than a usage error, marks a
        resample on which the statistic is undefined (one class only); such resamples are excluded and counted.
    groups
        Patient of each row, length N.
    strata
        Class of each row's patient: patients are then resampled within their class, so that rare classes are kept.
    method
        ``percentile``, or ``bca``: bias-corrected and accelerated (Efron 1987, JASA 82:171), with the acceleration
        from a jackknife over patients.
    resamples
        Number of resamples, at least 100.
    level
        Confidence level, 0 to 1.
    seed
        Random seed.
    unit
        What a group is, for the record.

    Returns
    -------
    Interval
        ``value`` is the statistic on all rows, ``n`` the number of patients.  The limits are NaN with fewer than two
        patients, or if the statistic is undefined on more than half of the resamples.

    Raises
    ------
    UsageError
        Lengths differ, a patient is in two strata, or there are too few resamples.

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    >>> patients = ["P1", "P1", "P2", "P2", "P3", "P3"]
    >>> print(bootstrap(lambda rows: float(values[rows].mean()), patients))
    3.5 (95 % CI 1.5-5.5, n = 3)
    """
    if resamples < 100:
        raise UsageError(f"{resamples} resamples are too few for an interval", remedy="Use at least 100, better 2000")
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
        jackknife = np.array([figure(np.concatenate(members[:g] + members[g + 1 :])) for g in range(n)])
        tails = _bca_tails(value, draws, jackknife[np.isfinite(jackknife)], tails)
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
            raise UsageError("a patient is in two strata", remedy="Assign each patient to one stratum")
    by_stratum: dict[str, list[int]] = {}
    for g in range(n):
        by_stratum.setdefault(stratum_of[g], []).append(g)
    return [np.asarray(by_stratum[s]) for s in sorted(by_stratum)]


def _bca_tails(value: float, draws: Floats, jackknife: Floats, tails: Floats) -> Floats:
    # The fraction of draws below the value, counting ties half, shifts the tails (bias correction z0).
    below = (np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    below = min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws))
    z0 = stats.norm.ppf(below)
    deviation = jackknife.mean() - jackknife
    spread = np.sum(deviation**2) ** 1.5
    acceleration = np.sum(deviation**3) / (6 * spread) if spread > 0 else 0.0
    z = z0 + stats.norm.ppf(tails)
    return np.asarray(stats.norm.cdf(z0 + z / (1 - acceleration * z)), dtype=float)


Statistic = Callable[[npt.NDArray[np.int64]], float]

"""Readers with and without a model on the same cases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.intervals import Interval, PairedTest, mcnemar, mean_interval

__all__ = ["ReaderStudy", "reader_study"]


class ReaderStudy(Record):
    """Readers' accuracy without and with aid on the same cases."""

    readers: int
    cases: int
    unaided: Interval
    """Mean accuracy over readers; the t interval generalises to readers like these."""
    unaided_sd: float
    """Standard deviation between readers, the value papers report after ±."""
    aided: Interval
    aided_sd: float
    gain: Interval
    """Aided minus unaided, bootstrapped over readers and cases: generalises to other readers and other cases."""
    t_test: PairedTest
    """Paired t test over readers: generalises to other readers on these cases."""
    wilcoxon_p: float
    """Wilcoxon signed-rank test over readers, exact without ties; NaN if no reader changed."""
    by_reader: tuple[PairedTest, ...]
    """McNemar's exact test for each reader."""


def reader_study(
    unaided: npt.NDArray[np.generic],
    aided: npt.NDArray[np.generic],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ReaderStudy:
    """Compare readers' accuracy without and with aid; each reader reads every case both ways.

    Parameters
    ----------
    unaided, aided
        Whether each answer was correct, bool, shape (R readers, C cases).
    level
        Confidence level, 0 to 1.
    resamples, seed
        Settings of the bootstrap over readers and cases.

    Raises
    ------
    UsageError
        Shapes differ, or fewer than two readers or cases.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> unaided, aided = rng.random((4, 30)) < 0.7, rng.random((4, 30)) < 0.9
    >>> study = reader_study(unaided, aided, resamples=200)
    >>> study.gain.value > 0
    True
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

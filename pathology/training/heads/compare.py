"""Compare heads on the same held-out patients: paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval
from pathology.training.common.card_metrics import auc_by_fold
from pathology.training.heads.crossvalidate import HeldOut
from pathology.training.heads.data import HeadData
from pathology.training.heads.settings import HEADS

__all__ = ["Difference", "area", "choose_head", "differences"]


class Difference(Record):
    """Mean AUC of one head minus that of another, on the same patients."""

    first: str
    second: str
    difference: Interval
    """Positive if ``first`` is better.  Its level is raised for the number of pairs compared (Bonferroni)."""

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval excludes 0."""
        return self.difference.low > 0 or self.difference.high < 0

    def __str__(self) -> str:
        verdict = "beyond chance" if self.beyond_chance else "not told apart by these patients"
        return f"{self.first} - {self.second}: {self.difference} ({verdict})"


def area(data: HeadData, held: HeldOut, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """Return the mean one-vs-rest AUC within the outer folds; patients are resampled within their class."""
    return bootstrap(
        auc_by_fold(data.labels, held.probabilities, held.fold),
        data.patients,
        strata=data.labels,
        resamples=resamples,
        seed=seed,
    )


def differences(
    data: HeadData, held: Mapping[str, HeldOut], *, resamples: int = 1000, seed: int = 0
) -> tuple[Difference, ...]:
    """Return the paired difference of every two heads.

    Parameters
    ----------
    data
        All rows.
    held
        Predictions by head, on the same outer folds.
    resamples, seed
        Of the bootstrap over patients, which uses the same patients for both heads.
    """
    pairs = list(combinations(held, 2))
    figures = {name: auc_by_fold(data.labels, found.probabilities, found.fold) for name, found in held.items()}

    def compared(first: str, second: str) -> Interval:
        def figure(rows: NDArray[np.int64]) -> float:
            return figures[first](rows) - figures[second](rows)

        return bootstrap(
            figure,
            data.patients,
            strata=data.labels,
            resamples=resamples,
            level=1 - 0.05 / len(pairs),
            seed=seed,
        )

    return tuple(Difference(first=a, second=b, difference=compared(a, b)) for a, b in pairs)


def choose_head(found: tuple[Difference, ...]) -> str:
    """Return the simplest head than which no other is better beyond chance.

    Examples
    --------
    >>> choose_head(())
    'mean'
    """
    worse = {d.second if d.difference.value > 0 else d.first for d in found if d.beyond_chance}
    return next(name for name in HEADS if name not in worse)

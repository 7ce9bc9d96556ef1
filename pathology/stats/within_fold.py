"""Predictions from repeated cross-validation, and an unbiased area under their ROC curve.

Predictions of different folds must not be compared with each other.  A fold whose test set happens to contain more
events leaves fewer for training, so its model predicts lower: pooled over folds, an uninformative model scores *below*
0.5, the more so the fewer patients there are.  Therefore only patients of the same fold are compared, and the
cross-validation is repeated so that every pair of patients shares a fold.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval

__all__ = ["NestedPredictions", "within_fold_area"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class NestedPredictions:
    """Predictions by models that never saw the rows' patients.

    Attributes
    ----------
    values
        Shape (R, N): by repeat and row; higher means class 1.
    fold
        Shape (R, N): number of the fold each row was tested in.
    """

    values: Floats
    fold: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.values.shape != self.fold.shape or self.values.ndim != 2:
            raise UsageError(f"values have shape {self.values.shape}, folds {self.fold.shape}; expected equal shapes")

    @property
    def mean(self) -> Floats:
        """Mean over repeats, shape (N,)."""
        return np.asarray(self.values.mean(axis=0), float)


def within_fold_area(
    labels: NDArray[np.integer],
    predictions: NestedPredictions,
    patients: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the area under the ROC curve over pairs of rows tested in the same fold of the same repeat.

    Parameters
    ----------
    labels
        0 or 1, length N.
    predictions
        Predictions of the N rows.
    patients
        Patient of each row; whole patients are resampled for the interval.
    resamples, seed
        Settings of the bootstrap.

    Raises
    ------
    UsageError
        If no two rows of different classes share a fold.
    """
    truth = np.asarray(labels)
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    right = np.zeros((len(positive), len(negative)))
    pairs = np.zeros_like(right)
    for values, fold in zip(predictions.values, predictions.fold, strict=True):
        together = fold[positive][:, None] == fold[negative]
        difference = values[positive][:, None] - values[negative]
        right += together * ((difference > 0) + 0.5 * (difference == 0))
        pairs += together
    if not pairs.any():
        raise UsageError("no two rows of different classes share a fold", remedy="Use fewer folds or more repeats")

    def area(rows: NDArray[np.int64]) -> float:
        weight = np.bincount(rows, minlength=len(truth)).astype(float)
        both = np.outer(weight[positive], weight[negative])
        total = float((both * pairs).sum())
        return float((both * right).sum()) / total if total > 0 else float("nan")

    return bootstrap(area, patients, strata=truth, resamples=resamples, seed=seed)

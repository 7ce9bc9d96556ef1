"""Prediction sets and out-of-distribution limit of a head, from predictions for held-out patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.card import Trust
from pathology.stats.conformal import fit_conformal
from pathology.stats.out_of_distribution import FeatureDomain, fit_domain, fit_limit, slide_score
from pathology.stats.splits import NestedFold
from pathology.training.heads.crossvalidate import HeldOut
from pathology.training.heads.data import HeadData

__all__ = ["feature_domain", "fit_head_trust"]

_DOMAIN_PATCHES = 4000
_NOTE = (
    "Fitted on predictions of the outer folds, each for patients its head was not trained on; the bundle's head is"
    " trained on all of them, so that the rates are close to the stated ones but not guaranteed."
)


def feature_domain(data: HeadData, rows: NDArray[np.int64]) -> FeatureDomain:
    """Fit the distribution of patch features on some rows, the same number of patches of each."""
    each = max(2, _DOMAIN_PATCHES // len(rows))
    parts = []
    for row in rows:
        bag = data.bags[row]
        parts.append(bag[np.linspace(0, len(bag) - 1, min(len(bag), each)).round().astype(np.int64)])
    labels = np.repeat(data.labels[rows], [len(part) for part in parts])
    return fit_domain(np.concatenate(parts).astype(np.float64), labels)


def fit_head_trust(data: HeadData, held: HeldOut, folds: Sequence[NestedFold], *, seed: int) -> Trust:
    """Fit the rules.

    Parameters
    ----------
    data
        All rows.
    held
        Predictions of the outer folds.
    folds
        The outer folds: the distribution is fitted on each training part and the held-out slides scored with it.
    seed
        Seed of the draw of one row per patient.
    """
    scores = np.zeros(len(data))
    for fold in folds:
        domain = feature_domain(data, fold.outer.train)
        for row in fold.outer.test:
            scores[row] = slide_score(domain.scores(data.bags[row].astype(np.float64)))
    return Trust(
        conformal=fit_conformal(
            held.probabilities, data.labels, patients=data.patients, data="held-out patients", seed=seed
        ),
        out_of_domain=fit_limit(
            scores, features=data.means.shape[1], patients=data.patients, data="held-out patients", seed=seed
        ),
        note=_NOTE,
    )

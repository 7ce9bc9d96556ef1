"""Aggregation of patch class probabilities to slide probabilities and areas.

Every rule takes ``(N, C)`` probabilities, ignores rows of NaN, and returns ``(C,)`` values that sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.errors import NoTissueError, UsageError
from pathology.settings import GridSettings

__all__ = [
    "RULES",
    "SlideAggregate",
    "aggregate",
    "average_probability",
    "majority_vote",
    "share_of_selected",
    "top_patches",
]

Floats = NDArray[np.float64]


def average_probability(probabilities: NDArray[np.floating]) -> Floats:
    """Return the mean over patches: DeepPATH's "average probability" (Coudray et al. 2018, Nat Med 24:1559)."""
    return np.asarray(_known(probabilities).mean(axis=0))


def share_of_selected(probabilities: NDArray[np.floating], threshold: float | None = None) -> Floats:
    """Return each class's share of the selected patches: DeepPATH's "percentage of selected tiles".

    Parameters
    ----------
    probabilities
        ``(N, C)``.
    threshold
        A patch is selected for every class whose probability reaches it; ``None``: for its most probable class.

    Returns
    -------
    numpy.ndarray
        ``(C,)``; equal shares, the uninformative result, if no patch is selected for any class.
    """
    known = _known(probabilities)
    if threshold is None:
        selected = np.eye(known.shape[1])[known.argmax(axis=1)].sum(axis=0)
    else:
        selected = (known >= threshold).sum(axis=0).astype(np.float64)
    total = selected.sum()
    return np.asarray(selected / total if total else np.full(known.shape[1], 1 / known.shape[1]))


def majority_vote(probabilities: NDArray[np.floating]) -> Floats:
    """Return 1 for the class predicted in most patches, ties resolved by mean probability, and 0 for the others."""
    known = _known(probabilities)
    votes = share_of_selected(known)
    # The mean probability is at most 1 and only breaks ties: one vote in a million patches weighs more.
    winner = int(np.argmax(votes + known.mean(axis=0) * 1e-9))
    result: Floats = np.eye(known.shape[1])[winner]
    return result


def top_patches(probabilities: NDArray[np.floating], k: int = 10) -> Floats:
    """Return each class's mean of its ``k`` highest probabilities, normalised to sum to 1 over the classes.

    Parameters
    ----------
    probabilities
        ``(N, C)``; with fewer than ``k`` patches, all are used.
    k
        At least 1.
    """
    if k < 1:
        raise UsageError(f"k is {k}; it must be at least 1")
    known = _known(probabilities)
    highest = -np.sort(-known, axis=0)[:k].mean(axis=0)
    return np.asarray(highest / highest.sum())


RULES: Final[dict[str, Callable[[NDArray[np.floating]], Floats]]] = {
    "mean": average_probability,
    "share": share_of_selected,
    "majority": majority_vote,
    "top": top_patches,
}
"""The rules, by the names used on cards and in reports."""


def _known(probabilities: NDArray[np.floating]) -> Floats:
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2:
        raise UsageError(f"probabilities have shape {values.shape}, expected (N, C)")
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        raise NoTissueError("no patch has probabilities")
    return values


@dataclass(frozen=True, slots=True)
class SlideAggregate:
    """Slide-level findings of a classifier.

    Attributes
    ----------
    probabilities
        ``(C,)`` class probabilities: the mean over the patches scored, or another aggregator's.
    shares
        ``(C,)`` share of the scored tissue area in which this is the predicted class; sums to 1.
    areas_mm2
        ``(C,)`` those areas in mm².
    scored
        Number of patches scored.
    masked
        Number of patches excluded because their pixels or probabilities are missing.
    """

    probabilities: NDArray[np.float64]
    shares: NDArray[np.float64]
    areas_mm2: NDArray[np.float64]
    scored: int
    masked: int

    @property
    def predicted(self) -> int:
        """Index of the class with the highest slide probability (the first if tied)."""
        return int(self.probabilities.argmax())


def aggregate(
    probabilities: NDArray[np.float32],
    tissue: NDArray[np.float32],
    settings: GridSettings,
    slide_probabilities: NDArray[np.floating] | None = None,
) -> SlideAggregate:
    """Aggregate patches by mean probability and by tissue area.

    The mean over patches is unweighted ("average probability" of DeepPATH, Coudray et al. 2018).  For areas, a patch
    represents one grid cell (``stride`` squared, at most ``patch`` squared, at the target mpp) times its tissue
    fraction, so that overlapping patches do not count tissue twice.

    Parameters
    ----------
    probabilities
        ``(N, C)`` float32; rows of NaN are patches that could not be read.
    tissue
        ``(N,)`` tissue fraction of each patch, 0 to 1.
    settings
        The grid the patches lie on.
    slide_probabilities
        ``(C,)`` from another aggregator, instead of the mean.

    Raises
    ------
    NoTissueError
        If no patch has probabilities.

    Examples
    --------
    >>> from pathology.settings import GridSettings
    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], np.float32)
    >>> answer = aggregate(probabilities, np.ones(3, np.float32), GridSettings())
    >>> answer.probabilities.round(2).tolist()
    [0.67, 0.33]
    """
    readable = np.asarray(~np.isnan(probabilities).any(axis=1))
    if not readable.any():
        raise NoTissueError(
            "no patch could be scored" if len(readable) else "no patch contains enough tissue",
            remedy="Inspect the slide; lower --min-tissue if it contains tissue",
        )
    kept = probabilities[readable].astype(np.float64)
    cell_mm2 = (min(settings.stride, settings.patch) * settings.mpp / 1000) ** 2
    weights = tissue[readable].astype(np.float64) * cell_mm2
    predicted = kept.argmax(axis=1)
    areas = np.bincount(predicted, weights=weights, minlength=kept.shape[1]).astype(np.float64)
    total = areas.sum()
    # If no patch contains tissue (a grid that keeps patches without any), patches are counted instead.
    votes = areas if total > 0 else np.bincount(predicted, minlength=kept.shape[1]).astype(np.float64)
    of_slide = kept.mean(axis=0) if slide_probabilities is None else np.asarray(slide_probabilities, np.float64)
    return SlideAggregate(of_slide, votes / votes.sum(), areas, int(readable.sum()), int((~readable).sum()))

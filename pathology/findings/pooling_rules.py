"""Rules that turn the class probabilities of patches into those of a slide.

Every rule takes ``(N, C)`` probabilities, rows of NaN left out, and gives ``(C,)`` numbers that sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.errors import NoTissueError, UsageError

__all__ = ["RULES", "average_probability", "majority_vote", "share_of_selected", "top_patches"]

Floats = NDArray[np.float64]


def average_probability(probabilities: NDArray[np.floating]) -> Floats:
    """Return the mean over patches: DeepPATH's "average probability" (Coudray et al. 2018, Nat Med 24:1559)."""
    return np.asarray(_known(probabilities).mean(axis=0))


def share_of_selected(probabilities: NDArray[np.floating], threshold: float | None = None) -> Floats:
    """Return the share of the selected patches that each class has: DeepPATH's "percentage of selected tiles".

    Parameters
    ----------
    probabilities
        ``(N, C)``.
    threshold
        A patch is selected for every class whose probability reaches it; ``None``: for its leading class.

    Returns
    -------
    numpy.ndarray
        ``(C,)``; equal shares where no patch is selected for any class, which says that nothing is known.
    """
    known = _known(probabilities)
    if threshold is None:
        selected = np.eye(known.shape[1])[known.argmax(axis=1)].sum(axis=0)
    else:
        selected = (known >= threshold).sum(axis=0).astype(np.float64)
    total = selected.sum()
    return np.asarray(selected / total if total else np.full(known.shape[1], 1 / known.shape[1]))


def majority_vote(probabilities: NDArray[np.floating]) -> Floats:
    """Return 1 for the class that leads in most patches, the surer of equals first, and 0 for the others."""
    known = _known(probabilities)
    votes = share_of_selected(known)
    # A mean probability is at most 1 and breaks ties only: one vote in a million patches weighs more.
    winner = int(np.argmax(votes + known.mean(axis=0) * 1e-9))
    result: Floats = np.eye(known.shape[1])[winner]
    return result


def top_patches(probabilities: NDArray[np.floating], k: int = 10) -> Floats:
    """Return for each class the mean of its ``k`` highest probabilities, divided by their sum over the classes.

    Parameters
    ----------
    probabilities
        ``(N, C)``; with fewer than ``k`` patches all are taken.
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
"""By the names used on cards and in reports."""


def _known(probabilities: NDArray[np.floating]) -> Floats:
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2:
        raise UsageError(f"probabilities have shape {values.shape}, expected (N, C)")
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        raise NoTissueError("no patch has probabilities")
    return values

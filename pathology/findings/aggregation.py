"""From patch probabilities to what is said of a slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.errors import NoTissueError
from pathology.settings import GridSettings

__all__ = ["SlideAggregate", "aggregate"]


@dataclass(frozen=True, slots=True)
class SlideAggregate:
    """Slide-level findings of a classifier.

    Attributes
    ----------
    probabilities
        ``(C,)`` class probabilities: the mean over the patches scored, or another aggregator's.
    shares
        ``(C,)`` share of the scored tissue area whose leading class this is; sums to 1.
    areas_mm2
        ``(C,)`` those areas in mm².
    scored
        Patches that count.
    masked
        Patches left out because their pixels or probabilities are missing.
    """

    probabilities: NDArray[np.float64]
    shares: NDArray[np.float64]
    areas_mm2: NDArray[np.float64]
    scored: int
    masked: int

    @property
    def leading(self) -> int:
        """Index of the class with the highest mean probability (the first of equals)."""
        return int(self.probabilities.argmax())


def aggregate(
    probabilities: NDArray[np.float32],
    tissue: NDArray[np.float32],
    settings: GridSettings,
    slide_probabilities: NDArray[np.floating] | None = None,
) -> SlideAggregate:
    """Aggregate patches by mean probability and by tissue area.

    The mean is the plain one over patches ("average probability" of DeepPATH, Coudray et al. 2018).  For areas a
    patch stands for one grid cell (``stride`` squared, at most ``patch`` squared, at the target mpp) times its
    tissue share, so that overlapping patches count no tissue twice.

    Parameters
    ----------
    probabilities
        ``(N, C)`` float32; rows of NaN are patches that could not be read.
    tissue
        ``(N,)`` tissue share of each patch, 0 to 1.
    settings
        The grid the patches lie on.
    slide_probabilities
        ``(C,)`` of another aggregator, in place of the mean.

    Raises
    ------
    NoTissueError
        If no patch has probabilities.
    """
    readable = np.asarray(~np.isnan(probabilities).any(axis=1))
    if not readable.any():
        raise NoTissueError(
            "no patch could be scored" if len(readable) else "no patch holds enough tissue",
            remedy="Look at the slide; lower --min-tissue if it holds tissue",
        )
    kept = probabilities[readable].astype(np.float64)
    cell_mm2 = (min(settings.stride, settings.patch) * settings.mpp / 1000) ** 2
    weights = tissue[readable].astype(np.float64) * cell_mm2
    leading = kept.argmax(axis=1)
    areas = np.bincount(leading, weights=weights, minlength=kept.shape[1]).astype(np.float64)
    total = areas.sum()
    # Without any tissue weight (a grid that keeps bare patches) the patches themselves are counted.
    votes = areas if total > 0 else np.bincount(leading, minlength=kept.shape[1]).astype(np.float64)
    of_slide = kept.mean(axis=0) if slide_probabilities is None else np.asarray(slide_probabilities, np.float64)
    return SlideAggregate(of_slide, votes / votes.sum(), areas, int(readable.sum()), int((~readable).sum()))

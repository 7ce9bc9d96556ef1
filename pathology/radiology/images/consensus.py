"""Confidence maps from several contours of one tumour (Marin et al. 2022, arXiv 2110.04721).

Where readers draw the same tumour several times, the share of contours that include a voxel is the confidence that it
belongs to the tumour.  A network learns this map instead of one reader's outline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pathology.errors import UsageError
from pathology.radiology.io.geometry import check_same_geometry
from pathology.radiology.io.volume import Mask, Volume

__all__ = ["confidence_map", "contour_at"]


def confidence_map(contours: Sequence[Mask]) -> Volume:
    """Return, for every voxel, the share of contours that include it.

    Parameters
    ----------
    contours
        Contours of one tumour by several readers or in repeated sessions; a single contour gives a binary map.

    Raises
    ------
    UsageError
        If there is none.
    GeometryError
        If they do not lie on the same grid.
    """
    if not contours:
        raise UsageError("a confidence map requires at least one contour")
    total = np.zeros(contours[0].array.shape, np.float32)
    for number, contour in enumerate(contours, start=1):
        check_same_geometry(contours[0].geometry, contour.geometry, names=("contour 1", f"contour {number}"))
        total += contour.array
    return Volume((total / len(contours)).astype(np.float32), contours[0].geometry, name="confidence")


def contour_at(confidence: Volume, threshold: float = 0.5) -> Mask:
    """Threshold a confidence map."""
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold: expected a value in (0, 1], got {threshold}")
    return Mask(confidence.array >= threshold, confidence.geometry, "tumour")

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
        Contours of one tumour by several readers or at several trials; one contour gives a map of 0 and 1.

    Raises
    ------
    UsageError
        If there is none.
    GeometryError
        If they do not lie on the same grid.
    """
    if not contours:
        raise UsageError("a confidence map needs at least one contour")
    total = np.zeros(contours[0].array.shape, np.float32)
    for number, contour in enumerate(contours, start=1):
        check_same_geometry(contours[0].geometry, contour.geometry, names=("contour 1", f"contour {number}"))
        total += contour.array
    return Volume((total / len(contours)).astype(np.float32), contours[0].geometry, name="confidence")


def contour_at(confidence: Volume, threshold: float = 0.5) -> Mask:
    """Cut a confidence map: voxels with at least the given confidence."""
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold: expected a confidence above 0 and up to 1, got {threshold}")
    return Mask(confidence.array >= threshold, confidence.geometry, "tumour")

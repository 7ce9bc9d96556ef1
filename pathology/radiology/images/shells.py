"""Peritumoural shells, in millimetres.

Peritumoural tissue carries additional information (Holbrook et al. 2020 added a peritumoural shell).  Widths
are physical distances: with thick slices a 5 mm shell spans five voxels in plane and one or two across slices.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pathology.errors import UsageError
from pathology.radiology.io.errors import EmptyMaskError
from pathology.radiology.io.volume import Mask

__all__ = ["dilate", "peritumoural_shell"]


def dilate(mask: Mask, distance_mm: float) -> Mask:
    """Dilate a mask: voxels whose centre lies within ``distance_mm`` of the centre of a mask voxel.

    A negative distance erodes the mask by the same rule.

    Raises
    ------
    EmptyMaskError
        If the mask or the result is empty.
    """
    if not mask.array.any():
        raise EmptyMaskError(f"the mask '{mask.name}' is empty")
    sampling = mask.geometry.array_spacing
    if distance_mm >= 0:
        grown = ndimage.distance_transform_edt(~mask.array, sampling=sampling) <= distance_mm
    else:
        grown = ndimage.distance_transform_edt(mask.array, sampling=sampling) > -distance_mm
        if not grown.any():
            raise EmptyMaskError(f"'{mask.name}' is empty after erosion by {-distance_mm:g} mm")
    return Mask(grown, mask.geometry, mask.name)


def peritumoural_shell(tumour: Mask, width_mm: float, *, gap_mm: float = 0.0, within: Mask | None = None) -> Mask:
    """Return the tissue between ``gap_mm`` and ``gap_mm + width_mm`` from the tumour.

    Parameters
    ----------
    tumour
        The tumour's mask.
    width_mm
        Width of the shell.
    gap_mm
        Excluded rim, for instance because of partial volume effects.
    within
        Region that limits the shell, such as the body; ``None``: no limit.

    Raises
    ------
    UsageError
        If the width is not positive or the gap negative.
    EmptyMaskError
        If no voxel lies in the shell.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> _, tumour = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> shell = peritumoural_shell(tumour, 2.0)
    >>> bool((shell.array & tumour.array).any())
    False
    """
    if width_mm <= 0 or gap_mm < 0:
        raise UsageError(f"a shell of {width_mm:g} mm at {gap_mm:g} mm has no extent")
    distance = ndimage.distance_transform_edt(~tumour.array, sampling=tumour.geometry.array_spacing)
    shell = (distance > gap_mm) & (distance <= gap_mm + width_mm) & ~tumour.array
    if within is not None:
        shell &= within.array
    if not np.any(shell):
        raise EmptyMaskError(f"no voxel lies {gap_mm:g} to {gap_mm + width_mm:g} mm from '{tumour.name}'")
    return Mask(shell, tumour.geometry, f"shell-{gap_mm:g}-{gap_mm + width_mm:g}mm")

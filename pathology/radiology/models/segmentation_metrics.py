"""Segmentation metrics: overlap and surface distances.

Definitions follow MONAI, and are tested against it: a surface consists of the mask voxels that an
erosion by the 6-neighbourhood removes; distances run between voxel centres, in mm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathology.errors import UsageError
from pathology.radiology.io.geometry import check_same_geometry
from pathology.radiology.io.volume import Mask
from pathology.settings import Record

__all__ = ["Agreement", "continuous_dice", "dice", "segmentation_agreement", "soft_dice", "surface_distances"]


class Agreement(Record):
    """One segmentation against its reference."""

    dice: float
    """Dice coefficient, 0 to 1."""
    hausdorff_mm: float
    """Greatest distance from a surface to the other, mm; infinite where one mask is empty."""
    hausdorff95_mm: float
    """95th percentile of each directed distance, the greater of the two, mm."""
    average_surface_mm: float
    """Average symmetric surface distance, mm."""
    volume_mm3: float
    """Volume of the segmentation."""
    reference_mm3: float
    """Volume of the reference."""


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return ``2 |A ∩ B| / (|A| + |B|)``; 1 where both are empty.

    Examples
    --------
    >>> first = np.zeros((4, 4, 4), bool)
    >>> first[:2] = True
    >>> round(dice(first, np.ones((4, 4, 4), bool)), 3)
    0.667
    """
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(first & second)) / total


def continuous_dice(reference: NDArray[np.bool_], probability: NDArray[np.floating]) -> float:
    """Return the continuous Dice coefficient of a binary reference and a map in 0..1.

    ``cDC = 2 Σab / (c Σa + Σb)`` with ``c = Σab / Σ a·sign(b)`` (Shamir et al. 2018, arXiv 1906.11031, equation 2):
    ``c`` takes off the penalty that a mere lack of confidence within the overlap would bring.  For binary ``b`` it is
    the Dice coefficient.  1 where both are empty, and ``c`` is 1 where they do not meet.

    Parameters
    ----------
    reference
        The binary segmentation ``a``.
    probability
        The map ``b``, of the same shape.
    """
    _check_map(probability, reference.shape)
    meeting = float(probability[reference].sum())
    covered = float(np.count_nonzero(probability[reference] > 0))
    weight = meeting / covered if covered else 1.0
    total = weight * float(np.count_nonzero(reference)) + float(probability.sum())
    return 1.0 if total == 0 else 2 * meeting / total


def soft_dice(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return ``2 Σ min(a, b) / (Σa + Σb)`` of two maps in 0..1: the Dice coefficient for fuzzy sets.

    For binary maps it is the Dice coefficient; two equal maps agree fully, whatever their values.
    """
    _check_map(first, second.shape)
    _check_map(second, first.shape)
    total = float(first.sum()) + float(second.sum())
    return 1.0 if total == 0 else 2 * float(np.minimum(first, second).sum()) / total


def _check_map(values: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise UsageError(f"maps of shape {values.shape} and {shape} cannot be compared")
    if values.size and (values.min() < 0 or values.max() > 1):
        raise UsageError(f"a confidence lies between 0 and 1; got {values.min():.3g} to {values.max():.3g}")


def surface_distances(
    first: NDArray[np.bool_], second: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distance of every surface voxel of each mask from the other's surface.

    Parameters
    ----------
    first, second
        Masks of equal shape, none of them empty.
    spacing
        Voxel spacing in the order of the array's axes (z, y, x), mm.

    Returns
    -------
    tuple
        Distances from the first's surface to the second's, and back; mm.
    """
    # Everything further out is empty, so the bounding box (one voxel wider) holds both surfaces.
    box = _bounding_box(first | second)
    a, b = np.pad(first[box], 1), np.pad(second[box], 1)
    edge_a, edge_b = a & ~ndimage.binary_erosion(a), b & ~ndimage.binary_erosion(b)
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=spacing)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=spacing)
    return to_b[edge_a], to_a[edge_b]


def _bounding_box(array: NDArray[np.bool_]) -> tuple[slice, ...]:
    found: tuple[slice, ...] = ndimage.find_objects(array.astype(np.uint8))[0]
    return found


def segmentation_agreement(segmentation: Mask, reference: Mask) -> Agreement:
    """Compare a segmentation with its reference.

    Raises
    ------
    GeometryError
        If they do not lie on the same grid.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> _, tumour = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> segmentation_agreement(tumour, tumour).dice
    1.0
    """
    check_same_geometry(reference.geometry, segmentation.geometry, names=("the reference", "the segmentation"))
    overlap = dice(segmentation.array, reference.array)
    if not segmentation.array.any() or not reference.array.any():
        missing = 0.0 if overlap == 1.0 else float("inf")
        greatest = percentile = average = missing
    else:
        there, back = surface_distances(segmentation.array, reference.array, reference.geometry.array_spacing)
        greatest = float(max(there.max(), back.max()))
        percentile = float(max(np.percentile(there, 95), np.percentile(back, 95)))
        average = float((there.sum() + back.sum()) / (len(there) + len(back)))
    return Agreement(
        dice=overlap,
        hausdorff_mm=greatest,
        hausdorff95_mm=percentile,
        average_surface_mm=average,
        volume_mm3=segmentation.volume_mm3,
        reference_mm3=reference.volume_mm3,
    )

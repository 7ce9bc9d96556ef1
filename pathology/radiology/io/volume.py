"""Volumes and masks: voxels and their grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.radiology.io.errors import EmptyMaskError
from pathology.radiology.io.geometry import Geometry, check_same_geometry

__all__ = ["Mask", "Modality", "Volume", "crop", "crop_to_mask"]

Modality = Literal["CT", "MR", "PT", "OCT", "OTHER"]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An image volume.

    Attributes
    ----------
    array
        ``(nz, ny, nx)`` float32.
    geometry
        Its grid.
    modality
        DICOM modality.
    unit
        ``HU``, ``SUV``, ``mm2/s`` (diffusion) or empty for arbitrary units (MRI).
    name
        Display name, such as ``T1FSGd``; never a patient name.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    modality: Modality = "OTHER"
    unit: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise UsageError(f"array: expected shape {self.geometry.shape} (z, y, x), got {self.array.shape}")

    def with_array(self, array: NDArray[Any], *, unit: str | None = None) -> Volume:
        """Return a volume with the same place and other values."""
        return replace(
            self, array=np.ascontiguousarray(array, dtype=np.float32), unit=self.unit if unit is None else unit
        )


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A segmented region.

    Attributes
    ----------
    array
        ``(nz, ny, nx)`` bool.
    geometry
        Its grid.
    name
        Name of the region, such as ``GTV``.
    """

    array: NDArray[np.bool_]
    geometry: Geometry
    name: str = "tumour"

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise UsageError(f"array: expected shape {self.geometry.shape} (z, y, x), got {self.array.shape}")
        if self.array.dtype != np.bool_:
            raise UsageError(f"array: expected bool, got {self.array.dtype}")

    @property
    def volume_mm3(self) -> float:
        """Volume of the region in mm³."""
        return float(np.count_nonzero(self.array)) * self.geometry.voxel_mm3

    def check(self, image: Volume, *, where: str | None = None) -> None:
        """Raise an error if the mask is empty or not on the image grid.

        Raises
        ------
        EmptyMaskError, GeometryError
            Saying which.
        """
        if not self.array.any():
            raise EmptyMaskError(
                f"the mask '{self.name}' is empty",
                where=where,
                remedy="Check that the correct contour was exported",
            )
        check_same_geometry(
            image.geometry, self.geometry, names=(image.name or "the image", f"the mask '{self.name}'"), where=where
        )


def crop(volume: Volume, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Volume:
    """Cut out a block; ``start`` and ``stop`` in array order (z, y, x), within the volume."""
    block = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return replace(
        volume, array=np.ascontiguousarray(volume.array[block]), geometry=_crop_geometry(volume.geometry, start, stop)
    )


def crop_to_mask(volume: Volume, mask: Mask, margin_mm: float) -> tuple[Volume, Mask]:
    """Cut image and mask to the mask's bounding box plus a margin in mm (clipped to the volume)."""
    mask.check(volume)
    start, stop = [], []
    for axis, spacing in enumerate(volume.geometry.array_spacing):
        marked = np.flatnonzero(mask.array.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(margin_mm / spacing))
        start.append(max(0, int(marked[0]) - margin))
        stop.append(min(mask.array.shape[axis], int(marked[-1]) + 1 + margin))
    a, b = (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
    block = tuple(slice(i, j) for i, j in zip(a, b, strict=True))
    cut = replace(mask, array=np.ascontiguousarray(mask.array[block]), geometry=_crop_geometry(mask.geometry, a, b))
    return crop(volume, a, b), cut


def _crop_geometry(geometry: Geometry, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Geometry:
    origin = geometry.to_patient(np.asarray([start[::-1]]))[0]
    size = (stop[2] - start[2], stop[1] - start[1], stop[0] - start[0])
    return Geometry(size, geometry.spacing, (float(origin[0]), float(origin[1]), float(origin[2])), geometry.direction)

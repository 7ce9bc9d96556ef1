"""Voxel grids in patient coordinates.

Coordinates are millimetres in the DICOM patient system **LPS** (x grows to the patient's left, y to the back, z
to the head).  Arrays are ``(nz, ny, nx)``; sizes and spacings are ``(x, y, z)``, as in DICOM and ITK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology.radiology.io.errors import GeometryError

__all__ = ["Geometry", "check_same_geometry"]

_AXIS_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True, slots=True)
class Geometry:
    """A regular grid in the patient's coordinates.

    Attributes
    ----------
    size
        Voxels along x, y, z (columns, rows, slices).
    spacing
        Distance between voxel centres along the same axes, in mm.
    origin
        Centre of voxel (0, 0, 0) in mm, LPS.
    direction
        Row-major 3x3 matrix; its columns are the unit vectors of the index axes in LPS.

    Raises
    ------
    GeometryError
        If a size or spacing is not positive or the axes are not orthonormal (a sheared grid).
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, float, float, float, float, float, float, float, float] = (1, 0, 0, 0, 1, 0, 0, 0, 1)

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise GeometryError(f"the volume size {self.size} is not positive")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise GeometryError(f"the voxel spacing {self.spacing} mm is not positive")
        axes = self.axes
        if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            raise GeometryError(
                "the axes of the volume are not perpendicular unit vectors (a sheared grid, for instance gantry tilt)",
                remedy="Resample the series to a rectangular grid first",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Array shape ``(nz, ny, nx)``."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def axes(self) -> NDArray[np.float64]:
        """``(3, 3)`` direction matrix; column *i* is the unit vector of index axis *i* (x, y, z)."""
        return np.asarray(self.direction, float).reshape(3, 3)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return float(np.prod(self.spacing))

    @property
    def array_spacing(self) -> tuple[float, float, float]:
        """Spacing in the order of the array's axes: z, y, x, in mm."""
        return self.spacing[2], self.spacing[1], self.spacing[0]

    @property
    def orientation(self) -> str:
        """Three letters: towards which side of the patient x, y and z grow (``LPS`` for plain axial)."""
        axes = self.axes
        letters = []
        for column in range(3):
            axis = int(np.argmax(np.abs(axes[:, column])))
            letters.append(_AXIS_LETTERS[axis][int(axes[axis, column] > 0)])
        return "".join(letters)

    @property
    def affine(self) -> NDArray[np.float64]:
        """``(4, 4)`` matrix from voxel indices (x, y, z) to mm in LPS."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @classmethod
    def from_affine(cls, affine: NDArray[Any], size: tuple[int, int, int]) -> Geometry:
        """Build from a ``(4, 4)`` matrix of voxel indices (x, y, z) to mm in LPS.

        Raises
        ------
        GeometryError
            If the matrix is degenerate or sheared.
        """
        columns = np.asarray(affine, float)[:3, :3]
        spacing = np.linalg.norm(columns, axis=0)
        if not np.all(spacing > 0):
            raise GeometryError("the affine matrix is degenerate: a voxel has no extent")
        direction = columns / spacing
        return cls(
            size=size,
            spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
            origin=tuple(float(v) for v in np.asarray(affine, float)[:3, 3]),  # type: ignore[arg-type]
            direction=tuple(float(v) for v in direction.ravel()),  # type: ignore[arg-type]
        )

    def to_patient(self, indices: NDArray[Any]) -> NDArray[np.float64]:
        """Turn ``(N, 3)`` voxel indices (x, y, z; fractions allowed) into ``(N, 3)`` mm in LPS."""
        points = np.asarray(indices, float)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Turn ``(N, 3)`` mm in LPS into ``(N, 3)`` fractional voxel indices (x, y, z)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return (np.asarray(points, float) - self.affine[:3, 3]) @ inverse.T

    def with_spacing(self, spacing: tuple[float, float, float]) -> Geometry:
        """Return a grid of another spacing that covers the same block of space, edge to edge.

        The outer faces of the first voxels coincide, so a volume is not shifted by resampling; the far side is
        rounded up to whole voxels.
        """
        size = tuple(
            max(1, int(np.ceil(n * old / new - 1e-6)))
            for n, old, new in zip(self.size, self.spacing, spacing, strict=True)
        )
        shift = (np.asarray(spacing) - np.asarray(self.spacing)) / 2
        origin = np.asarray(self.origin) + self.axes @ shift
        return Geometry(
            size=size,  # type: ignore[arg-type]
            spacing=spacing,
            origin=tuple(float(v) for v in origin),  # type: ignore[arg-type]
            direction=self.direction,
        )

    def difference(self, other: Geometry, tolerance: float = 0.01) -> str:
        """Describe how another grid differs; empty if it does not.

        Parameters
        ----------
        other
            The grid to compare with.
        tolerance
            Tolerance for positions and spacings, as a fraction of a voxel.
        """
        if self.size != other.size:
            return f"{_times(self.size)} vs {_times(other.size)} voxels"
        if not np.allclose(self.spacing, other.spacing, rtol=tolerance / 10):
            return f"spacing {_times(self.spacing)} vs {_times(other.spacing)} mm"
        if not np.allclose(self.direction, other.direction, atol=1e-3):
            return f"orientation {self.orientation} vs {other.orientation}, or rotated by a few degrees"
        # The far corner is compared too: a small difference in direction adds up over a large volume.
        corner = np.asarray([[0, 0, 0], np.asarray(self.size) - 1], float)
        offset = np.abs(self.to_patient(corner) - other.to_patient(corner)).max()
        if offset > tolerance * min(self.spacing):
            return f"shifted by up to {offset:.2f} mm"
        return ""


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def check_same_geometry(first: Geometry, second: Geometry, *, names: tuple[str, str], where: str | None = None) -> None:
    """Raise an error if two volumes are not on the same grid.

    Raises
    ------
    GeometryError
        If they differ; the message says how.
    """
    difference = first.difference(second)
    if difference:
        raise GeometryError(
            f"{names[0]} and {names[1]} are not on the same grid: {difference}",
            where=where,
            remedy="Use the mask drawn on this image, or resample one onto the other",
        )

"""Read and write NRRD, MetaImage and other SimpleITK formats.  The only file that imports SimpleITK."""

# mypy: disable-error-code="no-untyped-call"
# SimpleITK is not typed.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  # the name its own documentation uses
from numpy.typing import NDArray

from pathology.input_files import require_regular
from pathology.radiology.io.errors import GeometryError, StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Modality, Volume

__all__ = ["geometry_of", "read_itk_labels", "read_itk_volume", "sitk", "to_image"]


def to_image(array: NDArray[Any], geometry: Geometry) -> Any:  # noqa: ANN401  # SimpleITK has no types
    """Return an array ``(slices, rows, columns)`` as a SimpleITK image with its place in space."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def geometry_of(image: Any) -> Geometry:  # noqa: ANN401
    """Return where a SimpleITK image lies in space."""
    return Geometry(
        size=tuple(int(v) for v in image.GetSize()),  # type: ignore[arg-type]
        spacing=tuple(float(v) for v in image.GetSpacing()),  # type: ignore[arg-type]
        origin=tuple(float(v) for v in image.GetOrigin()),  # type: ignore[arg-type]
        direction=tuple(float(v) for v in image.GetDirection()),  # type: ignore[arg-type]
    )


def _read(path: Path) -> Any:  # noqa: ANN401
    require_regular(path, StudyError)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise StudyError(
            f"the file cannot be read ({reason})", where=path, remedy="Copy or convert it again"
        ) from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise GeometryError(
            "expected one value per voxel in 3 dimensions, got "
            f"{image.GetNumberOfComponentsPerPixel()} in {image.GetDimension()}",
            where=path,
        )
    return image


def read_itk_volume(path: Path, modality: Modality = "OTHER", unit: str = "", name: str = "") -> Volume:
    """Read NRRD, MetaImage or another single-file format of ITK as an image volume.

    Raises
    ------
    StudyError, GeometryError
        If the file cannot be read or is not a scalar volume.
    """
    image = _read(path)
    return Volume(sitk.GetArrayFromImage(image).astype(np.float32), geometry_of(image), modality, unit, name)


def read_itk_labels(path: Path, label: int | None = None, name: str = "tumour") -> Mask:
    """Read a label map; ``label`` selects one value, ``None`` everything above 0."""
    image = _read(path)
    values = sitk.GetArrayFromImage(image)
    return Mask(values > 0 if label is None else values == label, geometry_of(image), name)

"""Read and write NIfTI.  The only file that imports nibabel."""

# mypy: disable-error-code="no-untyped-call, attr-defined, index"
# nibabel is not typed, and its loader promises less than it returns.
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from pathology.input_files import reading, require_regular
from pathology.radiology.io.errors import GeometryError, StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Modality, Volume

__all__ = ["read_nifti_labels", "read_nifti_volume", "write_nifti"]

# NIfTI's world axes grow to the right, front and head (RAS); DICOM's to the left, back and head (LPS).
_MOST_VOXELS = 2**28
"""Largest volume read: 512 x 512 x 1024, 2 GiB as numbers of 64 bits."""
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _load(path: Path) -> tuple[NDArray[np.float64], Geometry]:
    require_regular(path, StudyError)
    with reading(path, StudyError, what="the NIfTI file cannot be read", remedy="Copy or convert it again"):
        image = nibabel.load(path)
        _require_plausible_size(image, path)
        values = np.asarray(image.dataobj, dtype=np.float64)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise GeometryError(
            f"expected a volume, got an array with {values.ndim} axes {values.shape}",
            where=path,
            remedy="Split it into volumes",
        )
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        raise GeometryError(
            "the NIfTI file has no orientation (qform and sform are both unset)",
            where=path,
            remedy="Convert it again from DICOM",
        )
    size = (values.shape[0], values.shape[1], values.shape[2])
    try:
        geometry = Geometry.from_affine(_RAS_TO_LPS @ image.affine, size)
    except GeometryError as error:
        raise GeometryError(error.what, where=path, remedy=error.remedy) from error
    return values.transpose(2, 1, 0), geometry


def _require_plausible_size(image: Any, path: Path) -> None:  # noqa: ANN401  # nibabel is not typed
    """Refuse a size that the file cannot hold, before memory is set aside for it."""
    voxels = math.prod(int(side) for side in image.shape)
    # Deflate packs at most 1032 to 1.
    most = path.stat().st_size * (1100 if path.name.lower().endswith(".gz") else 1)
    if voxels > _MOST_VOXELS or voxels * image.get_data_dtype().itemsize > most:
        raise StudyError(
            f"the file states {' x '.join(f'{side:,}' for side in image.shape)} voxels, more than it can hold",
            where=path,
            remedy="Copy or convert it again",
        )


def read_nifti_volume(path: Path, modality: Modality = "OTHER", unit: str = "", name: str = "") -> Volume:
    """Read a NIfTI file as an image volume.

    Raises
    ------
    StudyError, GeometryError
        If the file cannot be read or has no orientation.
    """
    values, geometry = _load(path)
    return Volume(np.ascontiguousarray(values, np.float32), geometry, modality, unit, name)


def read_nifti_labels(path: Path, label: int | None = None, name: str = "tumour") -> Mask:
    """Read a NIfTI label map; ``label`` selects one value, ``None`` everything above 0."""
    values, geometry = _load(path)
    marked = values > 0 if label is None else values == label
    return Mask(np.ascontiguousarray(marked), geometry, name)


def write_nifti(item: Volume | Mask, path: Path) -> None:
    """Write a volume (float32) or mask (uint8) as NIfTI-1.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> volume, mask = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> write_nifti(volume, folder / "t1.nii.gz")
    """
    array = item.array.astype(np.uint8) if isinstance(item, Mask) else item.array
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), _RAS_TO_LPS @ item.geometry.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)

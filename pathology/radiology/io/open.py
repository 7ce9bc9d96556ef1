"""Open volumes and masks of any supported format: DICOM folder, NIfTI, NRRD, RTSTRUCT, DICOM SEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathology.input_files import files_below, reading
from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.volume import Mask, Modality, Volume

if TYPE_CHECKING:
    from pathology.radiology.io.dicom import Series

__all__ = ["OpenedVolume", "open_mask", "open_volume"]

_NIFTI = (".nii", ".nii.gz")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True, slots=True, eq=False)
class OpenedVolume:
    """A volume and, for DICOM, the series it came from.

    Attributes
    ----------
    volume
        The pixels.
    series
        Headers, needed to read contours and to write a DICOM SEG; ``None`` for other formats.
    path
        Where it was opened.
    """

    volume: Volume
    series: Series | None
    path: Path


def open_volume(
    path: Path, *, modality: Modality = "OTHER", series_uid: str | None = None, name: str = ""
) -> OpenedVolume:
    """Open an image volume.

    Parameters
    ----------
    path
        A folder with a DICOM series, or a NIfTI, NRRD or MetaImage file.
    modality
        What a file without a header for it holds; DICOM says so itself.
    series_uid
        Which series of a DICOM folder.
    name
        Name of the volume; empty takes the file's or the series'.

    Raises
    ------
    StudyError
        And its kinds, saying what is wrong with the study.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry, write_nifti
    >>> from pathology.testing import tumour_phantom
    >>> volume, mask = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> write_nifti(volume, folder / "t1.nii.gz")
    >>> open_volume(folder / "t1.nii.gz", modality="MR").volume.array.shape
    (16, 32, 32)
    """
    with reading(path, StudyError, what="the volume cannot be read", remedy="Copy or convert it again"):
        return _opened(path, modality, series_uid, name)


def _opened(path: Path, modality: Modality, series_uid: str | None, name: str) -> OpenedVolume:
    if path.is_dir():
        from pathology.radiology.io.dicom import read_series

        volume, series = read_series(path, series_uid=series_uid, name=name)
        return OpenedVolume(volume, series, path)
    if not path.exists():
        raise StudyError("file or folder not found", where=path)
    lower = path.name.lower()
    label = name or path.name.split(".")[0]
    unit = {"CT": "HU", "PT": "SUV"}.get(modality, "")
    if lower.endswith(_NIFTI):
        from pathology.radiology.io.nifti import read_nifti_volume

        return OpenedVolume(read_nifti_volume(path, modality, unit, label), None, path)
    if lower.endswith(_ITK):
        from pathology.radiology.io.itk import read_itk_volume

        return OpenedVolume(read_itk_volume(path, modality, unit, label), None, path)
    raise StudyError(
        f"unsupported volume format '{path.suffix}'",
        where=path,
        remedy="Use a DICOM folder, NIfTI, NRRD or MetaImage",
    )


def open_mask(path: Path, image: OpenedVolume, *, structure: str | None = None, label: int | None = None) -> Mask:
    """Open a mask of an image and check that it matches.

    Parameters
    ----------
    path
        A NIfTI or NRRD label map, an RTSTRUCT or a DICOM SEG.
    image
        The image it was drawn on.
    structure
        Name of the contour or segment, where there are several.
    label
        Value in a label map; ``None`` takes everything above 0.

    Raises
    ------
    EmptyMaskError, GeometryError, StudyError
        If it marks nothing, lies on another grid, or cannot be read.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry, write_nifti
    >>> from pathology.testing import tumour_phantom
    >>> volume, mask = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> write_nifti(volume, folder / "t1.nii.gz")
    >>> write_nifti(mask, folder / "tumour.nii.gz")
    >>> image = open_volume(folder / "t1.nii.gz", modality="MR")
    >>> bool((open_mask(folder / "tumour.nii.gz", image).array == mask.array).all())
    True
    """
    with reading(path, StudyError, what="the mask cannot be read", remedy="Copy or convert it again"):
        mask = _mask(path, image, structure, label)
        mask.check(image.volume, where=str(path))
    return mask


def _mask(path: Path, image: OpenedVolume, structure: str | None, label: int | None) -> Mask:
    lower = path.name.lower()
    if lower.endswith(_NIFTI):
        from pathology.radiology.io.nifti import read_nifti_labels

        return read_nifti_labels(path, label, structure or "tumour")
    if lower.endswith(_ITK):
        from pathology.radiology.io.itk import read_itk_labels

        return read_itk_labels(path, label, structure or "tumour")
    return _dicom_mask(path, image, structure)


def _dicom_mask(path: Path, image: OpenedVolume, structure: str | None) -> Mask:
    from pathology.radiology.io.dicom import read_dataset
    from pathology.radiology.io.dicom_seg import read_segmentation
    from pathology.radiology.io.rtstruct import contour_mask

    if path.is_dir():
        files = files_below(path, StudyError)
        if len(files) != 1:
            raise StudyError(f"the folder contains {len(files)} files; expected one mask file", where=path)
        path = files[0]
    dataset = read_dataset(path, pixels=False)
    if image.series is None:
        raise StudyError(
            "DICOM contours require the DICOM series they were drawn on",
            where=path,
            remedy="Pass the image as a DICOM folder",
        )
    kind = str(dataset.get("Modality", ""))
    if kind == "RTSTRUCT":
        return contour_mask(dataset, image.series, structure=structure, where=path)
    if kind == "SEG":
        return read_segmentation(path, image.series, segment=structure)
    raise StudyError(f"a DICOM object of type '{kind}' is not a mask", where=path, remedy="Use an RTSTRUCT or SEG")

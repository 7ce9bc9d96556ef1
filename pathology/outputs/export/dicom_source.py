"""The DICOM slide that results refer to: the slide's own header, or a generated one for other formats.

A segmentation or report refers to a study, a series and a frame of reference.  A DICOM slide has these; for other
formats, they are derived from the slide's fingerprint, so that all outputs of one slide share them whenever they are
written.  Such references point to an image that no archive contains, unless the slide is converted under these
identifiers.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID, uuid5

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage

from pathology.errors import SlideNotFoundError, StoreError
from pathology.findings.slide_result import SlideResult
from pathology.path_text import valid_text

__all__ = ["DicomSource", "dicom_source"]

_ORIENTATION: Final = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0)
"""Orientation of rows and columns in a generated header: the scanners' convention, with the slide upright and its label
at the top (PS3.3, C.8.12.2.1.1)."""

_NAMESPACE: Final = UUID("7f0f0a52-2f0c-4d0e-9a53-2f4f9b6f7f11")
"""Random namespace of the identifiers of slides that have none."""


@dataclass(frozen=True)
class DicomSource:
    """The header of the finest level of a slide, without pixels.

    Attributes
    ----------
    dataset
        The header.
    own
        Whether it is the slide's own header, not a generated one.
    """

    dataset: Dataset
    own: bool

    @property
    def orientation(self) -> tuple[float, ...]:
        """Direction cosines of rows, then of columns, in the slide's frame of reference."""
        return tuple(float(value) for value in self.dataset.ImageOrientationSlide)

    def position(self, x: float, y: float, mpp: float) -> tuple[float, float, float]:
        """Return the position on the slide, in mm, of a position in the image.

        Parameters
        ----------
        x, y
            Level-0 pixels; the centre of the first pixel is at ``(0.5, 0.5)``.
        mpp
            Micrometres per level-0 pixel.

        Notes
        -----
        The total pixel matrix's origin is the *centre* of its first pixel (PS3.3, C.8.12.4.1.1).
        """
        start = self.dataset.TotalPixelMatrixOriginSequence[0]
        origin = (float(start.XOffsetInSlideCoordinateSystem), float(start.YOffsetInSlideCoordinateSystem), 0.0)
        across, down = (x - 0.5) * mpp / 1000, (y - 0.5) * mpp / 1000
        rows, columns = self.orientation[:3], self.orientation[3:]
        moved = [o + across * r + down * c for o, r, c in zip(origin, rows, columns, strict=True)]
        return moved[0], moved[1], moved[2]


def dicom_source(result: SlideResult) -> DicomSource:
    """Return the header that results about a slide refer to.

    Raises
    ------
    SlideNotFoundError
        If a DICOM slide is missing, so that its identifiers are unknown.
    StoreError
        If the slide's size or scale is unknown.
    """
    if result.width is None or result.height is None or result.mpp is None:
        raise StoreError("the size or scale of the slide is unknown because it was not scored", where=result.path)
    # OpenSlide, too, reads DICOM.
    if result.reader == "dicom" or _is_dicom(Path(result.path)):
        return DicomSource(_completed(_own_header(Path(result.path), result.width, result.height)), own=True)
    return DicomSource(_made_up(result, result.width, result.height, result.mpp), own=False)


def _is_dicom(path: Path) -> bool:
    if path.is_dir():
        return True  # no other slide is a folder
    try:
        return is_dicom(path)
    except OSError:
        return False


def _own_header(path: Path, width: int, height: int) -> Dataset:
    if not path.exists():
        raise SlideNotFoundError(
            "the slide file, which contains the identifiers to refer to, is missing",
            where=path,
            remedy="Restore it",
        )
    series: str | None = None
    if path.is_file():
        series = str(
            pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
        )
    folder = path if path.is_dir() else path.parent
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if header.get("SOPClassUID") != VLWholeSlideMicroscopyImageStorage:
            continue
        if series is not None and header.get("SeriesInstanceUID") != series:
            continue
        if "VOLUME" not in [str(value).upper() for value in header.get("ImageType") or ()]:
            continue
        if (header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")) == (width, height):
            return header
    raise StoreError("no instance of this series has the slide's size", where=path, remedy="Score the slide again")


def _completed(header: Dataset) -> Dataset:
    """Add required attributes that some writers omit."""
    header = deepcopy(header)
    stated = header.get("TotalPixelMatrixOriginSequence")
    if not stated or "XOffsetInSlideCoordinateSystem" not in stated[0]:
        header.TotalPixelMatrixOriginSequence = [_origin()]
    if not header.get("ImageOrientationSlide"):
        header.ImageOrientationSlide = list(_ORIENTATION)
    # Identifiers of type 2: present, if empty.
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
        if name not in header:
            setattr(header, name, "")
    if "ContainerIdentifier" not in header:
        header.ContainerIdentifier = "UNKNOWN"
    if not header.get("SpecimenDescriptionSequence"):
        specimen_uid = _derived_uid("specimen", str(header.SeriesInstanceUID))
        header.SpecimenDescriptionSequence = [_specimen(str(header.ContainerIdentifier), specimen_uid)]
    for name in ("IssuerOfTheContainerIdentifierSequence", "ContainerTypeCodeSequence"):
        if name not in header:
            setattr(header, name, [])
    for name in ("StudyDate", "StudyTime", "ReferringPhysicianName"):
        if name not in header:
            setattr(header, name, "")
    return header


def _origin() -> Dataset:
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    return origin


def _derived_uid(part: str, base: str) -> str:
    """Return a UUID as a UID (PS3.5, B.2), always the same for the same words."""
    return f"2.25.{uuid5(_NAMESPACE, f'{part} {base}').int}"


def _specimen(identifier: str, uid: str) -> Dataset:
    specimen: Any = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = identifier, uid
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    return cast(Dataset, specimen)


def _made_up(result: SlideResult, width: int, height: int, mpp: float) -> Dataset:
    base = result.fingerprint or valid_text(result.path)

    def uid(part: str) -> str:
        return _derived_uid(part, base)

    header: Any = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    header.SOPInstanceUID = uid("instance")
    header.StudyInstanceUID = uid("study")
    header.SeriesInstanceUID = uid("series")
    header.FrameOfReferenceUID = uid("frame of reference")
    header.SpecificCharacterSet = "ISO_IR 192"
    header.Modality = "SM"
    header.PatientID = valid_text(result.patient_id or "")[:64]
    header.PatientName = header.PatientBirthDate = header.PatientSex = ""
    header.StudyID = header.StudyDate = header.StudyTime = header.AccessionNumber = ""
    header.ReferringPhysicianName = ""
    header.PositionReferenceIndicator = "SLIDE_CORNER"
    header.ContainerIdentifier = valid_text(result.slide_id)[:64]
    header.IssuerOfTheContainerIdentifierSequence = []
    header.ContainerTypeCodeSequence = [_code("433466003", "Microscope slide")]
    header.SpecimenDescriptionSequence = [_specimen(header.ContainerIdentifier, uid("specimen"))]
    header.ImageOrientationSlide = list(_ORIENTATION)
    header.TotalPixelMatrixOriginSequence = [_origin()]
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = width, height
    header.TotalPixelMatrixFocalPlanes = 1
    header.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    header.DimensionOrganizationType = "TILED_FULL"
    header.Rows, header.Columns = height, width
    header.NumberOfFrames = 1
    header.SamplesPerPixel = 3
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.PixelRepresentation = 0
    header.PhotometricInterpretation = "RGB"
    measures: Any = Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    measures.SliceThickness = 0.0
    groups: Any = Dataset()
    groups.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [groups]
    header.ImagedVolumeWidth, header.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    return cast(Dataset, header)


def _code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    code: Any = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return cast(Dataset, code)

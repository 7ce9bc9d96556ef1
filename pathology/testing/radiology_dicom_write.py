"""Write a volume as a DICOM series and a mask as RTSTRUCT, for viewers and planning systems that need them.

Written objects identify the patient only by the given pseudonym, and are marked as derived and for research.
"""

# mypy: disable-error-code="no-untyped-call"
# scikit-image is not typed.
from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from skimage.measure import find_contours

from pathology.errors import UsageError
from pathology.radiology.io.dicom import (
    UID,
    Dataset,
    DicomSequence,
    ExplicitVRLittleEndian,
    FileDataset,
    FileMetaDataset,
    Series,
    generate_uid,
)
from pathology.radiology.io.errors import EmptyMaskError
from pathology.radiology.io.geometry import check_same_geometry
from pathology.radiology.io.volume import Mask, Volume

__all__ = ["write_contours", "write_series"]

_CLASSES = {
    "CT": UID("1.2.840.10008.5.1.4.1.1.2"),
    "MR": UID("1.2.840.10008.5.1.4.1.1.4"),
    "PT": UID("1.2.840.10008.5.1.4.1.1.128"),
}
_IMAGE_TYPES = {
    "CT": ["DERIVED", "SECONDARY", "AXIAL"],
    "MR": ["DERIVED", "SECONDARY", "OTHER"],
    "PT": ["DERIVED", "PRIMARY"],  # the standard has no other second value for PET
}
_RTSTRUCT = UID("1.2.840.10008.5.1.4.1.1.481.3")


def _new_file(
    sop_class: UID, modality: str, pseudonym: str, study_uid: str, series_uid: str, frame_uid: str
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    now = datetime.now(UTC)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.Modality = modality
    dataset.PatientID = pseudonym
    dataset.PatientName = f"{pseudonym}^"  # the caret marks a single-component name as intentional
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study_uid, series_uid, frame_uid
    dataset.StudyID = "1"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.Manufacturer = dataset.ManufacturerModelName = "sarcoma-pathology"
    dataset.SeriesNumber = "1"
    dataset.Laterality = ""
    dataset.PositionReferenceIndicator = ""
    return dataset


def write_series(volume: Volume, folder: Path, *, pseudonym: str, description: str = "") -> Series:
    """Write a CT, MR or PET volume as a series of single-frame files.

    Values are stored in 16 bits with one slope for the whole volume, so they come back within half a step
    (1/65,535 of the value range).  PET must be in SUV and is written with the unit ``GML``.

    Parameters
    ----------
    volume
        The volume.
    folder
        Created if missing; one file per slice.
    pseudonym
        Written as patient ID and name.
    description
        Series description.

    Returns
    -------
    Series
        The written slices, for writing a segmentation or contours.

    Raises
    ------
    UsageError
        Another modality, or PET that is not in SUV.
    """
    if volume.modality not in _CLASSES:
        raise UsageError(f"a DICOM series can be written for CT, MR and PT, not {volume.modality}")
    if volume.modality == "PT" and volume.unit != "SUV":
        raise UsageError("PET must be in SUV to be written")
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    low, high = float(volume.array.min()), float(volume.array.max())
    signed = volume.modality == "CT"
    if volume.modality == "CT":
        slope, intercept = 1.0, 0.0
        stored = np.clip(np.rint(volume.array), -32768, 32767).astype(np.int16)
    elif volume.modality == "PT":
        # PET's rescale intercept must be 0.
        slope, intercept = max(high, 1e-6) / 65535, 0.0
        stored = np.clip(np.rint(volume.array / slope), 0, 65535).astype(np.uint16)
    else:
        slope, intercept = max(high - low, 1e-6) / 65535, low
        stored = np.rint((volume.array - intercept) / slope).astype(np.uint16)
    geometry = volume.geometry
    axes = geometry.axes
    slices = []
    for index in range(geometry.size[2]):
        dataset = _new_file(_CLASSES[volume.modality], volume.modality, pseudonym, study, series, frame)
        dataset.SeriesDescription = (description or volume.name)[:64]
        dataset.InstanceNumber = index + 1
        dataset.ImageType = _IMAGE_TYPES[volume.modality]
        dataset.AcquisitionDate, dataset.AcquisitionTime = dataset.StudyDate, dataset.StudyTime
        dataset.AcquisitionNumber = 1
        dataset.PatientPosition = "HFS"
        position = geometry.to_patient(np.asarray([[0, 0, index]]))[0]
        dataset.ImagePositionPatient = [f"{v:.6g}" if abs(v) >= 1e-6 else "0" for v in position]
        dataset.ImageOrientationPatient = [f"{v:.9f}" for v in (*axes[:, 0], *axes[:, 1])]
        dataset.PixelSpacing = [f"{geometry.spacing[1]:.9g}", f"{geometry.spacing[0]:.9g}"]
        dataset.SliceThickness = f"{geometry.spacing[2]:.9g}"
        dataset.SliceLocation = f"{float(position @ axes[:, 2]):.6g}"
        dataset.Rows, dataset.Columns = geometry.shape[1:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, int(signed)
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
        if volume.modality == "CT":
            dataset.RescaleType = "HU"
            dataset.KVP = ""
        elif volume.modality == "MR":
            dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
            dataset.MRAcquisitionType, dataset.EchoTime, dataset.EchoTrainLength, dataset.RepetitionTime = (
                "2D",
                "",
                "",
                "",
            )
            dataset.SpacingBetweenSlices = dataset.SliceThickness
        else:
            _describe_pet(dataset, geometry.size[2], index)
        dataset.PixelData = stored[index].tobytes()
        dataset.save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)
        slices.append(dataset)
    return Series(tuple(slices), geometry, series)


def _describe_pet(dataset: Dataset, count: int, index: int) -> None:
    """Fill the mandatory fields of a PET image; those unknown for a derived SUV image stay empty."""
    dataset.Units, dataset.CountsSource = "GML", "EMISSION"
    dataset.SUVType = "BW"
    dataset.SeriesType = ["WHOLE BODY", "IMAGE"]
    dataset.CorrectedImage = ["ATTN", "DECY"]
    # SUV already includes the corrections.
    dataset.DecayCorrection, dataset.DecayFactor = "START", "1"
    del dataset.PatientPosition  # replaced by the two code sequences
    dataset.PatientOrientationCodeSequence = DicomSequence([])
    dataset.PatientGantryRelationshipCodeSequence = DicomSequence([])
    dataset.CollimatorType = ""
    dataset.NumberOfSlices, dataset.ImageIndex = count, index + 1
    dataset.FrameReferenceTime, dataset.ActualFrameDuration = "0", "1"
    dataset.RadiopharmaceuticalInformationSequence = DicomSequence([])


def write_contours(mask: Mask, series: Series, path: Path, *, colour: tuple[int, int, int] = (255, 0, 0)) -> None:
    """Write a mask as an RTSTRUCT with one structure.

    Outlines run halfway between mask and background voxel centres (marching squares), so that filling them gives the
    same mask, including holes.

    Raises
    ------
    EmptyMaskError, GeometryError
        If the mask is empty or its grid differs from the series.
    """
    if not mask.array.any():
        raise EmptyMaskError(f"the mask '{mask.name}' is empty", where=path)
    check_same_geometry(
        series.geometry, mask.geometry, names=("the series", f"the mask '{mask.name}'"), where=str(path)
    )
    first = series.slices[0]
    dataset = _new_file(
        _RTSTRUCT,
        "RTSTRUCT",
        str(first.PatientID),
        str(first.StudyInstanceUID),
        generate_uid(),
        str(first.FrameOfReferenceUID),
    )
    dataset.PatientName = first.PatientName
    dataset.OperatorsName = ""
    dataset.StudyDate, dataset.StudyTime = first.StudyDate, first.StudyTime
    dataset.StructureSetLabel = "RESEARCH"
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.ContentDate, dataset.ContentTime
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = DicomSequence([_frame_reference(series)])
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = 1, mask.name, ""
    roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.StructureSetROISequence = DicomSequence([roi])
    item = Dataset()
    item.ReferencedROINumber, item.ROIDisplayColor = 1, list(colour)
    item.ContourSequence = DicomSequence(list(_contours(mask, series)))
    dataset.ROIContourSequence = DicomSequence([item])
    observation = Dataset()
    observation.ObservationNumber, observation.ReferencedROINumber = 1, 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "GTV", ""
    dataset.RTROIObservationsSequence = DicomSequence([observation])
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def _contours(mask: Mask, series: Series) -> list[Dataset]:
    contours = []
    for index in np.flatnonzero(mask.array.any(axis=(1, 2))):
        padded = np.pad(mask.array[index], 1).astype(float)
        for outline in find_contours(padded, 0.5, fully_connected="high"):
            rows, columns = outline[:-1, 0] - 1, outline[:-1, 1] - 1
            points = mask.geometry.to_patient(np.column_stack([columns, rows, np.full(len(rows), index)]))
            contour, image = Dataset(), Dataset()
            source = series.slices[int(index)]
            image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
            contour.ContourImageSequence = DicomSequence([image])
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
            contours.append(contour)
    return contours


def _frame_reference(series: Series) -> Dataset:
    first = series.slices[0]
    images = []
    for source in series.slices:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        images.append(image)
    referenced_series = Dataset()
    referenced_series.SeriesInstanceUID = series.uid
    referenced_series.ContourImageSequence = DicomSequence(images)
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([referenced_series])
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = DicomSequence([study])
    return frame

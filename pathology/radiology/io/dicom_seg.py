"""Read and write DICOM SEG."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from pathology.outputs.export.highdicom_library import CodedConcept, highdicom
from pathology.radiology.io.dicom import Series, read_dataset
from pathology.radiology.io.errors import EmptyMaskError, GeometryError, StudyError
from pathology.radiology.io.volume import Mask

__all__ = ["read_segmentation", "write_segmentation"]

_PROPERTY = CodedConcept("4147007", "SCT", "Mass")
_CATEGORY = CodedConcept("49755003", "SCT", "Morphologically Altered Structure")
_ALGORITHM_FAMILY = CodedConcept("123110", "DCM", "Artificial Intelligence")


def write_segmentation(mask: Mask, series: Series, path: Path, *, model: str | None = None) -> None:
    """Write a mask as a binary DICOM SEG that refers to its image series.

    Parameters
    ----------
    mask
        On the grid of ``series``.
    series
        The source images; patient and study fields are taken over from them, as the standard asks.
    path
        File to write.
    model
        ``name version`` of the model that made the mask; ``None`` where a person drew it.

    Raises
    ------
    EmptyMaskError, GeometryError
        If the mask is empty or lies on another grid.
    """
    if not mask.array.any():
        raise EmptyMaskError(f"the mask '{mask.name}' is empty: nothing to write", where=path)
    difference = series.geometry.difference(mask.geometry)
    if difference:
        raise GeometryError(f"the mask is not on the grid of the series: {difference}", where=path)
    algorithm = None
    if model is not None:
        name, _, release = model.partition(" ")
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=name, family=_ALGORITHM_FAMILY, version=release or "unversioned"
        )
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=mask.name[:64],
        segmented_property_category=_CATEGORY,
        segmented_property_type=_PROPERTY,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        if algorithm is None
        else highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    with warnings.catch_warnings():
        # Pseudonyms have one part; highdicom doubts them, but the name must stay that of the source images.
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent the intended person name")
        segmentation = highdicom.seg.Segmentation(
            source_images=list(series.slices),
            pixel_array=mask.array.astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[description],
            series_instance_uid=highdicom.UID(),
            series_number=900,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="sarcoma-pathology",
            manufacturer_model_name="sarcoma-pathology radiology",
            software_versions=_version(),
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description=f"Segmentation of {mask.name}, research use only"[:64],
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)


def _version() -> str:
    try:
        return version("sarcoma-pathology")
    except PackageNotFoundError:
        return "0"


def read_segmentation(path: Path, series: Series, *, segment: str | None = None) -> Mask:
    """Read one segment of a DICOM SEG onto the grid of its image series.

    Parameters
    ----------
    path
        The SEG file.
    series
        The series it refers to.
    segment
        Segment label; optional if there is only one.

    Raises
    ------
    StudyError
        No such segment, or a SEG of another series.
    EmptyMaskError
        A segment without a voxel.
    """
    dataset = read_dataset(path)
    if str(dataset.get("Modality", "")) != "SEG":
        raise StudyError("not a DICOM SEG", where=path)
    segmentation = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
    labels = {int(n): str(segmentation.get_segment_description(n).segment_label) for n in segmentation.segment_numbers}
    if segment is None:
        if len(labels) != 1:
            raise StudyError(
                f"several segments: {', '.join(labels.values())}",
                where=path,
                remedy="Choose one with --structure",
            )
        segment = next(iter(labels.values()))
    numbers = [n for n, label in labels.items() if label == segment]
    if len(numbers) != 1:
        raise StudyError(f"no unique segment '{segment}' among {', '.join(labels.values())}", where=path)
    uids = [str(s.SOPInstanceUID) for s in series.slices]
    referenced = {str(uid) for _, _, uid in segmentation.get_source_image_uids()}
    if not referenced <= set(uids):
        raise StudyError("the segmentation belongs to another series", where=path, remedy="Use the series it refers to")
    frames = segmentation.get_pixels_by_source_instance(
        source_sop_instance_uids=uids,
        segment_numbers=numbers,
        # A SEG omits slices without the structure; this is not a gap.
        assert_missing_frames_are_empty=True,
        ignore_spatial_locations=True,
    )
    array = np.asarray(frames)[..., 0] > 0
    if not array.any():
        raise EmptyMaskError(f"segment '{segment}' is empty", where=path)
    return Mask(np.ascontiguousarray(array), series.geometry, segment)

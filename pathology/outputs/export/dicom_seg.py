"""Segmentations of slides as DICOM SEG: tissue and predicted classes (binary), class probabilities (fractional).

Every pixel of a segmentation is a cell of the map (or of the tissue mask).  Its location is given by the pixel spacing
and the position of the first pixel's centre in the slide's frame of reference.  DICOM slides are referenced by their
own identifiers; see :mod:`pathology.outputs.export.dicom_source` for others.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pathology._version import __version__
from pathology.atomic_files import replacing
from pathology.errors import UsageError
from pathology.findings.slide_result import SlideResult
from pathology.formatting import RESEARCH_USE_ONLY
from pathology.outputs.export.dicom_codes import ARTIFICIAL_INTELLIGENCE, MORPHOLOGY, TISSUE, private_code
from pathology.outputs.export.dicom_source import DicomSource, dicom_source
from pathology.outputs.export.highdicom_library import highdicom
from pathology.outputs.figures.heatmap import Heatmap
from pathology.path_text import valid_text

__all__ = ["MANUFACTURER", "algorithm", "write_dicom_probabilities", "write_dicom_regions", "write_dicom_tissue"]

MANUFACTURER: Final = "sarcoma-pathology"
_TILE: Final = 256
"""Side length of a frame in pixels."""
_THRESHOLDING: Final = private_code("Thresholding of optical density")
_STEPS: Final = 255
"""Value of probability 1 in an 8-bit fractional segmentation."""


@dataclass(frozen=True)
class _Raster:
    """An image over a part of the slide: ``(rows, columns, segments)``, its origin and its pixel size.

    ``left``, ``top``, ``across`` and ``down`` are in level-0 pixels.
    """

    values: NDArray[Any]
    left: float
    top: float
    across: float
    down: float


def algorithm(result: SlideResult) -> Any:  # noqa: ANN401 - highdicom has no public type for it that mypy knows
    """Return the identification of the model: name, version and weights."""
    name, _, version = result.model.rpartition(" ")
    return highdicom.AlgorithmIdentificationSequence(
        name=valid_text(name or result.model)[:64],
        family=ARTIFICIAL_INTELLIGENCE,
        version=valid_text(version or "unversioned")[:64],
        parameters={"weights_sha256": result.model_sha256},
    )


def write_dicom_tissue(path: Path, result: SlideResult, tissue: NDArray[np.bool_]) -> None:
    """Write the tissue mask.

    Parameters
    ----------
    path
        The file.
    result
        The slide.
    tissue
        ``(rows, columns)`` bool over the whole slide.

    Raises
    ------
    UsageError
        If there is no tissue.
    StoreError, SlideNotFoundError
        If required facts about the slide are missing; see :func:`pathology.outputs.export.dicom_source.dicom_source`.
    OutputError
        If the file cannot be written.
    """
    source = dicom_source(result)
    width, height = result.width or 0, result.height or 0
    raster = _Raster(tissue[..., None], 0, 0, width / tissue.shape[1], height / tissue.shape[0])
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="tissue",
        segmented_property_category=TISSUE,
        segmented_property_type=TISSUE,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="tissue detection", family=_THRESHOLDING, version=__version__
        ),
    )
    _write(path, result, source, raster, [segment], "BINARY", "TISSUE", 901)


def write_dicom_regions(path: Path, result: SlideResult, heatmap: Heatmap) -> None:
    """Write the regions of the predicted classes, one segment per class.

    Raises
    ------
    UsageError
        If no patch was scored.
    StoreError, SlideNotFoundError, OutputError
        As :func:`write_dicom_tissue`.
    """
    predicted = heatmap.predicted()
    values = np.stack([predicted == index for index in range(len(heatmap.classes))], axis=-1)
    _write(
        path, result, dicom_source(result), _of(heatmap, values), _segments(result, heatmap), "BINARY", "CLASSES", 902
    )


def write_dicom_probabilities(path: Path, result: SlideResult, heatmap: Heatmap) -> None:
    """Write the class probabilities, one segment per class, in 255 steps; also 0 where nothing was scored.

    Raises
    ------
    UsageError
        If no patch was scored.
    StoreError, SlideNotFoundError, OutputError
        As :func:`write_dicom_tissue`.
    """
    values = np.nan_to_num(heatmap.values, nan=0.0).transpose(1, 2, 0)
    segments = _segments(result, heatmap)
    _write(path, result, dicom_source(result), _of(heatmap, values), segments, "FRACTIONAL", "PROBABILITIES", 903)


def _of(heatmap: Heatmap, values: NDArray[Any]) -> _Raster:
    return _Raster(values, *heatmap.origin, heatmap.stride, heatmap.stride)


def _segments(result: SlideResult, heatmap: Heatmap) -> list[Any]:
    colours = {finding.name: finding.colour for finding in result.classes}
    identification = algorithm(result)
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=result.marked(valid_text(name)[: 64 - len(result.marked(""))]),
            segmented_property_category=MORPHOLOGY,
            segmented_property_type=private_code(name),
            algorithm_type="AUTOMATIC",
            algorithm_identification=identification,
            display_color=None
            if name not in colours
            else highdicom.color.CIELabColor.from_rgb(*bytes.fromhex(colours[name].removeprefix("#"))),
        )
        for number, name in enumerate(heatmap.classes, 1)
    ]


def _write(
    path: Path,
    result: SlideResult,
    source: DicomSource,
    raster: _Raster,
    segments: Sequence[Any],
    kind: Literal["BINARY", "FRACTIONAL"],
    label: str,
    series_number: int,
) -> None:
    if not raster.values.any():
        raise UsageError("this slide has nothing to segment", where=result.path)
    assert result.mpp is not None
    mpp = result.mpp
    mark = f"{result.mark.capitalize()}, " if result.mark else ""
    slide = highdicom.CoordinateSystemNames.SLIDE
    # The centre of the first pixel, which covers (left, top) to (left + across, top + down).
    first = source.position(raster.left + raster.across / 2, raster.top + raster.down / 2, mpp)
    with warnings.catch_warnings():
        # The patient name is that of the source, possibly a pseudonym or empty, and must not be changed.
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent the intended person name")
        made = highdicom.seg.Segmentation(
            source_images=[source.dataset],
            pixel_array=raster.values[None].astype(np.uint8 if kind == "BINARY" else np.float32),
            segmentation_type=kind,
            segment_descriptions=list(segments),
            max_fractional_value=_STEPS,
            series_instance_uid=highdicom.UID(),
            series_number=series_number,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=__version__,
            device_serial_number="0",
            content_label=label,
            content_description=f"{mark}{RESEARCH_USE_ONLY}"[:64],
            series_description=f"{label.capitalize()}, {mark.lower()}research use only",
            pixel_measures=highdicom.PixelMeasuresSequence(
                # Between rows, then between columns.
                pixel_spacing=(raster.down * mpp / 1000, raster.across * mpp / 1000),
                slice_thickness=_thickness(source),
            ),
            plane_orientation=highdicom.PlaneOrientationSequence(slide, source.orientation),
            plane_positions=[highdicom.PlanePositionSequence(slide, first, (1, 1))],
            tile_pixel_array=True,
            tile_size=(_TILE, _TILE),
            omit_empty_frames=False,
            # Every frame states its position; many readers do not support TILED_FULL.
            dimension_organization_type="TILED_SPARSE",
        )
    if result.warnings:
        made.ImageComments = valid_text(" | ".join(result.warnings))[:10_240]
    made.PatientOrientation = ""  # of type 2C; a slide has its own orientation attribute
    with replacing(path) as aside:
        made.save_as(aside)


def _thickness(source: DicomSource) -> float:
    groups = source.dataset.get("SharedFunctionalGroupsSequence") or []
    measures = groups[0].get("PixelMeasuresSequence") if groups else None
    # In mm; by default a section is about 4 µm thick, and 0 is not allowed.
    return float((measures[0].get("SliceThickness") if measures else None) or 0.004)

"""A slide's findings as a DICOM Structured Report: Imaging Measurement Report (TID 1500, PS3.16).

Measurement groups describe the whole slide: each class's probability and area, the tissue area and, for a detector, the
number and density of mitoses.  The hotspot is a separate group with its outline in the slide's frame of reference.  The
report is marked as unverified: nobody has confirmed it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from pathology._version import __version__
from pathology.atomic_files import replacing
from pathology.findings.hotspot import Hotspot, HotspotWindow
from pathology.findings.mitotic_count import HotspotCount
from pathology.findings.reviewed_count import ReviewedCount
from pathology.findings.slide_result import SlideResult
from pathology.formatting import RESEARCH_USE_ONLY
from pathology.outputs.export.dicom_codes import (
    AREA,
    COUNTS,
    MORPHOLOGY,
    NO_UNITS,
    PER_MM2,
    PROBABILITY,
    PROCEDURE,
    REPORT_TITLE,
    SQUARE_MM,
    TISSUE,
    private_code,
)
from pathology.outputs.export.dicom_seg import MANUFACTURER, algorithm
from pathology.outputs.export.dicom_source import DicomSource, dicom_source
from pathology.outputs.export.highdicom_library import highdicom
from pathology.path_text import valid_text

__all__ = ["write_dicom_report"]

_PREDICTION: Final = private_code("Predicted class of the slide")
_ABSTAINED: Final = private_code("Model abstained")
_WARNING: Final = private_code("Warning")
_SHARE: Final = private_code("Share of the scored tissue area")
_COUNT: Final = private_code("Number of mitotic figures")
_DENSITY: Final = private_code("Mitotic figures per area")
_LOWER: Final = private_code("Lower limit of the 95 percent interval")
_UPPER: Final = private_code("Upper limit of the 95 percent interval")
_HOTSPOT: Final = private_code("Mitotic hotspot")
_NOTICE: Final = private_code("Notice")
_RESEARCH: Final = private_code(RESEARCH_USE_ONLY.rstrip("."))


def write_dicom_report(path: Path, result: SlideResult, count: ReviewedCount | None = None) -> None:
    """Write the report.

    Parameters
    ----------
    path
        The file.
    result
        A scored slide.
    count
        Mitotic count after review, for a detector.

    Raises
    ------
    StoreError, SlideNotFoundError
        If required facts about the slide are missing; see :func:`pathology.outputs.export.dicom_source.dicom_source`.
    OutputError
        If the file cannot be written.
    """
    source = dicom_source(result)
    groups = [
        _whole_slide(result, source, count),
        *(_of_class(result, source, index) for index in range(len(result.classes))),
    ]
    if count is not None and count.hotspot is not None:
        groups.append(_hotspot(result, source, count.hotspot))
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=highdicom.UID(),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=f"{MANUFACTURER} {__version__}"[:64],
    )
    context = highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(
            observer_type=highdicom.sr.CodedConcept("121007", "DCM", "Device"), observer_identifying_attributes=device
        )
    )
    content = highdicom.sr.MeasurementReport(
        observation_context=context, procedure_reported=PROCEDURE, imaging_measurements=groups, title=REPORT_TITLE
    )
    with warnings.catch_warnings():
        # The patient name is that of the source, possibly a pseudonym or empty, and must not be changed.
        warnings.filterwarnings("ignore", message="The string .* is unlikely to represent the intended person name")
        made = highdicom.sr.Comprehensive3DSR(
            evidence=[source.dataset],
            content=content,
            series_instance_uid=highdicom.UID(),
            series_number=904,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description=f"Findings, {f'{result.mark}, ' if result.mark else ''}research use only",
        )
    with replacing(path) as aside:
        made.save_as(aside)


def _tracking(name: str) -> Any:  # noqa: ANN401 - highdicom's own type
    return highdicom.sr.TrackingIdentifier(uid=highdicom.UID(), identifier=name[:64])


def _measurement(name: Any, value: float, unit: Any) -> Any:  # noqa: ANN401 - highdicom's own types
    return highdicom.sr.Measurement(name=name, value=float(value), unit=unit)


def _image(source: DicomSource) -> Any:  # noqa: ANN401
    return highdicom.sr.SourceImageForMeasurementGroup.from_source_image(source.dataset)


def _whole_slide(result: SlideResult, source: DicomSource, count: ReviewedCount | None) -> Any:  # noqa: ANN401
    measurements = []
    if result.tissue_mm2 is not None:
        measurements.append(_measurement(AREA, result.tissue_mm2, SQUARE_MM))
    if count is not None:
        measurements.append(_measurement(_COUNT, count.total, COUNTS))
        if count.per_mm2 is not None:
            measurements.append(_measurement(_DENSITY, count.per_mm2, PER_MM2))
    evaluations = [
        highdicom.sr.QualitativeEvaluation(_NOTICE, _RESEARCH),
        highdicom.sr.QualitativeEvaluation(_ABSTAINED, private_code("yes" if result.abstained else "no")),
    ]
    evaluations += [
        highdicom.sr.QualitativeEvaluation(_WARNING, private_code(valid_text(warning))) for warning in result.warnings
    ]
    if result.prediction is not None:
        evaluations.append(highdicom.sr.QualitativeEvaluation(_PREDICTION, private_code(result.prediction)))
    return highdicom.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("whole slide"),
        finding_type=TISSUE,
        algorithm_id=_identification(result),
        measurements=measurements,
        qualitative_evaluations=evaluations,
        source_images=[_image(source)],
    )


def _of_class(result: SlideResult, source: DicomSource, index: int) -> Any:  # noqa: ANN401
    finding = result.classes[index]
    return highdicom.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(result.marked(valid_text(finding.name))),
        finding_category=MORPHOLOGY,
        finding_type=private_code(finding.name),
        algorithm_id=_identification(result),
        measurements=[
            _measurement(PROBABILITY, finding.probability, NO_UNITS),
            _measurement(_SHARE, finding.share, NO_UNITS),
            _measurement(AREA, finding.area_mm2, SQUARE_MM),
        ],
        source_images=[_image(source)],
    )


def _identification(result: SlideResult) -> Any:  # noqa: ANN401
    item = algorithm(result)[0]
    return highdicom.sr.AlgorithmIdentification(
        name=item.AlgorithmName, version=item.AlgorithmVersion, parameters=[f"weights_sha256={result.model_sha256}"]
    )


def _hotspot(result: SlideResult, source: DicomSource, count: HotspotCount) -> Any:  # noqa: ANN401
    assert result.mpp is not None
    shape = "rectangle" if count.shape == "rectangle" else "circle"
    window = HotspotWindow(shape=shape, area_mm2=count.area_mm2, aspect=count.half_width / count.half_height)
    border = Hotspot(window, count.x, count.y, count.half_width, count.half_height, count.members).outline()
    # Level-0 coordinates here have the first pixel's corner at 0, as position() expects.
    corners = np.array([source.position(x, y, result.mpp) for x, y in border.tolist()])
    low, high = count.per_mm2_interval
    return highdicom.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking("hotspot"),
        referenced_region=highdicom.sr.ImageRegion3D(
            graphic_type=highdicom.sr.GraphicTypeValues3D.POLYGON,
            graphic_data=corners,
            frame_of_reference_uid=source.dataset.FrameOfReferenceUID,
        ),
        finding_type=_HOTSPOT,
        measurements=[
            _measurement(_COUNT, count.count, COUNTS),
            # The area that the density rests on.
            _measurement(AREA, count.tissue_mm2 or count.area_mm2, SQUARE_MM),
            _measurement(_DENSITY, count.per_mm2, PER_MM2),
            _measurement(_LOWER, low, PER_MM2),
            _measurement(_UPPER, high, PER_MM2),
        ],
    )

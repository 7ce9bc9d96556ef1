"""Export formats for other programs, in one table."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import zarr
from PIL import Image
from pydantic import Field

from pathology.atomic_files import write_bytes, write_text
from pathology.errors import StoreError, UsageError
from pathology.findings.reviewed_count import ReviewedCount
from pathology.outputs.export.annotations import (
    class_features,
    detection_features,
    hotspot_feature,
    patch_features,
    tissue_features,
)
from pathology.outputs.export.detection_table import write_detection_table
from pathology.outputs.export.geojson import write_geojson
from pathology.outputs.export.ome_tiff import write_ome_tiff
from pathology.outputs.export.ome_zarr import write_ome_zarr
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.figures.overlay import LONGEST_SIDE
from pathology.outputs.figures.palette import class_colours
from pathology.outputs.reports.slide import report_pictures
from pathology.outputs.results.layout import PREDICTIONS
from pathology.outputs.results.results_folder import Results, SlideFolder
from pathology.settings import Record

__all__ = ["BATCH_FORMATS", "FORMATS", "BatchFormat", "ExportSettings", "Format", "export_batch", "export_slide"]


class ExportSettings(Record):
    """Settings of an export."""

    class_name: str | None = None
    """A single class to draw or write, for formats that show one; ``None``: the predicted class, or all."""
    longest: Annotated[int, Field(ge=64)] = LONGEST_SIDE
    """Longer side of the slide in an image, in pixels."""
    smooth_um: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation in µm of the Gaussian smoothing of maps; ``None``: no smoothing."""


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes
    ----------
    suffix
        End of the file name, after the slide's name.
    what
        Description on one line.
    write
        Writes one slide's file.
    needs
        What the slide must have: ``maps`` (it was scored), ``detections``, or nothing.
    """

    suffix: str
    what: str
    write: Callable[[SlideFolder, Path, ExportSettings], None]
    needs: str = "maps"


@dataclass(frozen=True)
class BatchFormat:
    """A format with one file for all slides of a batch.

    Attributes
    ----------
    file
        Name of the file.
    what
        Description on one line.
    write
        Writes it.
    """

    file: str
    what: str
    write: Callable[[Results, Path], None]


def _mpp(slide: SlideFolder) -> float:
    if slide.record.mpp is None:
        raise StoreError("the scale of the slide is unknown", where=slide.folder)
    return slide.record.mpp


def _heatmap(slide: SlideFolder, settings: ExportSettings) -> Heatmap:
    heatmap = slide.heatmaps
    return heatmap if settings.smooth_um is None else heatmap.smoothed(settings.smooth_um / _mpp(slide))


def _count(slide: SlideFolder) -> ReviewedCount | None:
    return slide.count()


def _geojson(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    features = [
        *class_features(slide.record, _heatmap(slide, settings)),
        *tissue_features(slide.tissue, slide.dimensions, slide.record.mpp),
    ]
    count = _count(slide)
    if count is not None and count.hotspot is not None:
        features.append(hotspot_feature(slide.record, count.hotspot))
    write_geojson(path, features, warnings=slide.record.warnings)


def _detections(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    del settings
    assert slide.detections is not None
    write_geojson(path, detection_features(slide.detections, slide.decisions()), warnings=slide.record.warnings)


def _table(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    del settings
    assert slide.detections is not None
    count = slide.count()
    write_detection_table(path, slide.detections, slide.decisions(), None if count is None else count.hotspot)


def _counted(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    del settings
    count = _count(slide)
    assert count is not None
    write_text(path, count.model_dump_json(indent=1))


def _patches(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    del settings
    group: Any = zarr.open_group(slide.folder / PREDICTIONS, mode="r")
    features = patch_features(
        group["coords"][...],
        group["probabilities"][...],
        slide.heatmaps.extent,
        slide.heatmaps.classes,
        class_colours(slide.card),
        slide.record.mark,
    )
    write_geojson(path, features, warnings=slide.record.warnings)


def _ome_zarr(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    write_ome_zarr(
        path,
        _heatmap(slide, settings),
        mpp=_mpp(slide),
        name=slide.record.marked(slide.slide_id),
        colours=class_colours(slide.card),
        warnings=slide.record.warnings,
    )


def _ome_tiff(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    write_ome_tiff(
        path,
        _heatmap(slide, settings),
        slide.dimensions,
        mpp=_mpp(slide),
        name=slide.record.marked(slide.slide_id),
        colours=class_colours(slide.card),
        warnings=slide.record.warnings,
    )


def _overlay(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    pixels = slide.overlay(settings.class_name, longest=settings.longest, smooth_um=settings.smooth_um)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    write_bytes(path, buffer.getvalue())


def _npz(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    heatmap = _heatmap(slide, settings)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        classes=np.array(heatmap.classes),
        probabilities=heatmap.values,
        origin=np.array(heatmap.origin),
        stride=np.array(heatmap.stride),
        mpp=np.array(_mpp(slide)),
        dimensions=np.array(slide.dimensions),
        tissue=slide.tissue,
        status=np.array(slide.record.status),
        abstained_because=np.array(slide.record.abstained_because),
        warnings=np.array(slide.record.warnings, dtype=str),
    )
    write_bytes(path, buffer.getvalue())


def _dicom_tissue(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    from pathology.outputs.export.dicom_seg import write_dicom_tissue

    del settings
    write_dicom_tissue(path, slide.record, slide.tissue)


def _dicom_regions(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    from pathology.outputs.export.dicom_seg import write_dicom_regions

    write_dicom_regions(path, slide.record, _heatmap(slide, settings))


def _dicom_probabilities(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    from pathology.outputs.export.dicom_seg import write_dicom_probabilities

    write_dicom_probabilities(path, slide.record, _heatmap(slide, settings))


def _dicom_report(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    from pathology.outputs.export.dicom_report import write_dicom_report

    del settings
    write_dicom_report(path, slide.record, _count(slide))


def _pdf(slide: SlideFolder, path: Path, settings: ExportSettings) -> None:
    from pathology.outputs.reports.pdf import write_slide_pdf

    pictures = None
    if slide.record.has_maps:
        pictures = report_pictures(slide.record, slide.card, slide.overview, _heatmap(slide, settings), slide.tissue)
    write_slide_pdf(path, slide.record, slide.card, pictures, count=_count(slide), made=slide.made)


def _excel_of_batch(results: Results, path: Path) -> None:
    from pathology.outputs.reports.excel import write_excel

    write_excel(path, [slide.record for slide in results])


def _pdf_of_batch(results: Results, path: Path) -> None:
    from pathology.outputs.reports.pdf import write_batch_pdf

    slides = list(results)
    if not slides:
        raise UsageError("these results contain no slides", where=results.folder)
    write_batch_pdf(path, [s.record for s in slides], slides[0].card, made=max(s.made for s in slides))


BATCH_FORMATS: Final[Mapping[str, BatchFormat]] = {
    "excel": BatchFormat("results.xlsx", "Excel workbook of all slides, columns with units", _excel_of_batch),
    "batch-pdf": BatchFormat("results.pdf", "batch report as PDF", _pdf_of_batch),
}
"""Formats with one file per batch, by the name used on the command line."""

FORMATS: Final[Mapping[str, Format]] = {
    "geojson": Format(".geojson", "QuPath: predicted classes, tissue, hotspot", _geojson),
    "detections": Format(
        ".detections.geojson", "QuPath: all detections, with review decisions", _detections, "detections"
    ),
    "detections-csv": Format(
        ".detections.csv", "table of all detections, for review in a spreadsheet", _table, "detections"
    ),
    "count": Format(".count.json", "mitotic count after review, with its hotspot", _counted, "detections"),
    "patches": Format(".patches.geojson", "QuPath: all patches with their probabilities", _patches),
    "ome-zarr": Format(".heatmap.ome.zarr", "class probabilities as OME-Zarr 0.5, in µm", _ome_zarr),
    "ome-tiff": Format(".heatmap.ome.tif", "class probabilities as pyramidal OME-TIFF, in µm", _ome_tiff),
    "overlay": Format(".overlay.png", "image of the heatmap over the slide", _overlay),
    "dicom-tissue": Format(".tissue.dcm", "DICOM segmentation: tissue", _dicom_tissue),
    "dicom-regions": Format(".regions.dcm", "DICOM segmentation: predicted classes", _dicom_regions),
    "dicom-probabilities": Format(
        ".probabilities.dcm", "DICOM segmentation, fractional: class probabilities", _dicom_probabilities
    ),
    "dicom-report": Format(".report.dcm", "DICOM structured report (TID 1500) with measurements", _dicom_report),
    "pdf": Format(".report.pdf", "slide report as PDF", _pdf, ""),
    "npz": Format(".heatmap.npz", "class probabilities and tissue as numpy arrays", _npz),
}
"""Formats with one file per slide, by the name used on the command line."""


def export_slide(slide: SlideFolder, name: str, folder: Path, settings: ExportSettings | None = None) -> Path:
    """Write one slide in one format.

    Parameters
    ----------
    slide
        A scored slide.
    name
        A key of :data:`FORMATS`.
    folder
        Folder for the file, which is named after the slide.
    settings
        Export settings; ``None``: the defaults.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    UsageError
        If the format is unknown, or the slide has nothing to write in it.
    StoreError
        If the slide was not scored or its results are damaged.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> from pathology import open_results
    >>> slide = open_results(results_path)["first"]
    >>> export_slide(slide, "geojson", folder).name
    'first.geojson'
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", remedy=f"Choose one of: {', '.join(FORMATS)}")
    kind = FORMATS[name]
    if kind.needs and slide.record.status == "failed":
        raise StoreError(f"the slide was not scored: {slide.record.error}", where=slide.folder)
    if kind.needs == "detections" and slide.detections is None:
        raise UsageError("this slide has no detections: the model is not a detector", where=slide.folder)
    path = folder / f"{slide.slide_id}{kind.suffix}"
    kind.write(slide, path, settings or ExportSettings())
    return path


def export_batch(results: Results, name: str, folder: Path) -> Path:
    """Write one file for all slides of a batch.

    Parameters
    ----------
    results
        The batch.
    name
        A key of :data:`BATCH_FORMATS`.
    folder
        Folder for the file.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    UsageError
        If the format is unknown, or there are no slides.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> from pathology import open_results
    >>> export_batch(open_results(results_path), "excel", folder).name
    'results.xlsx'
    """
    if name not in BATCH_FORMATS:
        raise UsageError(f"unknown format {name!r}", remedy=f"Choose one of: {', '.join(BATCH_FORMATS)}")
    path = folder / BATCH_FORMATS[name].file
    BATCH_FORMATS[name].write(results, path)
    return path

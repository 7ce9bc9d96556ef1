"""One slide's results folder: ``predictions.zarr``, images, report, and ``slide.json`` last.

=======================  ======================================================================================
``predictions.zarr``     ``coords (N, 2)`` int32 level-0 corners, ``probabilities (N, C)`` float32 (NaN where a patch
                         could not be read), ``tissue (N,)`` float32, ``tissue_mask (rows, columns)`` bool over the
                         whole slide, and a similar mask for each artefact (``pen_mask``, ...), at its own scale;
                         ``domain_score (N,)`` and ``attention (N,)`` float32 if the model provides them;
                         attributes: classes, patch extent and stride in level-0 pixels, grid, slide
``detections.parquet``   of a detector: every candidate; see :mod:`pathology.outputs.results.detection_file`
``heatmap.ome.zarr``     the class probabilities as an image with physical coordinates
``annotations.geojson``  regions of each predicted class and of tissue, for QuPath
``overlay.png``          the heatmap over the slide, with legend and scale bar
``overview.jpg``         the slide without heatmap
``preview.jpg``          a small overlay, for tables of slides
``report.html``          the slide report
``card.json``            the card of the model
``slide.json``           the record; written last, so a folder that has it is complete
=======================  ======================================================================================
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pathology.atomic_files import write_bytes, write_text
from pathology.outputs.export.annotations import class_features, detection_features, hotspot_feature, tissue_features
from pathology.outputs.export.geojson import write_geojson
from pathology.outputs.export.ome_zarr import write_ome_zarr
from pathology.outputs.figures.heatmap import build_heatmap
from pathology.outputs.figures.overlay import write_overlay
from pathology.outputs.figures.palette import class_colours
from pathology.outputs.figures.patch_gallery import attention_picture
from pathology.outputs.figures.thumbnail import SlidePicture, jpeg
from pathology.outputs.reports.batch import preview
from pathology.outputs.reports.slide import report_pictures, write_slide_report
from pathology.outputs.results.detection_file import DETECTIONS, write_detections
from pathology.outputs.results.layout import ANNOTATIONS, CARD, HEATMAP, OVERVIEW, PREDICTIONS, RECORD
from pathology.outputs.results.predictions import write_predictions
from pathology.outputs.results.record import write_slide_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pathology.bundle.card import Card
    from pathology.findings.scored_slide import ScoredSlide
    from pathology.findings.slide_result import SlideResult
    from pathology.outputs.export.geojson import Feature
    from pathology.outputs.figures.heatmap import Heatmap

__all__ = ["WRITTEN", "write_failure", "write_slide"]

WRITTEN = (
    PREDICTIONS,
    HEATMAP,
    DETECTIONS,
    ANNOTATIONS,
    CARD,
    OVERVIEW,
    "overlay.png",
    "preview.jpg",
    "quality.png",
    "report.html",
)
"""Files whose checksums the record of a scored slide contains."""


def write_slide(folder: Path, scored: ScoredSlide) -> None:
    """Write the results folder of a scored slide; the same result gives the same bytes.

    Parameters
    ----------
    folder
        The slide's folder; created if it does not exist, older results in it are replaced.
    scored
        The result.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    result, card, grid = scored.result, scored.card, scored.plan.grid
    tissue = scored.masks["tissue"]
    heatmap = build_heatmap(
        scored.plan.coords,
        scored.probabilities,
        scored.plan.tissue,
        classes=card.classes,
        extent=grid.patch_extent,
        stride=grid.settings.stride * grid.scale,
    )
    overview, (width, height) = scored.overview, grid.dimensions
    picture = SlidePicture(overview, (width / overview.shape[1], height / overview.shape[0]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # until everything is rewritten, the folder is incomplete
    (folder / "traceback.txt").unlink(missing_ok=True)
    write_predictions(folder, scored)
    if not all(heatmap.shape):
        shutil.rmtree(folder / HEATMAP, ignore_errors=True)
    else:
        write_ome_zarr(
            folder / HEATMAP,
            heatmap,
            mpp=grid.slide_mpp,
            name=result.marked(f"{result.slide_id}: {card.name}"),
            colours=class_colours(card),
            warnings=result.warnings,
        )
    if scored.detections is None:
        (folder / DETECTIONS).unlink(missing_ok=True)
    else:
        write_detections(folder, scored.detections)
    write_geojson(folder / ANNOTATIONS, _features(scored, heatmap), warnings=result.warnings)
    write_text(folder / CARD, card.model_dump_json(indent=1))
    write_bytes(folder / OVERVIEW, jpeg(overview, quality=90))
    write_overlay(folder / "overlay.png", result, card, picture, heatmap, tissue)
    pictures = report_pictures(result, card, picture, heatmap, tissue)
    write_bytes(folder / "preview.jpg", preview(pictures.painted))
    write_slide_report(
        folder / "report.html",
        result,
        card,
        pictures,
        made=scored.made,
        crops=scored.crops,
        patches=scored.representative,
        attention=attention_picture(scored.attention, scored.plan.coords, grid.patch_extent, picture),
    )
    write_slide_record(folder, result, [folder / name for name in WRITTEN])


def _features(scored: ScoredSlide, heatmap: Heatmap) -> Iterator[Feature]:
    grid = scored.plan.grid
    if scored.detections is None:
        yield from class_features(scored.result, heatmap)
    yield from tissue_features(scored.masks["tissue"], grid.dimensions, grid.slide_mpp)
    if scored.result.mitoses is not None and scored.result.mitoses.hotspot is not None:
        yield hotspot_feature(scored.result, scored.result.mitoses.hotspot)
    if scored.detections is not None:
        yield from detection_features(scored.detections)


def write_failure(folder: Path, result: SlideResult, card: Card, *, made: datetime, traceback: str = "") -> None:
    """Write the folder of a slide that could not be scored: its report, the traceback if any, and the record."""
    if traceback:
        write_text(folder / "traceback.txt", traceback)
    write_text(folder / CARD, card.model_dump_json(indent=1))
    write_slide_report(folder / "report.html", result, card, made=made)
    write_slide_record(folder, result, [folder / CARD, folder / "report.html", folder / "traceback.txt"])

"""``report.html``: results of one slide, processing and limitations, on one self-contained page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pathology.atomic_files import write_text
from pathology.bundle.card import Card, Metric
from pathology.findings.scored_slide import DetectionCrop, RepresentativePatch
from pathology.findings.slide_result import SlideResult
from pathology.formatting import MPP_SOURCES, NOT_KNOWN
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.figures.overlay import OPACITY, ScaleBar, paint, scale_bar
from pathology.outputs.figures.palette import class_colours
from pathology.outputs.figures.patch_gallery import gallery_rows
from pathology.outputs.figures.thumbnail import SlidePicture, jpeg
from pathology.outputs.reports.mitoses import hotspot_outline, mitosis_section, outlined
from pathology.outputs.reports.render import render
from pathology.reports.html import data_uri
from pathology.settings import ScoreSettings

__all__ = ["REPORT_LONGEST_SIDE", "ReportPictures", "report_pictures", "slide_report", "write_slide_report"]

REPORT_LONGEST_SIDE = 1000
"""Longer side of each image in a report, in pixels: half an A4 page at 300 dots per inch."""


@dataclass(frozen=True)
class ReportPictures:
    """Two images of a slide at the same size: without and with its heatmap.

    Attributes
    ----------
    plain, painted
        ``(H, W, 3)`` uint8 RGB.
    bar
        Scale bar for both; ``None`` if the scale is unknown.
    """

    plain: NDArray[np.uint8]
    painted: NDArray[np.uint8]
    bar: ScaleBar | None


def report_pictures(
    result: SlideResult, card: Card, picture: SlidePicture, heatmap: Heatmap, tissue: NDArray[np.bool_]
) -> ReportPictures:
    """Draw the images of a report.

    Parameters
    ----------
    result
        The scored slide; ``width`` and ``height`` must be known.
    card
        Its model.
    picture, heatmap, tissue
        See :func:`pathology.outputs.figures.overlay.paint`.

    Raises
    ------
    UsageError
        As :func:`pathology.outputs.figures.overlay.paint`.
    """
    dimensions = result.width or picture.size[0], result.height or picture.size[1]
    shown = picture.shown(dimensions, REPORT_LONGEST_SIDE)
    painted = paint(shown, heatmap, tissue, dimensions, colours=class_colours(card))
    bar = None if result.mpp is None else scale_bar(shown.size[0], result.mpp * shown.scale[0])
    plain = shown.pixels
    hotspot = result.mitoses.hotspot if result.mitoses is not None else None
    if hotspot is not None:
        outline = hotspot_outline(hotspot)
        plain, painted = (outlined(pixels, outline, shown.scale) for pixels in (plain, painted))
    return ReportPictures(plain, painted, bar)


def slide_report(
    result: SlideResult,
    card: Card,
    pictures: ReportPictures | None = None,
    *,
    timing: Mapping[str, float] | None = None,
    made: datetime | None = None,
    crops: Sequence[DetectionCrop] = (),
    patches: Sequence[RepresentativePatch] = (),
    attention: NDArray[np.uint8] | None = None,
) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    result
        The slide, scored or failed.
    card
        The model.
    pictures
        Its images, if any; a failed slide usually has none.
    timing
        Seconds per step, by display name, in the order of the steps.
    made
        When the slide was scored; shown with its time zone.
    crops
        For a detector: images of the detections in the hotspot.
    patches
        For a classifier: the top-scoring patches of each class.
    attention
        The slide with the attention weights of a trained aggregator, ``(H, W, 3)`` uint8 RGB.
    """
    colours = dict(zip(card.classes, class_colours(card), strict=True))
    return render(
        "slide.html",
        result=result,
        card=card,
        colours=colours,
        pictures=None if pictures is None else _embedded(pictures),
        opacity=OPACITY,
        mpp_source=MPP_SOURCES.get(result.mpp_source or "", result.mpp_source or ""),
        metrics=[(metric, _metric_value(metric)) for metric in card.metrics],
        further=list(_flat(result.extra)),
        mitoses=mitosis_section(result, card, crops),
        representative=gallery_rows(patches),
        attention=None if attention is None else data_uri(jpeg(attention), "image/jpeg"),
        settings=list(_settings(result.settings)),
        timing=dict(timing or {}),
        made="" if made is None else f"{made:%d %B %Y, %H:%M %Z}".rstrip(),
    )


def write_slide_report(
    path: Path,
    result: SlideResult,
    card: Card,
    pictures: ReportPictures | None = None,
    *,
    timing: Mapping[str, float] | None = None,
    made: datetime | None = None,
    crops: Sequence[DetectionCrop] = (),
    patches: Sequence[RepresentativePatch] = (),
    attention: NDArray[np.uint8] | None = None,
) -> None:
    """Write :func:`slide_report`, completely or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    page = slide_report(
        result, card, pictures, timing=timing, made=made, crops=crops, patches=patches, attention=attention
    )
    write_text(path, page)


def _embedded(pictures: ReportPictures) -> dict[str, Any]:
    height, width = pictures.plain.shape[:2]
    return {
        "plain": data_uri(jpeg(pictures.plain), "image/jpeg"),
        "painted": data_uri(jpeg(pictures.painted), "image/jpeg"),
        "width": width,
        "height": height,
        "bar": pictures.bar,
    }


def _metric_value(metric: Metric) -> str:
    if metric.value is None or metric.interval is None:
        return "not estimated"
    low, high = metric.interval
    return f"{metric.value:.3g} ({metric.level:.0%} CI {low:.3g} to {high:.3g})"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``(name, value)`` of nested findings, names joined as ``outer: inner``.

    Lists are skipped: they are machine-readable records.
    """
    for name, value in values.items():
        label = f"{before}: {name}" if before else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, label)
        elif not isinstance(value, (list, tuple)):
            yield label.replace("_", " "), _value_text(value)


def _value_text(value: object) -> str:
    if value is None:
        return NOT_KNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _settings(
    values: Mapping[str, Any], model: type[BaseModel] | None = ScoreSettings, before: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield ``(name, value, meaning)``; the meaning is the first sentence of the setting's documentation."""
    for name, value in values.items():
        label = f"{before}.{name}" if before else name
        field = None if model is None else model.model_fields.get(name)
        if isinstance(value, Mapping):
            kind = None if field is None else field.annotation
            yield from _settings(value, kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None, label)
            continue
        meaning = "" if field is None or field.description is None else " ".join(field.description.split())
        # Docstrings are written for Sphinx: take the first sentence, without markup.
        first = re.split(r"(?<=\.)\s", meaning, maxsplit=1)[0].rstrip(".")
        first = re.sub(r":\w+:`([^`]+)`|``", r"\1", first)
        yield label, "none" if value is None else _value_text(value), first

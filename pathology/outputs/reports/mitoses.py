"""The mitosis section of a slide report: count, hotspot, candidates, and inputs still missing for a grade."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathology.findings.grading.assessment import MissingInputsError, MitosesInArea
from pathology.findings.grading.fnclcc import grade_fnclcc, mitotic_cutoffs_per_mm2
from pathology.findings.hotspot import Hotspot, HotspotWindow
from pathology.findings.mitotic_count import FNCLCC_FIELD, MODERN_FIELD, HotspotCount
from pathology.outputs.figures.thumbnail import jpeg
from pathology.reports.html import data_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathology.bundle.card import Card
    from pathology.findings.scored_slide import DetectionCrop
    from pathology.findings.slide_result import SlideResult

__all__ = [
    "FalseAlarms",
    "false_alarms",
    "hotspot_outline",
    "mitosis_section",
    "outlined",
]

_FULL = 0.8
"""Tissue fraction below which the report states that glass dilutes a window's density, and omits the comparison with
the simulation, whose windows contain only tissue."""
_LINE = (214, 39, 40)
_FALSE_ALARMS = "false positives per mm²"
"""The metric on a detector's card that states its rate of false positives."""


def hotspot_outline(count: HotspotCount) -> NDArray[np.float64]:
    """Return the outline of the hotspot as a closed polygon in level-0 pixels."""
    window = HotspotWindow.model_validate(
        {"shape": count.shape, "area_mm2": count.area_mm2, "aspect": count.half_width / count.half_height}
    )
    return Hotspot(window, count.x, count.y, count.half_width, count.half_height, ()).outline()


def outlined(pixels: NDArray[np.uint8], outline: NDArray[np.float64], shrink: tuple[float, float]) -> NDArray[np.uint8]:
    """Draw a polygon on an image of the slide.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB; not changed.
    outline
        ``(K, 2)`` level-0 pixels.
    shrink
        Level-0 pixels per image pixel, horizontally and vertically.
    """
    image = Image.fromarray(pixels)
    points = [(float(x / shrink[0]), float(y / shrink[1])) for x, y in outline]
    width = max(2, round(max(pixels.shape[:2]) / 250))
    draw = ImageDraw.Draw(image)
    # White under red: visible on glass, on tissue and on any heatmap.
    draw.line(points, fill=(255, 255, 255), width=width * 2 + 1, joint="curve")
    draw.line(points, fill=_LINE, width=width, joint="curve")
    return np.asarray(image)


@dataclass(frozen=True)
class FalseAlarms:
    """False positives of a detector on tissue without mitoses.

    Attributes
    ----------
    per_mm2, interval
        Rate on the card.
    data
        Data it was measured on.
    here, here_interval
        The same rate applied to the tissue of this slide: detections to expect without any mitosis.
    """

    per_mm2: float
    interval: tuple[float, float]
    data: str
    here: float
    here_interval: tuple[float, float]


def false_alarms(card: Card, tissue_mm2: float) -> FalseAlarms | None:
    """Return the false positives to expect on a slide at the card's rate; ``None`` if the card has no rate.

    Parameters
    ----------
    card
        The detector's card.
    tissue_mm2
        Tissue that was searched.
    """
    rate = next((m for m in card.metrics if m.metric == _FALSE_ALARMS and m.value is not None), None)
    if rate is None:
        return None
    assert rate.value is not None
    assert rate.interval is not None
    low, high = rate.interval
    return FalseAlarms(
        rate.value,
        rate.interval,
        rate.data,
        rate.value * tissue_mm2,
        (low * tissue_mm2, high * tissue_mm2),
    )


def mitosis_section(result: SlideResult, card: Card, crops: Sequence[DetectionCrop] = ()) -> dict[str, Any] | None:
    """Return the template's values about mitoses; ``None`` if the model does not count mitoses.

    Parameters
    ----------
    result
        The result, which has ``mitoses`` if it was scored by a detector.
    card
        The detector's card.
    crops
        Images of the candidates in the hotspot.
    """
    found = result.mitoses
    if found is None:
        return None
    hotspot = found.hotspot
    low, high = mitotic_cutoffs_per_mm2()
    return {
        **found.model_dump(),
        "hotspot": hotspot,
        "fields": [] if hotspot is None else _fields(hotspot),
        "distance_mm": None if hotspot is None or result.mpp is None else _place(hotspot, result.mpp),
        "cutoffs": (low, high),
        "sparse": hotspot is not None and hotspot.tissue_share is not None and 0 < hotspot.tissue_share < _FULL,
        "missing": _missing(hotspot),
        "training_data": [data.name for data in card.training_data],
        "false_alarms": None if not result.tissue_mm2 else false_alarms(card, result.tissue_mm2),
        "gallery": [
            {"row": c.row, "score": c.score, "picture": data_uri(jpeg(c.pixels, quality=85), "image/jpeg")}
            for c in crops
        ],
    }


def _fields(hotspot: HotspotCount) -> list[dict[str, Any]]:
    areas = {convention.name: convention for convention in (FNCLCC_FIELD, MODERN_FIELD)}
    return [
        {"name": name, "count": count, "field_mm2": areas[name].field_mm2, "area_mm2": areas[name].area_mm2}
        for name, count in hotspot.per_fields.items()
        if name in areas
    ]


def _place(hotspot: HotspotCount, mpp: float) -> tuple[float, float]:
    return hotspot.x * mpp / 1000, hotspot.y * mpp / 1000


def _missing(hotspot: HotspotCount | None) -> tuple[str, ...]:
    """Return the inputs other than mitoses that an FNCLCC grade requires."""
    area = hotspot.area_mm2 if hotspot is not None else math.pi
    count = hotspot.count if hotspot is not None else 0
    try:
        grade_fnclcc(mitoses=MitosesInArea(count=count, area_mm2=area, origin="model"))
    except MissingInputsError as error:
        return error.missing
    raise AssertionError("a grade requires more than mitoses")

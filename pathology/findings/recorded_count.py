"""The mitotic count of a slide as it was scored, and what is said of a slide in one line."""

from __future__ import annotations

from dataclasses import dataclass

from pathology.findings.slide_result import SlideResult
from pathology.formatting import NOT_KNOWN

__all__ = ["RecordedCount", "finding_said", "recorded_count"]


@dataclass(frozen=True)
class RecordedCount:
    """Mitoses of a slide, before anybody decided about one.

    Attributes
    ----------
    total
        On the whole slide.
    per_mm2
        Per mm² of tissue.
    hotspot, hotspot_mm2, hotspot_per_mm2
        In the densest window, its area, and their density; ``None`` where there is no such window, a density of 0
        where there is no mitosis.
    """

    total: int
    per_mm2: float | None
    hotspot: int | None
    hotspot_mm2: float | None
    hotspot_per_mm2: float | None


def recorded_count(result: SlideResult) -> RecordedCount | None:
    """Return a slide's count, ``None`` where no detector looked at it."""
    count = result.extra.get("mitoses")
    if not isinstance(count, dict) or "total" not in count:
        return None
    hotspot = count.get("hotspot") or {}
    return RecordedCount(
        total=count["total"],
        per_mm2=count.get("overall_per_mm2"),
        hotspot=hotspot.get("count"),
        hotspot_mm2=hotspot.get("area_mm2"),
        hotspot_per_mm2=hotspot.get("per_mm2", 0.0 if count["total"] == 0 else None),
    )


def finding_said(result: SlideResult) -> str:
    """Return what was found in a scored slide: its class, or how many mitoses."""
    count = recorded_count(result)
    if result.prediction is not None or count is None:
        return result.prediction or NOT_KNOWN
    noun = "mitosis" if count.total == 1 else "mitoses"
    where = "" if not count.hotspot_per_mm2 else f", {count.hotspot_per_mm2:.1f} per mm² in the hotspot"
    return f"{count.total:,} {noun}{where}"

"""Mitotic count of a slide after review of its detections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from pathology.findings.mitotic_count import HotspotCount, TissueMap, count_mitoses
from pathology.findings.slide_detections import Decision, SlideDetections
from pathology.settings import Record

__all__ = ["HOTSPOT_LIMIT", "ReviewedCount", "count_reviewed"]

HOTSPOT_LIMIT: Final = 20_000
"""Largest number of counted detections for which a hotspot is searched (2 s at this number, 40 ms at 2,000).  If a
slide has more, they are not mitoses, and their hotspot is meaningless."""


class ReviewedCount(Record):
    """Counts of a slide's detections, taking the review into account."""

    detections: int
    """Number of detections of any score."""
    total: int
    """Number of detections that count."""
    accepted: int
    """Number accepted by a reviewer."""
    rejected: int
    """Number rejected by a reviewer."""
    added: int = 0
    """Number that the detector did not find and a reviewer added; included in ``total``."""
    tissue_mm2: float | None
    """Tissue searched."""
    per_mm2: float | None
    """Mean density over the tissue; ``None`` if its area is unknown."""
    hotspot: HotspotCount | None
    """Its members are rows of ``detections.parquet``, or of added mitoses.  ``None`` if nothing counts, the scale is
    unknown, or above :data:`HOTSPOT_LIMIT`."""


def count_reviewed(
    detections: SlideDetections,
    decisions: Mapping[int, Decision] | None = None,
    *,
    mpp: float | None,
    tissue_mm2: float | None,
    tissue: TissueMap | None = None,
) -> ReviewedCount:
    """Count a slide's detections.

    Parameters
    ----------
    detections, decisions
        Of the slide.
    mpp
        Micrometres per level-0 pixel.
    tissue_mm2
        Tissue searched.
    tissue
        The slide's tissue mask, for the density in the hotspot.
    """
    decisions = decisions or {}
    rows = np.flatnonzero(detections.counted(decisions))
    added = [decision for decision in decisions.values() if decision.verdict == "added"]
    rows = np.concatenate([rows, np.array([decision.row for decision in added], rows.dtype)])
    hotspot = None
    if mpp is not None and 0 < len(rows) <= HOTSPOT_LIMIT:
        places = np.array([(decision.x, decision.y) for decision in added], np.float64).reshape(-1, 2)
        centres = np.concatenate([detections.found.centres[rows[: len(rows) - len(added)]], places])
        found = count_mitoses(centres, mpp, window=detections.header.window, tissue=tissue).hotspot
        assert found is not None
        hotspot = found.model_copy(update={"members": tuple(int(rows[member]) for member in found.members)})
    return ReviewedCount(
        detections=len(detections),
        total=len(rows),
        accepted=sum(decision.verdict == "accepted" for decision in decisions.values()),
        rejected=sum(decision.verdict == "rejected" for decision in decisions.values()),
        added=len(added),
        tissue_mm2=tissue_mm2,
        per_mm2=len(rows) / tissue_mm2 if tissue_mm2 else None,
        hotspot=hotspot,
    )

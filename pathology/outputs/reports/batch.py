"""``index.html``: overview of all slides of a batch, with links to their reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.atomic_files import write_text
from pathology.bundle.card import Card
from pathology.findings.slide_result import SlideResult
from pathology.outputs.figures.palette import class_colours
from pathology.outputs.figures.thumbnail import jpeg
from pathology.outputs.reports.render import render
from pathology.reports.html import data_uri, relative_link

__all__ = ["IndexEntry", "batch_report", "preview", "write_batch_report"]

PREVIEW_LONGEST_SIDE = 160
"""Longer side of a preview, in pixels: sharp at its size of 90 points on the batch page; about 6 KB."""

EMBEDDED_PREVIEWS = 16 * 2**20
"""Largest number of bytes of previews embedded in the page; beyond this (a few thousand slides) the page would load
slowly, and further previews are omitted."""

FIRST_ROWS = 100
"""Rows shown at first; further ones are behind buttons, so that a page of ten thousand slides opens at once."""

BARS = 4
"""Largest number of classes with a bar per row; with more, the most probable ones are shown."""


@dataclass(frozen=True)
class IndexEntry:
    """One slide's row.

    Attributes
    ----------
    result
        The slide.
    folder
        Name of its folder under ``slides/``; ``None`` if it has none, so that nothing is linked.
    preview
        Its :func:`preview`, if any.
    """

    result: SlideResult
    folder: str | None = None
    preview: bytes | None = None


def preview(painted: NDArray[np.uint8]) -> bytes:
    """Return a small JPEG for the batch page.

    Parameters
    ----------
    painted
        ``(H, W, 3)`` uint8 RGB: the slide under its heatmap, at any size.
    """
    image = Image.fromarray(painted)
    image.thumbnail((PREVIEW_LONGEST_SIDE, PREVIEW_LONGEST_SIDE), Image.Resampling.LANCZOS)
    return jpeg(np.asarray(image), quality=80)


def batch_report(entries: Sequence[IndexEntry], card: Card, *, made: datetime | None = None) -> str:
    """Return the batch report as HTML.

    Parameters
    ----------
    entries
        In the initial order of the rows.
    card
        The model that scored them.
    made
        When the run ended; shown with its time zone.
    """
    results = [entry.result for entry in entries]
    scored = [result for result in results if result.has_maps]
    embed = sum(len(entry.preview or b"") for entry in entries) <= EMBEDDED_PREVIEWS
    colours = dict(zip(card.classes, class_colours(card), strict=True))
    predictions = Counter(result.prediction for result in scored if result.prediction is not None)
    return render(
        "batch.html",
        card=card,
        colours=colours,
        rows=[_row(entry, embed=embed) for entry in entries],
        first_rows=FIRST_ROWS,
        counts={
            "slides": len(results),
            "scored": sum(result.status == "scored" for result in results),
            "abstained": sum(result.abstained for result in scored),
            "failed": len(results) - len(scored),
        },
        predictions=[(name, predictions[name]) for name in card.classes] if card.task == "classification" else [],
        tissue=sum(result.tissue_mm2 or 0 for result in scored),
        patches=sum(result.patches for result in scored),
        patients=len({result.patient_id for result in results if result.patient_id is not None}),
        made="" if made is None else f"{made:%d %B %Y, %H:%M %Z}".rstrip(),
    )


def write_batch_report(path: Path, entries: Sequence[IndexEntry], card: Card, *, made: datetime | None = None) -> None:
    """Write :func:`batch_report`, completely or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_text(path, batch_report(entries, card, made=made))


def _row(entry: IndexEntry, *, embed: bool) -> dict[str, Any]:
    ranked = sorted(entry.result.classes, key=lambda finding: -finding.probability)
    # Show one more class than fits: "and 1 more" would take the same space.
    shown = ranked if len(ranked) <= BARS + 1 else ranked[:BARS]
    return {
        "result": entry.result,
        "said": entry.result.finding,
        "report": None if entry.folder is None else relative_link("slides", entry.folder, "report.html"),
        "overlay": None if entry.folder is None else relative_link("slides", entry.folder, "overlay.png"),
        "preview": data_uri(entry.preview, "image/jpeg") if embed and entry.preview else None,
        "bars": [finding for finding in entry.result.classes if finding in shown],
        "hidden": len(ranked) - len(shown),
    }

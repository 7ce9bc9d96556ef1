"""What people look at in one slide's results folder: overlay, preview and report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.bundle.card import Card
from pathology.findings.slide_result import SlideResult
from pathology.outputs.atomic import write_bytes
from pathology.outputs.heatmap import Heatmap
from pathology.outputs.overlay import write_overlay
from pathology.outputs.picture import SlidePicture, jpeg
from pathology.outputs.report import report_pictures, write_slide_report

__all__ = ["OVERLAY_NAME", "PREVIEW_NAME", "REPORT_NAME", "preview", "write_slide_pages"]

OVERLAY_NAME, PREVIEW_NAME, REPORT_NAME = "overlay.png", "preview.jpg", "report.html"

PREVIEW_LONGEST_SIDE = 160
"""Longer side of a preview, in pixels: sharp at the 90 points at which the batch page shows it; about 6 KB."""


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


def write_slide_pages(
    folder: Path,
    result: SlideResult,
    card: Card,
    picture: SlidePicture,
    heatmap: Heatmap,
    tissue: NDArray[np.bool_],
    *,
    timing: Mapping[str, float] | None = None,
    made: datetime | None = None,
) -> None:
    """Write ``overlay.png``, ``preview.jpg`` and ``report.html`` of a scored slide, each whole or not at all.

    Parameters
    ----------
    folder
        The slide's results folder; made if it is missing.
    result, card, picture, heatmap, tissue
        See :func:`pathology.outputs.overlay.compose_overlay`.
    timing, made
        See :func:`pathology.outputs.report.slide_report`.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    pictures = report_pictures(result, card, picture, heatmap, tissue)
    write_overlay(folder / OVERLAY_NAME, result, card, picture, heatmap, tissue)
    write_bytes(folder / PREVIEW_NAME, preview(pictures.painted))
    write_slide_report(folder / REPORT_NAME, result, card, pictures, timing=timing, made=made)

"""Images cropped from the slide for its result: detections in the hotspot and top-scoring patches of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.findings.scored_slide import DetectionCrop, RepresentativePatch

if TYPE_CHECKING:
    from pathology.findings.slide_detections import SlideDetections
    from pathology.slide.readers.base import SlideReader

__all__ = ["MOST_DETECTIONS", "PATCHES_PER_CLASS", "cut_detections", "cut_representative", "representative_rows"]

MOST_DETECTIONS = 60
"""Largest number of detections shown; about 4 KB each."""
PATCHES_PER_CLASS = 4
"""Patches shown per class."""
_DETECTION_UM = 32.0
"""Side length of a detection's image in µm: the mitotic figure and its surroundings."""
_DETECTION_PX = 96
"""Side length of a detection's image in pixels."""
_PATCH_PX = 168
"""Side length of a patch's image in pixels; about 8 KB."""


def cut_detections(
    reader: SlideReader, detections: SlideDetections, rows: Sequence[int], mpp: float, most: int = MOST_DETECTIONS
) -> tuple[DetectionCrop, ...]:
    """Crop images of detections from the slide.

    Parameters
    ----------
    reader
        The slide.
    detections
        All of its detections.
    rows
        Candidates; the ``most`` with the highest scores are shown.
    mpp
        Micrometres per level-0 pixel.
    most
        Largest number of images.
    """
    side = max(8, round(_DETECTION_UM / mpp))
    chosen = sorted(rows, key=lambda row: (-float(detections.found.scores[row]), row))[:most]
    centres = detections.found.centres
    gallery = []
    for row in chosen:
        x, y = (round(float(v) - side / 2) for v in centres[row])
        # Unreadable tiles are shown white instead of failing the slide.
        region = Image.fromarray(reader.read_masked(0, x, y, side, side).pixels)
        shown = np.asarray(region.resize((_DETECTION_PX, _DETECTION_PX), Image.Resampling.LANCZOS))
        gallery.append(DetectionCrop(row, float(detections.found.scores[row]), shown))
    return tuple(gallery)


def representative_rows(
    probabilities: NDArray[np.floating],
    coords: NDArray[np.integer],
    extent: float,
    *,
    most: int = PATCHES_PER_CLASS,
) -> list[list[int]]:
    """Select for each class the non-overlapping patches predicted as it with the highest probability.

    Parameters
    ----------
    probabilities
        ``(N, C)``; rows of NaN are ignored.
    coords
        ``(N, 2)`` level-0 corners.
    extent
        Side length of a patch in level-0 pixels.
    most
        Patches per class.

    Returns
    -------
    list of list of int
        Rows by class, in order of decreasing probability; empty if no patch is predicted as the class.
    """
    predicted = np.where(np.isnan(probabilities).any(axis=1), -1, np.nan_to_num(probabilities).argmax(axis=1))
    chosen: list[list[int]] = []
    for k in range(probabilities.shape[1]):
        rows = np.flatnonzero(predicted == k)
        kept: list[int] = []
        for row in rows[np.argsort(-probabilities[rows, k], kind="stable")]:
            away = np.abs(coords[kept].astype(np.int64) - coords[row]).max(axis=1) if kept else np.array([np.inf])
            if away.min() >= extent:
                kept.append(int(row))
            if len(kept) == most:
                break
        chosen.append(kept)
    return chosen


def cut_representative(
    reader: SlideReader,
    rows: Sequence[Sequence[int]],
    classes: Sequence[str],
    probabilities: NDArray[np.floating],
    coords: NDArray[np.integer],
    extent: float,
    attention: NDArray[np.floating] | None = None,
) -> tuple[RepresentativePatch, ...]:
    """Crop the selected patches from the slide.

    Parameters
    ----------
    reader
        The slide.
    rows
        By class; see :func:`representative_rows`.
    classes
        Class names.
    probabilities, coords, extent
        As for :func:`representative_rows`.
    attention
        ``(N,)`` weight of each patch, NaN where it could not be read.
    """
    even = 1 / max(1, int((~np.isnan(attention)).sum())) if attention is not None else 1.0
    found = []
    for k, chosen in enumerate(rows):
        for row in chosen:
            x, y = (int(value) for value in coords[row])
            side = max(1, round(extent))
            level = max(i for i, one in enumerate(reader.levels) if i == 0 or side / one.downsample >= _PATCH_PX)
            factor = reader.levels[level].downsample
            size = max(1, round(side / factor))
            region = reader.read_masked(level, round(x / factor), round(y / factor), size, size)
            pixels = cv2.resize(region.pixels, (_PATCH_PX, _PATCH_PX), interpolation=cv2.INTER_AREA)
            found.append(
                RepresentativePatch(
                    row,
                    classes[k],
                    float(probabilities[row, k]),
                    None if attention is None else float(attention[row]) / even,
                    np.asarray(pixels, np.uint8),
                )
            )
    return tuple(found)

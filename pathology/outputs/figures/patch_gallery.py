"""The patches that speak most for each class, cut out of the slide for its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.outputs.figures.thumbnail import jpeg
from pathology.reports.html import data_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathology.outputs.figures.thumbnail import SlidePicture
    from pathology.slide.readers.base import SlideReader

__all__ = [
    "PATCHES_PER_CLASS",
    "RepresentativePatch",
    "attention_picture",
    "cut_patches",
    "gallery_rows",
    "representative_rows",
]

PATCHES_PER_CLASS = 4
"""Patches shown of each class."""
_SIDE_PX = 168
"""Side of a picture in pixels; about 8 KB."""
_LONGEST = 1000
_RED = (200, 20, 30)


@dataclass(frozen=True)
class RepresentativePatch:
    """One picture of the gallery.

    Attributes
    ----------
    row
        In ``predictions.zarr``.
    name
        Class it speaks for.
    probability
        Of that class.
    attention
        Its weight in a learned aggregator's answer, as a multiple of an even share; ``None`` without one.
    pixels
        ``(168, 168, 3)`` uint8 RGB.
    """

    row: int
    name: str
    probability: float
    attention: float | None
    pixels: NDArray[np.uint8]


def representative_rows(
    probabilities: NDArray[np.floating],
    coords: NDArray[np.integer],
    extent: float,
    *,
    most: int = PATCHES_PER_CLASS,
) -> list[list[int]]:
    """Choose for each class the patches where it leads and is most probable, no two of which overlap.

    Parameters
    ----------
    probabilities
        ``(N, C)``; rows of NaN are left out.
    coords
        ``(N, 2)`` level-0 corners.
    extent
        Side of a patch in level-0 pixels.
    most
        Patches of each class.

    Returns
    -------
    list of list of int
        Rows by class, the most probable first; empty where the class leads nowhere.
    """
    leading = np.where(np.isnan(probabilities).any(axis=1), -1, np.nan_to_num(probabilities).argmax(axis=1))
    chosen: list[list[int]] = []
    for k in range(probabilities.shape[1]):
        rows = np.flatnonzero(leading == k)
        kept: list[int] = []
        for row in rows[np.argsort(-probabilities[rows, k], kind="stable")]:
            away = np.abs(coords[kept].astype(np.int64) - coords[row]).max(axis=1) if kept else np.array([np.inf])
            if away.min() >= extent:
                kept.append(int(row))
            if len(kept) == most:
                break
        chosen.append(kept)
    return chosen


def cut_patches(
    reader: SlideReader,
    rows: Sequence[Sequence[int]],
    classes: Sequence[str],
    probabilities: NDArray[np.floating],
    coords: NDArray[np.integer],
    extent: float,
    attention: NDArray[np.floating] | None = None,
) -> tuple[RepresentativePatch, ...]:
    """Cut chosen patches out of the slide.

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
            level = max(i for i, one in enumerate(reader.levels) if i == 0 or side / one.downsample >= _SIDE_PX)
            factor = reader.levels[level].downsample
            size = max(1, round(side / factor))
            region = reader.read_masked(level, round(x / factor), round(y / factor), size, size)
            pixels = cv2.resize(region.pixels, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
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


def attention_picture(
    attention: NDArray[np.floating] | None, coords: NDArray[np.integer], extent: float, picture: SlidePicture
) -> NDArray[np.uint8] | None:
    """Stitch the weights of patches over the slide.

    Where patches overlap, the heaviest counts.

    Parameters
    ----------
    attention
        ``(N,)`` weight of each patch, NaN where it could not be read; ``None``: there are none.
    coords, extent
        As for :func:`representative_rows`.
    picture
        The slide at low magnification.

    Returns
    -------
    numpy.ndarray or None
        ``(H, W, 3)`` uint8 RGB, at most 1000 px long: grey, and red by weight.
    """
    if attention is None or np.isnan(attention).all():
        return None
    height, width = picture.pixels.shape[:2]
    weights = np.zeros((height, width), np.float32)
    for (x, y), weight in zip(coords.tolist(), (attention / np.nanmax(attention)).tolist(), strict=True):
        if np.isnan(weight):
            continue
        left, top = round(x / picture.scale[0]), round(y / picture.scale[1])
        right = max(left + 1, round((x + extent) / picture.scale[0]))
        bottom = max(top + 1, round((y + extent) / picture.scale[1]))
        part = weights[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        np.maximum(part, weight, out=part)
    grey = picture.pixels.mean(axis=2, keepdims=True)
    strength = 0.75 * weights[..., None]
    pixels = np.asarray(grey * (1 - strength) + np.array(_RED) * strength + 0.5, np.uint8)
    shrink = _LONGEST / max(height, width)
    if shrink >= 1:
        return pixels
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def gallery_rows(patches: Sequence[RepresentativePatch]) -> list[dict[str, Any]]:
    """Return the gallery as a report's template takes it: classes in their order, pictures as addresses."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for patch in patches:
        rows.setdefault(patch.name, []).append(
            {
                "source": data_uri(jpeg(patch.pixels), "image/jpeg"),
                "probability": patch.probability,
                "attention": patch.attention,
                "row": patch.row,
            }
        )
    return [{"name": name, "patches": shown} for name, shown in rows.items()]

"""Images of a slide's top-scoring patches and its attention map, for the slide report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.outputs.figures.thumbnail import jpeg
from pathology.reports.html import data_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathology.findings.scored_slide import RepresentativePatch
    from pathology.outputs.figures.thumbnail import SlidePicture

__all__ = ["attention_picture", "gallery_rows"]

_LONGEST = 1000
_RED = (200, 20, 30)


def attention_picture(
    attention: NDArray[np.floating] | None, coords: NDArray[np.integer], extent: float, picture: SlidePicture
) -> NDArray[np.uint8] | None:
    """Draw the attention weights of patches over the slide.

    Where patches overlap, the highest weight counts.

    Parameters
    ----------
    attention
        ``(N,)`` weight of each patch, NaN where it could not be read; ``None``: there are none.
    coords, extent
        ``(N, 2)`` level-0 corners, and side, of the patches in level-0 pixels.
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
    """Return the gallery for the report template: classes in their order, images as data URIs."""
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

"""A low-resolution image of a whole slide with its exact scale."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.errors import UsageError

__all__ = ["SlidePicture", "jpeg", "picture_size"]

SMALLEST_LONGER_SIDE = 480
"""A slide smaller than this (a test image, a single field) is magnified up to it, in whole steps ..."""
LARGEST_MAGNIFICATION = 8
"""... of at most this, beyond which single pixels are all one sees."""


def picture_size(dimensions: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the ``(width, height)`` in pixels at which a slide is best shown.

    Parameters
    ----------
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    longest
        Wanted longer side in pixels.  A slide smaller than that keeps its own size, because magnifying shows
        nothing new; one smaller than 480 px is magnified by whole steps up to eightfold, so that it can be seen.
    """
    longer = max(dimensions)
    factor = longest / longer
    if factor >= 1:
        factor = max(1, min(min(SMALLEST_LONGER_SIDE, longest) // longer, LARGEST_MAGNIFICATION))
    return max(1, round(dimensions[0] * factor)), max(1, round(dimensions[1] * factor))


@dataclass(frozen=True)
class SlidePicture:
    """Pixels of a whole slide at low resolution.

    Attributes
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.
    scale
        Level-0 pixels per picture pixel, ``(x, y)``, not rounded.  The picture's top left corner is the slide's.
    """

    pixels: NDArray[np.uint8]
    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise UsageError(f"pixels: expected (H, W, 3) uint8, got {self.pixels.shape} {self.pixels.dtype}")
        if not all(math.isfinite(s) and s > 0 for s in self.scale):
            raise UsageError(f"scale: expected two positive numbers, got {self.scale}")

    @property
    def size(self) -> tuple[int, int]:
        """``(width, height)`` in picture pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def resized(self, size: tuple[int, int]) -> SlidePicture:
        """Return the picture at another ``(width, height)``, with the scale that then holds exactly.

        Downscaling is anti-aliased (Lanczos); upscaling repeats pixels, so that no detail is invented.
        """
        if size == self.size:
            return self
        width, height = self.size
        method = Image.Resampling.NEAREST if size[0] >= width else Image.Resampling.LANCZOS
        pixels = np.asarray(Image.fromarray(self.pixels).resize(size, method))
        return SlidePicture(pixels, (self.scale[0] * width / size[0], self.scale[1] * height / size[1]))

    def shown(self, dimensions: tuple[int, int], longest: int) -> SlidePicture:
        """Return the picture at the size at which the slide is best shown (see :func:`picture_size`).

        A coarser image is returned unchanged: magnifying it would only suggest detail.
        """
        size = picture_size(dimensions, longest)
        return self if size[0] > self.size[0] and min(self.scale) > 1 else self.resized(size)


def jpeg(pixels: NDArray[np.uint8], quality: int = 88) -> bytes:
    """Return ``(H, W, 3)`` uint8 RGB as a JPEG file with full colour resolution, so that map edges stay sharp."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()

"""An in-memory array as a slide, for tests of code that uses readers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.slide.readers.base import BACKGROUND, Level, Rect, Region, SlideReader, TileCounts

__all__ = ["ArrayReader"]


class ArrayReader(SlideReader):
    """Reads from an image as if it were a tiled slide.

    Parameters
    ----------
    picture
        ``(H, W, 3)`` uint8: level 0.
    mpp
        Micrometres per pixel, or ``None``.
    downsamples
        Integer downsamples of the levels, starting with 1; coarser levels are area means.
    tile
        Tile size in pixels; damage applies to whole tiles.
    damaged
        ``(level, column, row)`` of tiles that cannot be decoded.
    """

    backend = "array"

    def __init__(
        self,
        picture: NDArray[np.uint8],
        *,
        mpp: float | None = 0.5,
        downsamples: tuple[int, ...] = (1,),
        tile: int = 64,
        damaged: Collection[tuple[int, int, int]] = (),
    ) -> None:
        height, width = picture.shape[:2]
        self.path = Path("in-memory")
        self.mpp = mpp
        self.objective_power = None
        self.fingerprint = hashlib.sha256(picture.tobytes()).hexdigest()
        self._tile = tile
        self._damaged = frozenset(damaged)
        self._found: set[tuple[int, int, int]] = set()
        self._closed = False
        self._pixels = []
        levels = []
        for downsample in downsamples:
            size = (-(-width // downsample), -(-height // downsample))
            pixels = picture if downsample == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            self._pixels.append(pixels)
            levels.append(Level(*size, float(downsample), (tile, tile)))
        self.levels = tuple(levels)

    @property
    def tile_counts(self) -> TileCounts:
        """Nothing is decoded; damaged tiles that were read are counted."""
        return TileCounts(unreadable=len(self._found))

    @property
    def unreadable_tiles(self) -> frozenset[tuple[int, int, int]]:
        """The damaged tiles that were read."""
        return frozenset(self._found)

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        if self._closed:
            raise ValueError("the reader is closed")
        source = self._pixels[level]
        pixels = np.full((h, w, 3), BACKGROUND, np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w, source.shape[1]), min(y + h, source.shape[0])
        unreadable = []
        if left < right and top < bottom:
            pixels[top - y : bottom - y, left - x : right - x] = source[top:bottom, left:right]
            for where, column, row in self._damaged:
                a, b = max(left, column * self._tile), max(top, row * self._tile)
                c, d = min(right, (column + 1) * self._tile), min(bottom, (row + 1) * self._tile)
                if where == level and a < c and b < d:
                    self._found.add((where, column, row))
                    pixels[b - y : d - y, a - x : c - x] = BACKGROUND
                    unreadable.append(Rect(a - x, b - y, c - a, d - b))
        return Region(pixels, tuple(unreadable))

    def close(self) -> None:
        """Refuse further reads."""
        self._closed = True

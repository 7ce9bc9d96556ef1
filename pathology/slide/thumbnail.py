"""A whole slide at a coarse scale, read in bands with flat memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pathology.errors import UsageError
from pathology.slide.reader import BACKGROUND, Rect, SlideReader

__all__ = ["Thumbnail", "thumbnail"]

_CHUNK_PIXELS = 4_000_000
"""Most pixels read at once: 12 MB as RGB bytes and 48 MB as floats while they are averaged."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A whole slide at one coarse scale.

    Attributes
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.  It covers the slide exactly: column ``j`` is level-0 columns
        ``[j * width / W, (j + 1) * width / W)``.
    mpp
        Micrometres per pixel (mean of both axes).
    level
        Stored level it was made from.
    unreadable
        Stored tiles that could not be decoded and are white here, as rectangles in level-0 pixels.
    """

    pixels: NDArray[np.uint8]
    mpp: float
    level: int
    unreadable: tuple[Rect, ...] = ()


def thumbnail(reader: SlideReader, mpp_of_level0: float, target_mpp: float) -> Thumbnail:
    """Average a whole slide down to a scale.

    The coarsest stored level that is at least as fine as the target is read once, in bands as high as its stored
    tiles, and averaged over area (each stored pixel counts by the share of it that falls into a pixel of the
    thumbnail).  Memory: the result, one band of rows of it as float, and some 60 MB.

    Parameters
    ----------
    reader
        The slide.
    mpp_of_level0
        Its scale in µm/px.
    target_mpp
        Wanted scale in µm/px.  A slide coarser than that is not magnified.

    Returns
    -------
    Thumbnail
        Its size is the slide's over the scale ratio, rounded, at least 1 x 1.

    Raises
    ------
    UsageError
        If a scale is not positive.
    """
    if not (mpp_of_level0 > 0 and target_mpp > 0):
        raise UsageError(f"scales must be positive; got {mpp_of_level0} and {target_mpp} µm/px", where=reader.path)
    ratio = max(1.0, target_mpp / mpp_of_level0)
    width, height = reader.dimensions
    out_width, out_height = max(1, round(width / ratio)), max(1, round(height / ratio))
    index = reader.best_level(ratio)
    level = reader.levels[index]
    across = _averaging(level.width, out_width)
    down = _averaging(level.height, out_height)
    tile_width, tile_height = level.tile_size
    # Bands follow stored rows of tiles, so that no tile is decoded twice; tiles as high as the slide are cut.
    band_height = min(tile_height, max(64, _CHUNK_PIXELS // min(tile_width, level.width)))
    chunk_width = max(tile_width, _CHUNK_PIXELS // band_height // tile_width * tile_width)

    result = np.empty((out_height, out_width, 3), np.uint8)
    unreadable: list[Rect] = []
    carried = np.zeros((1, out_width, 3), np.float32)
    done = 0
    for top in range(0, level.height, band_height):
        bottom = min(level.height, top + band_height)
        last = out_height if bottom == level.height else math.floor(bottom * out_height / level.height)
        rows = down[done : min(out_height, last + 1), top:bottom]
        total = np.zeros((rows.shape[0], out_width, 3), np.float32)
        total[:1] += carried[: rows.shape[0]]
        for left in range(0, level.width, chunk_width):
            right = min(level.width, left + chunk_width)
            region = reader.read_region(index, left, top, right - left, bottom - top)
            unreadable += [_at_level0(bad, width / level.width, height / level.height) for bad in region.unreadable]
            first = left * out_width // level.width
            until = min(out_width, -(-right * out_width // level.width))
            flat = region.pixels.reshape(bottom - top, -1).astype(np.float32)
            shrunk = (rows @ flat).reshape(rows.shape[0], right - left, 3)
            columns = across[first:until, left:right]
            for row in range(shrunk.shape[0]):
                total[row, first:until] += columns @ shrunk[row]
        finished = last - done
        np.clip(np.rint(total[:finished]), 0, BACKGROUND, out=total[:finished])
        result[done:last] = total[:finished]
        carried = total[finished : finished + 1] if finished < total.shape[0] else np.zeros_like(carried)
        done = last
    return Thumbnail(
        result, mpp_of_level0 * math.sqrt(width * height / (out_width * out_height)), index, tuple(unreadable)
    )


def _averaging(size: int, out: int) -> sparse.csr_array:
    """Return the ``(out, size)`` matrix that averages ``size`` pixels over ``out`` equal intervals exactly."""
    edges = np.arange(out + 1, dtype=np.float64) * size / out
    first = np.floor(edges[:-1]).astype(np.intp)
    until = np.minimum(size, np.ceil(edges[1:]).astype(np.intp))
    lengths = until - first
    rows = np.repeat(np.arange(out), lengths)
    columns = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(first, lengths)
    inside = np.minimum(edges[rows + 1], columns + 1) - np.maximum(edges[rows], columns)
    weights = (inside * out / size).astype(np.float32)
    return sparse.csr_array((weights, (rows, columns)), shape=(out, size))


def _at_level0(bad: Rect, per_x: float, per_y: float) -> Rect:
    x, y = math.floor(bad.x * per_x), math.floor(bad.y * per_y)
    right, bottom = math.ceil((bad.x + bad.width) * per_x), math.ceil((bad.y + bad.height) * per_y)
    return Rect(x, y, right - x, bottom - y)

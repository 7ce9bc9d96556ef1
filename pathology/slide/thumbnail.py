"""A whole slide at a coarse scale, read in bands with constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pathology.errors import UsageError
from pathology.slide.readers.base import BACKGROUND, Rect, SlideReader

__all__ = ["Reduction", "Thumbnail", "thumbnail"]

_BAND_PIXELS = 4_000_000
"""Maximum pixels of a stored tile or strip read at once: 12 MB as RGB bytes and 48 MB as floats for averaging."""
_CHUNK_PIXELS = 1_000_000
"""Maximum pixels read at once from tiles smaller than that."""
_SMALL_CHUNK_PIXELS = 400_000
"""The same if parts without tissue may be skipped: smaller chunks are more often free of tissue."""


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
        Stored level it was computed from.
    unreadable
        Stored tiles that could not be decoded and are white here, as rectangles in level-0 pixels.
    """

    pixels: NDArray[np.uint8]
    mpp: float
    level: int
    unreadable: tuple[Rect, ...] = ()

    def unreadable_mask(self, dimensions: tuple[int, int]) -> NDArray[np.bool_] | None:
        """Return ``(H, W)`` bool, true where a pixel covers unreadable tiles; ``None`` if there are none.

        Parameters
        ----------
        dimensions
            ``(width, height)`` of the slide in level-0 pixels.
        """
        if not self.unreadable:
            return None
        height, width = self.pixels.shape[:2]
        across, down = width / dimensions[0], height / dimensions[1]
        mask = np.zeros((height, width), np.bool_)
        for bad in self.unreadable:
            rows = slice(math.floor(bad.y * down), math.ceil((bad.y + bad.height) * down))
            mask[rows, math.floor(bad.x * across) : math.ceil((bad.x + bad.width) * across)] = True
        return mask


class Reduction:
    """A whole slide averaged down to a scale, band by band.

    The coarsest stored level that is at least as fine as the target is read once, in bands as high as its stored
    tiles, and area-averaged (each stored pixel is weighted by its overlap with the output pixel).

    Parameters
    ----------
    reader
        The slide.
    mpp_of_level0
        Its scale in µm/px.
    target_mpp
        Target scale in µm/px.  Coarser slides are not upsampled.
    within
        ``(h, w)`` bool covering the whole slide: parts without any true pixel may be skipped and are then white.
        ``None`` reads everything.

    Attributes
    ----------
    shape : tuple of int
        ``(H, W)`` of the result: the slide's size divided by the scale ratio, rounded, at least 1 x 1.
    mpp : float
        Its scale in µm/px (mean of both axes).
    level : int
        Stored level to read.
    unreadable : list of Rect
        Stored tiles that could not be decoded so far, as rectangles in level-0 pixels.

    Raises
    ------
    UsageError
        If a scale is not positive.
    """

    def __init__(
        self, reader: SlideReader, mpp_of_level0: float, target_mpp: float, within: NDArray[np.bool_] | None = None
    ) -> None:
        if not (mpp_of_level0 > 0 and target_mpp > 0):
            raise UsageError(f"scales must be positive; got {mpp_of_level0} and {target_mpp} µm/px", where=reader.path)
        ratio = max(1.0, target_mpp / mpp_of_level0)
        width, height = reader.dimensions
        self.shape = (max(1, round(height / ratio)), max(1, round(width / ratio)))
        self.mpp = mpp_of_level0 * math.sqrt(width * height / (self.shape[0] * self.shape[1]))
        self.level = reader.best_level(ratio)
        self.unreadable: list[Rect] = []
        self._reader = reader
        self._within = within

    def bands(self) -> Iterator[NDArray[np.uint8]]:
        """Yield ``(h, W, 3)`` uint8 RGB from top to bottom; the heights add up to ``H``."""
        level = self._reader.levels[self.level]
        out_height, out_width = self.shape
        across = _averaging(level.width, out_width)
        down = _averaging(level.height, out_height)
        tile_width, tile_height = level.tile_size
        # Bands follow stored rows of tiles, so that no tile is decoded twice; very high tiles are split.
        band_height = min(tile_height, max(64, _BAND_PIXELS // min(tile_width, level.width)))
        most = _CHUNK_PIXELS if self._within is None else _SMALL_CHUNK_PIXELS
        chunk_width = max(tile_width, most // band_height // tile_width * tile_width)
        carried = np.zeros((1, out_width, 3), np.float32)
        done = 0
        for top in range(0, level.height, band_height):
            bottom = min(level.height, top + band_height)
            last = out_height if bottom == level.height else math.floor(bottom * out_height / level.height)
            rows = down[done : min(out_height, last + 1), top:bottom]
            # Not bound to a name here, so that the caller decides how long the band lives.
            yield self._band(top, bottom, chunk_width, rows, across, last - done, carried)
            done = last

    def _band(
        self,
        top: int,
        bottom: int,
        chunk_width: int,
        rows: sparse.csr_array,
        across: sparse.csr_array,
        finished: int,
        carried: NDArray[np.float32],
    ) -> NDArray[np.uint8]:
        """Return the finished rows of one band, and update ``carried``, the partial row passed on to the next band.

        Only the current chunk is held as floats.
        """
        level = self._reader.levels[self.level]
        out_width = self.shape[1]
        band = np.empty((finished, out_width, 3), np.uint8)
        beside = np.zeros((rows.shape[0], 1, 3), np.float32)  # partial column passed on to the next chunk
        for left in range(0, level.width, chunk_width):
            right = min(level.width, left + chunk_width)
            first = left * out_width // level.width
            until = min(out_width, -(-right * out_width // level.width))
            whole = (out_width if right == level.width else right * out_width // level.width) - first
            columns = across[first:until, left:right]
            if self._passed_over(left / level.width, top / level.height, right / level.width, bottom / level.height):
                covered = BACKGROUND * np.outer(rows.sum(axis=1), columns.sum(axis=1)).astype(np.float32)
                total = np.repeat(covered[..., None], 3, axis=2)
            else:
                flat = self._read(left, top, right - left, bottom - top)
                shrunk = (rows @ flat).reshape(rows.shape[0], right - left, 3)
                del flat
                # One product for all rows: the overhead per call is as large as the product itself.
                beneath = shrunk.transpose(1, 0, 2).reshape(right - left, -1)
                total = np.ascontiguousarray((columns @ beneath).reshape(-1, len(shrunk), 3).transpose(1, 0, 2))
            total[:, :1] += beside
            beside = total[:, whole : whole + 1].copy() if first + whole < until else np.zeros_like(beside)
            total = total[:, :whole]
            place = np.s_[:, first : first + whole]
            total[:1] += carried[place][: len(total)]
            carried[place] = total[finished : finished + 1] if finished < len(total) else 0
            ready = np.rint(total[:finished], out=total[:finished])
            band[place] = np.clip(ready, 0, BACKGROUND, out=ready)
        return band

    def _passed_over(self, left: float, top: float, right: float, bottom: float) -> bool:
        """Whether a part, in fractions of the slide's sides, can be skipped."""
        if self._within is None:
            return False
        height, width = self._within.shape
        part = self._within[
            math.floor(top * height) : math.ceil(bottom * height), math.floor(left * width) : math.ceil(right * width)
        ]
        return not part.any()

    def _read(self, left: int, top: int, width: int, height: int) -> NDArray[np.float32]:
        region = self._reader.read_masked(self.level, left, top, width, height)
        level, (full_width, full_height) = self._reader.levels[self.level], self._reader.dimensions
        for bad in region.unreadable:
            within_level = Rect(left + bad.x, top + bad.y, bad.width, bad.height)
            self.unreadable.append(_scaled(within_level, full_width / level.width, full_height / level.height))
        return region.pixels.reshape(height, -1).astype(np.float32)


def thumbnail(reader: SlideReader, mpp_of_level0: float, target_mpp: float) -> Thumbnail:
    """Average a whole slide down to a scale.

    Memory: the result plus about 20 MB (60 MB if tiles are as wide as the slide).  See :class:`Reduction` for how.

    Parameters
    ----------
    reader
        The slide.
    mpp_of_level0
        Its scale in µm/px.
    target_mpp
        Target scale in µm/px.  Coarser slides are not upsampled.

    Returns
    -------
    Thumbnail
        Its size is the slide's divided by the scale ratio, rounded, at least 1 x 1.

    Raises
    ------
    UsageError
        If a scale is not positive.
    """
    reduction = Reduction(reader, mpp_of_level0, target_mpp)
    pixels = np.empty((*reduction.shape, 3), np.uint8)
    row = 0
    for band in reduction.bands():
        pixels[row : row + len(band)] = band
        row += len(band)
    return Thumbnail(pixels, reduction.mpp, reduction.level, tuple(reduction.unreadable))


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


def _scaled(bad: Rect, per_x: float, per_y: float) -> Rect:
    x, y = math.floor(bad.x * per_x), math.floor(bad.y * per_y)
    right, bottom = math.ceil((bad.x + bad.width) * per_x), math.ceil((bad.y + bad.height) * per_y)
    return Rect(x, y, right - x, bottom - y)

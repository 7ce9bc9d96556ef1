"""The patch grid of a slide: positions and grouping into blocks.

Three coordinate systems are used:

* **target pixels**: pixels at the grid's mpp, origin at the slide's top left corner.  Patch ``(i, j)`` covers
  target pixels ``[i * stride, i * stride + patch)`` horizontally and likewise vertically.
* **level-0 pixels**: used for storage and display.  A target coordinate ``t`` is level-0 coordinate
  ``t * mpp / slide_mpp``, rounded to the nearest whole pixel.
* **pixels of the read level**: used for requests to a reader.

A *block* is a square of ``blocks_side x blocks_side`` patch positions.  It is read once, resampled once and cut
into patches; it is also the unit of storage and resumption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pathology.settings import GridSettings
from pathology.slide.readers.base import Rect

__all__ = ["Block", "Grid", "TissueShare"]


@dataclass(frozen=True, slots=True)
class Block:
    """A square of patch positions.

    Attributes
    ----------
    index
        Position in row-major order over all blocks of the grid.
    column, row
        First patch column and row of the block.
    columns, rows
        Patch columns and rows in it; fewer at the right and bottom edge of the slide.
    """

    index: int
    column: int
    row: int
    columns: int
    rows: int


@dataclass(frozen=True)
class Grid:
    """All patch positions of one slide.

    Parameters
    ----------
    settings
        Patch size, target scale, stride, block size.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    slide_mpp
        Micrometres per level-0 pixel.
    """

    settings: GridSettings
    dimensions: tuple[int, int]
    slide_mpp: float

    @property
    def scale(self) -> float:
        """Level-0 pixels per target pixel; below 1 if patches are upsampled."""
        return self.settings.mpp / self.slide_mpp

    @property
    def target_dimensions(self) -> tuple[float, float]:
        """``(width, height)`` of the slide in target pixels, not rounded."""
        return self.dimensions[0] / self.scale, self.dimensions[1] / self.scale

    @cached_property
    def columns(self) -> int:
        """Patch columns: enough to cover the slide's width, so the last may extend beyond the slide boundary."""
        return self._positions(self.target_dimensions[0])

    @cached_property
    def rows(self) -> int:
        """Patch rows: enough to cover the slide's height, so the last may extend beyond the slide boundary."""
        return self._positions(self.target_dimensions[1])

    def _positions(self, extent: float) -> int:
        # A sliver narrower than half a target pixel is a rounding artefact.
        beyond = extent - 0.5 - self.settings.patch
        return 1 + max(0, math.ceil(beyond / self.settings.stride))

    @cached_property
    def patches_per_block(self) -> int:
        """Patch positions along one side of a full block.

        Patches that overlap by more than half would need many times a block's memory, so a block then contains fewer
        of them: at most four times its pixels in total.
        """
        settings = self.settings
        return max(1, min(settings.block // settings.stride, 2 * settings.block // settings.patch))

    @cached_property
    def block_columns(self) -> int:
        """Block columns of the slide."""
        return -(-self.columns // self.patches_per_block)

    @cached_property
    def block_rows(self) -> int:
        """Block rows of the slide."""
        return -(-self.rows // self.patches_per_block)

    def __len__(self) -> int:
        """Number of blocks."""
        return self.block_columns * self.block_rows

    def block(self, index: int) -> Block:
        """Return block ``index`` in row-major order.

        Raises
        ------
        IndexError
            If the index is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} does not exist; the grid has {len(self)}")
        row, column = divmod(index, self.block_columns)
        side = self.patches_per_block
        return Block(
            index,
            column * side,
            row * side,
            min(side, self.columns - column * side),
            min(side, self.rows - row * side),
        )

    def window(self, index: int, positions: NDArray[np.integer]) -> Rect:
        """Return the bounding box of some patches of a block.

        Parameters
        ----------
        index
            The block.
        positions
            ``(n,)`` places among the block's patch positions, row-major; ``n`` >= 1.

        Returns
        -------
        Rect
            In target pixels.
        """
        block, settings = self.block(index), self.settings
        rows, columns = np.divmod(positions, block.columns)
        top, bottom, left, right = int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())
        return Rect(
            (block.column + left) * settings.stride,
            (block.row + top) * settings.stride,
            (right - left) * settings.stride + settings.patch,
            (bottom - top) * settings.stride + settings.patch,
        )

    def origins(self, block: Block) -> NDArray[np.int32]:
        """Return the level-0 top left corners of a block's patches.

        Returns
        -------
        numpy.ndarray
            ``(rows * columns, 2)`` int32 ``(x, y)``, row-major.
        """
        xs = np.arange(block.column, block.column + block.columns) * self.settings.stride * self.scale
        ys = np.arange(block.row, block.row + block.rows) * self.settings.stride * self.scale
        x, y = np.meshgrid(np.floor(xs + 0.5), np.floor(ys + 0.5))
        return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int32)

    @property
    def patch_extent(self) -> float:
        """Side of a patch in level-0 pixels, not rounded."""
        return self.settings.patch * self.scale


class TissueShare:
    """Tissue fraction of any square, from a mask at a coarse scale.

    Sums are computed over the bounding box of the requested squares, not over the whole mask: tables for a large slide
    would take hundreds of megabytes.  Request neighbouring squares together.

    Parameters
    ----------
    mask
        ``(rows, columns)`` bool, covering the whole slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    """

    def __init__(self, mask: NDArray[np.bool_], dimensions: tuple[int, int]) -> None:
        self._mask = mask
        self._dimensions = dimensions

    def __call__(self, corners: NDArray[np.int32], extent: float) -> NDArray[np.float32]:
        """Return the tissue fraction of squares.

        Parameters
        ----------
        corners
            ``(N, 2)`` level-0 ``(x, y)`` top left corners.
        extent
            Side of the squares in level-0 pixels.

        Returns
        -------
        numpy.ndarray
            ``(N,)`` float32 in 0 to 1.  Parts beyond the slide boundary count as no tissue; mask pixels cut by a
            square's edge are weighted by the fraction inside (exact bilinear integral).
        """
        if not len(corners):
            return np.empty(0, np.float32)
        rows, columns = self._mask.shape
        per_x, per_y = columns / self._dimensions[0], rows / self._dimensions[1]
        left, right = (np.clip(x * per_x, 0, columns) for x in (corners[:, 0], corners[:, 0] + extent))
        top, bottom = (np.clip(y * per_y, 0, rows) for y in (corners[:, 1], corners[:, 1] + extent))
        first_row, first_column = int(top.min()), int(left.min())
        part = self._mask[first_row : math.ceil(bottom.max()), first_column : math.ceil(right.max())]
        if not part.any():
            return np.zeros(len(corners), np.float32)
        table = np.zeros((part.shape[0] + 1, part.shape[1] + 1), np.uint32)
        table[1:, 1:] = part
        np.cumsum(table, axis=0, out=table)
        np.cumsum(table, axis=1, out=table)
        left, right, top, bottom = left - first_column, right - first_column, top - first_row, bottom - first_row
        area = _at(table, right, bottom) - _at(table, left, bottom) - _at(table, right, top) + _at(table, left, top)
        share: NDArray[np.float32] = np.clip(area / (extent * per_x * extent * per_y), 0, 1).astype(np.float32)
        return share


def _at(table: NDArray[np.uint32], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate a summed-area table."""
    x0 = np.minimum(x.astype(np.intp), table.shape[1] - 2)
    y0 = np.minimum(y.astype(np.intp), table.shape[0] - 2)
    fx, fy = x - x0, y - y0
    result: NDArray[np.float64] = (
        table[y0, x0] * (1 - fx) * (1 - fy)
        + table[y0, x0 + 1] * fx * (1 - fy)
        + table[y0 + 1, x0] * (1 - fx) * fy
        + table[y0 + 1, x0 + 1] * fx * fy
    )
    return result

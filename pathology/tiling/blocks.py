"""Reading a block: one read, one resampling, then patches as views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pathology.slide.reader import Rect, SlideReader
from pathology.tiling.grid import Grid
from pathology.tiling.resample import choose_scaling, read_scaled

__all__ = ["BlockPatches", "BlockReader"]


@dataclass(frozen=True, slots=True)
class BlockPatches:
    """Patches of one block.

    Attributes
    ----------
    pixels
        ``(n, patch, patch, 3)`` uint8 RGB, in the order asked for.
    readable
        ``(n,)`` bool: false where a stored tile under the patch could not be decoded.
    """

    pixels: NDArray[np.uint8]
    readable: NDArray[np.bool_]


class BlockReader:
    """Reads the blocks of one grid from one slide.

    Thread-safe as far as its reader is; holds no pixels between calls.

    Parameters
    ----------
    reader
        The slide.
    grid
        A grid made for that slide.
    """

    def __init__(self, reader: SlideReader, grid: Grid) -> None:
        self._reader = reader
        self._grid = grid
        self.scaling = choose_scaling(reader, grid.scale)

    def read(self, block_index: int, positions: NDArray[np.int32]) -> BlockPatches:
        """Read some patches of a block.

        Parameters
        ----------
        block_index
            The block.
        positions
            ``(n,)`` places among the block's patch positions, row-major; ``n`` >= 1.

        Returns
        -------
        BlockPatches
            Freshly copied patches, contiguous in memory.
        """
        block = self._grid.block(block_index)
        settings = self._grid.settings
        rows, columns = np.divmod(positions, block.columns)
        # Read only the rectangle that the wanted patches span.
        first_row, last_row = int(rows.min()), int(rows.max())
        first_column, last_column = int(columns.min()), int(columns.max())
        target = Rect(
            (block.column + first_column) * settings.stride,
            (block.row + first_row) * settings.stride,
            (last_column - first_column) * settings.stride + settings.patch,
            (last_row - first_row) * settings.stride + settings.patch,
        )
        region = read_scaled(self._reader, self.scaling, target)
        windows = sliding_window_view(region.pixels, (settings.patch, settings.patch), axis=(0, 1))  # type: ignore[call-overload]
        chosen = windows[(rows - first_row) * settings.stride, (columns - first_column) * settings.stride]
        pixels = np.ascontiguousarray(np.moveaxis(chosen, 1, -1))
        readable = np.ones(len(positions), np.bool_)
        left = (columns - first_column) * settings.stride
        top = (rows - first_row) * settings.stride
        for bad in region.unreadable:
            hit = (left < bad.x + bad.width) & (left + settings.patch > bad.x)
            hit &= (top < bad.y + bad.height) & (top + settings.patch > bad.y)
            readable &= ~hit
        return BlockPatches(pixels, readable)

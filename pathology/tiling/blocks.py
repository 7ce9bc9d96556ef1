"""Reading a block: one read, one resampling, then patches as views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.slide.reader import SlideReader
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
    recolour
        Changes colours of ``(..., 3)`` uint8 RGB, every pixel by itself, such as
        :meth:`pathology.slide.stain.StainNormaliser.apply`; ``None`` leaves them as they are.
    """

    def __init__(
        self,
        reader: SlideReader,
        grid: Grid,
        recolour: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    ) -> None:
        self._reader = reader
        self._grid = grid
        self._recolour = recolour
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
        stride, patch = self._grid.settings.stride, self._grid.settings.patch
        # Only the rectangle that the wanted patches span is read.
        target = self._grid.window(block_index, positions)
        region = read_scaled(self._reader, self.scaling, target, overlap=max(0, patch - stride))
        rows, columns = np.divmod(positions, block.columns)
        left = (columns + block.column) * stride - target.x
        top = (rows + block.row) * stride - target.y
        pixels = np.empty((len(positions), patch, patch, 3), np.uint8)
        canvas, recolour = region.pixels, self._recolour
        # Overlapping patches share pixels, scattered ones leave many out: whichever is less is changed.
        before_cutting = recolour is not None and canvas.size <= pixels.size
        if recolour is not None and before_cutting:
            canvas = recolour(canvas)
        for out, x, y in zip(pixels, left.tolist(), top.tolist(), strict=True):
            out[:] = canvas[y : y + patch, x : x + patch]
        if recolour is not None and not before_cutting:
            pixels = recolour(pixels)
        readable = np.ones(len(positions), np.bool_)
        for bad in region.unreadable:
            hit = (left < bad.x + bad.width) & (left + patch > bad.x)
            hit &= (top < bad.y + bad.height) & (top + patch > bad.y)
            readable &= ~hit
        return BlockPatches(pixels, readable)

"""Reading a block: one read, one resampling, then patches as views."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.slide.readers.base import SlideReader
from pathology.slide.resample import Canvas, choose_scaling, read_scaled
from pathology.tiling.grid import Grid

__all__ = ["BlockPatches", "BlockReader"]

_STRIP_PIXELS: Final = 1_400_000
"""Maximum pixels resampled together: a third of a block, 4 MB, which fits the CPU cache better than 12."""


@dataclass(frozen=True, slots=True)
class BlockPatches:
    """Patches of one block.

    Attributes
    ----------
    pixels
        ``(n, patch, patch, 3)`` uint8 RGB, in the requested order.
    readable
        ``(n,)`` bool: false where a stored tile under the patch could not be decoded.
    """

    pixels: NDArray[np.uint8]
    readable: NDArray[np.bool_]


class BlockReader:
    """Reads the blocks of one grid from one slide.

    As thread-safe as its reader.  Between calls it keeps the memory of one strip of a block per thread.

    Parameters
    ----------
    reader
        The slide.
    grid
        A grid made for that slide.
    recolour
        Pixel-wise colour transform of ``(..., 3)`` uint8 RGB, such as
        :meth:`pathology.slide.stain.normalise.StainNormaliser.apply`; ``None``: unchanged.
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
        self._canvas = threading.local()
        self.scaling = choose_scaling(reader, grid.scale)

    def read(self, block_index: int, positions: NDArray[np.int32]) -> BlockPatches:
        """Read some patches of a block.

        Parameters
        ----------
        block_index
            The block.
        positions
            ``(n,)`` row-major indices into the block's patch positions; ``n`` >= 1.

        Returns
        -------
        BlockPatches
            Freshly copied patches, contiguous in memory.
        """
        patch = self._grid.settings.patch
        pixels = np.empty((len(positions), patch, patch, 3), np.uint8)
        return BlockPatches(pixels, self.read_into(pixels, block_index, positions))

    def read_into(
        self, out: Iterable[NDArray[np.uint8]], block_index: int, positions: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Read some patches of a block into the given memory, without intermediate copies.

        Parameters
        ----------
        out
            Memory for each patch, ``(patch, patch, 3)`` uint8, in the order of the positions: one array or separate
            ones.
        block_index, positions
            As for :meth:`read`.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` bool: false where a stored tile under the patch could not be decoded.
        """
        block = self._grid.block(block_index)
        stride, patch = self._grid.settings.stride, self._grid.settings.patch
        target = self._grid.window(block_index, positions)
        rows, columns = np.divmod(positions, block.columns)
        corners = np.stack([columns + block.column, rows + block.row], axis=1) * stride
        overlap, recolour = max(0, patch - stride), self._recolour
        # Overlapping patches share pixels, scattered ones cover few: recolour whichever has fewer pixels.
        recolour_window = recolour is not None and target.width * target.height <= len(positions) * patch * patch
        if self.scaling.rest == 1.0 and not recolour_window:
            places = list(out)
            level, reduction = self.scaling.level, self.scaling.reduction
            readable = self._reader.read_windows(level, reduction, corners, places, overlap=overlap)
            if recolour is not None:
                for place in places:
                    place[:] = recolour(place)
            return readable
        readable = np.ones(len(positions), np.bool_)
        places = list(out)
        for chosen in self._strips(rows, overlap, target.width):
            readable[chosen] = self._read_resampled(
                [places[i] for i in chosen], block_index, positions[chosen], corners[chosen], overlap
            )
        return readable

    def _strips(self, rows: NDArray[np.int32], overlap: int, width: int) -> list[NDArray[np.intp]]:
        """Group patches to resample together: a few rows each, to save memory, unless they overlap."""
        stride = self._grid.settings.stride
        least, most = int(rows.min()), int(rows.max())
        if overlap:
            return [np.arange(len(rows))]
        strips = min(most - least + 1, -(-(most - least + 1) * stride * width // _STRIP_PIXELS))
        strip = (rows - least) * strips // (most - least + 1)
        return [found for number in range(strips) if len(found := np.flatnonzero(strip == number))]

    def _read_resampled(
        self,
        out: list[NDArray[np.uint8]],
        block_index: int,
        positions: NDArray[np.int32],
        corners: NDArray[np.int32],
        overlap: int,
    ) -> NDArray[np.bool_]:
        """Read the patches' bounding box, resample it once, cut it up; return which patches are readable."""
        patch, recolour = self._grid.settings.patch, self._recolour
        target = self._grid.window(block_index, positions)
        # Overlapping patches share pixels, scattered ones cover few: recolour whichever has fewer pixels.
        recolour_window = recolour is not None and target.width * target.height <= len(positions) * patch * patch
        region = read_scaled(self._reader, self.scaling, target, overlap=overlap, canvas=self._thread_canvas())
        pixels = recolour(region.pixels) if recolour is not None and recolour_window else region.pixels
        left, top = corners[:, 0] - target.x, corners[:, 1] - target.y
        for place, x, y in zip(out, left.tolist(), top.tolist(), strict=True):
            cut = pixels[y : y + patch, x : x + patch]
            place[:] = recolour(cut) if recolour is not None and not recolour_window else cut
        readable = np.ones(len(positions), np.bool_)
        for bad in region.unreadable:
            readable &= ~bad.touches(left, top, patch, patch)
        return readable

    def _thread_canvas(self) -> Canvas:
        canvas: Canvas | None = getattr(self._canvas, "memory", None)
        if canvas is None:
            canvas = self._canvas.memory = Canvas()
        return canvas

"""Patches that coincide with a slide's stored tiles, so that their compressed bytes can be kept."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.settings import GridSettings
from pathology.slide.readers.base import SlideReader
from pathology.slide.readers.packed_tiles import PackedTiles
from pathology.slide.readers.tiled import TiledReader
from pathology.tiling.grid import Grid

__all__ = ["StoredTiles", "on_stored_tiles"]

_SAME_SCALE: Final = 0.01
"""Relative tolerance for equal scales: levels are rounded to whole pixels, and mpp to few digits."""


def on_stored_tiles(reader: SlideReader, settings: GridSettings, slide_mpp: float) -> GridSettings:
    """Return grid settings whose patches coincide exactly with stored tiles of one level.

    Parameters
    ----------
    reader
        The slide.
    settings
        The requested grid; its mpp may be off by rounding.
    slide_mpp
        Micrometres per level-0 pixel.

    Returns
    -------
    GridSettings
        The same, with the level's exact scale.

    Raises
    ------
    UsageError
        If the patches do not coincide with stored tiles; the message names grids that fit.
    """
    level = _level(reader, settings, slide_mpp)
    return settings.model_copy(update={"mpp": slide_mpp * reader.levels[level].downsample})


def _level(reader: SlideReader, settings: GridSettings, slide_mpp: float) -> int:
    instead = "choose --pixels decoded, which stores pixels at any scale, or --pixels reference, which stores none"
    if not isinstance(reader, TiledReader) or reader.tile_encoding(0) is None:
        raise UsageError(
            f"the slide's stored tiles cannot be kept as they are (read by {reader.backend}, compression "
            f"{reader.properties.get('compression', 'unknown')})",
            where=reader.path,
            remedy=instead[0].upper() + instead[1:],
        )
    fitting = []
    for number, level in enumerate(reader.levels):
        width, height = level.tile_size
        if width == height and reader.tile_encoding(number) is not None:
            fitting.append(f"--patch {width} --stride {width} --target-mpp {slide_mpp * level.downsample:.4g}")
            same_scale = math.isclose(settings.mpp, slide_mpp * level.downsample, rel_tol=_SAME_SCALE)
            if same_scale and settings.patch == settings.stride == width:
                return number
    asked = f"patches of {settings.patch} px every {settings.stride} px at {settings.mpp:.4g} µm/px"
    if not fitting:
        width, height = reader.tile_size
        raise UsageError(
            f"{asked} do not match this slide's stored tiles, which are not square ({width} x {height} px)",
            where=reader.path,
            remedy=instead[0].upper() + instead[1:],
        )
    fitting[0] += " (or: native)"
    raise UsageError(
        f"{asked} do not match this slide's stored tiles",
        where=reader.path,
        remedy=f"Settings that match: {'; '.join(fitting)}. Or {instead}",
    )


class StoredTiles:
    """The stored tiles that coincide with the patches of a grid.

    Parameters
    ----------
    reader
        The slide.
    grid
        A grid with settings from :func:`on_stored_tiles`.

    Attributes
    ----------
    level : int
        The level of the tiles.
    dimensions : tuple of int
        ``(width, height)`` of that level in pixels.
    encoding : TileEncoding
        How they are compressed.

    Raises
    ------
    UsageError
        If the grid's patches do not coincide with stored tiles.
    """

    def __init__(self, reader: SlideReader, grid: Grid) -> None:
        self.level = _level(reader, grid.settings, grid.slide_mpp)
        assert isinstance(reader, TiledReader)
        encoding = reader.tile_encoding(self.level)
        assert encoding is not None
        self.encoding = encoding
        self.dimensions = reader.levels[self.level].dimensions
        self._reader, self._grid = reader, grid

    def read(self, block_index: int, positions: NDArray[np.int32]) -> tuple[PackedTiles, NDArray[np.bool_]]:
        """Read the compressed bytes of some patches of a block.

        Parameters
        ----------
        block_index
            The block.
        positions
            ``(n,)`` row-major indices into the block's patch positions.

        Returns
        -------
        PackedTiles
            Each patch's tile; empty if the patch is white: the scanner omitted the tile, or it is damaged.
        numpy.ndarray
            ``(n,)`` bool: false where the tile cannot be read or is clearly truncated.  Tiles are not decoded to check.
        """
        patch = self._grid.settings.patch
        width, height = self.dimensions
        block = self._grid.block(block_index)
        rows, columns = np.divmod(positions, block.columns)
        rows, columns = rows + block.row, columns + block.column
        across, down = -(-width // patch), -(-height // patch)
        if (block.column + block.columns) * patch <= width and (block.row + block.rows) * patch <= height:
            found = self._reader.stored_tiles(self.level, rows * across + columns)
            whole = self.encoding.look_whole(found, patch, patch)
            return _masked(found, whole), whole | (found.lengths == 0)
        # The grid refers to level 0; on a level rounded to whole pixels its last column may lie just outside.
        inside = np.flatnonzero((columns < across) & (rows < down))
        rows, columns = rows[inside], columns[inside]
        found = self._reader.stored_tiles(self.level, rows * across + columns)
        whole = self.encoding.look_whole(
            found, np.minimum(patch, width - columns * patch), np.minimum(patch, height - rows * patch)
        )
        readable = np.ones(len(positions), np.bool_)
        readable[inside] = whole | (found.lengths == 0)
        starts, lengths = np.zeros((2, len(positions)), np.int64)
        starts[inside] = found.starts
        lengths[inside] = _masked(found, whole).lengths
        return PackedTiles(found.data, starts, lengths), readable


def _masked(tiles: PackedTiles, whole: NDArray[np.bool_]) -> PackedTiles:
    """Return the same tiles, with incomplete ones emptied."""
    return tiles if whole.all() else PackedTiles(tiles.data, tiles.starts, np.where(whole, tiles.lengths, 0))

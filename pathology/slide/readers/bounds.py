"""How large a slide may claim to be, checked before anything is allocated for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pathology.errors import CorruptSlideError, UnsupportedSlideError

__all__ = ["MOST_TILES", "MOST_TILE_PIXELS", "require_plausible_size"]

MOST_PIXELS_ACROSS: Final = 2**20
"""Longest side of a slide in pixels: 10 cm at 0.1 µm per pixel, more than the glass."""
MOST_TILE_PIXELS: Final = 150_000_000
"""Largest picture or stored tile, in pixels: 450 MB decoded, and it is held as a whole."""
MOST_TILES: Final = 2**24
"""Most stored tiles of a level: the longest sides in tiles of 256 pixels."""


def require_plausible_size(path: Path, width: int, height: int, tile: tuple[int, int]) -> None:
    """Refuse sizes that no slide has, before memory is set aside for them.

    Parameters
    ----------
    path
        The slide, for the message.
    width, height
        Size of a stored level in pixels.
    tile
        Width and height of its stored tiles in pixels.

    Raises
    ------
    CorruptSlideError
        If a side is not positive or longer than 1,048,576 pixels, or there are more than 16,777,216 tiles.
    UnsupportedSlideError
        If a tile has more than 150 megapixels.

    Examples
    --------
    >>> require_plausible_size(folder / "a.tif", 16_777_216, 8, (256, 256))
    Traceback (most recent call last):
    ...
    pathology.errors.CorruptSlideError: ...16,777,216 x 8 pixels, which no slide has...
    """
    if not (0 < width <= MOST_PIXELS_ACROSS and 0 < height <= MOST_PIXELS_ACROSS):
        raise CorruptSlideError(
            f"the file states a size of {width:,} x {height:,} pixels, which no slide has",
            where=path,
            remedy="Copy the slide again from its source",
        )
    if min(tile) <= 0 or -(-width // tile[0]) * -(-height // tile[1]) > MOST_TILES:
        raise CorruptSlideError(
            f"the file states tiles of {tile[0]:,} x {tile[1]:,} pixels for a picture of {width:,} x {height:,}",
            where=path,
            remedy="Copy the slide again from its source",
        )
    if tile[0] * tile[1] > MOST_TILE_PIXELS:
        raise UnsupportedSlideError(
            f"the picture is stored in one piece of {tile[0] * tile[1] / 1e6:,.0f} megapixels, more than "
            f"{MOST_TILE_PIXELS / 1e6:,.0f}",
            where=path,
            remedy="Convert it to a tiled TIFF",
        )

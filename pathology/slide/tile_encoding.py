"""How stored tiles are compressed, as plain data: enough to decode them without the slide they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pathology.slide.codecs import decode_jpeg, decode_jpeg2000, decode_jpegls, decode_webp

__all__ = ["TileCompression", "TileEncoding"]

TileCompression = Literal["jpeg", "jpeg2000", "jpeg-ls", "webp"]
"""Compressions whose tiles are complete pictures, apart from shared JPEG tables."""

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_END_WITHIN = 64
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Second bytes of the markers that state a picture's size: baseline, extended and progressive Huffman coding."""


@dataclass(frozen=True, slots=True)
class TileEncoding:
    """How the tiles of a level are compressed.

    Attributes
    ----------
    compression
        The kind of picture each tile is.
    transformed
        Whether samples are YCbCr (True) or RGB (False) where the container says so; ``None`` leaves it to the markers
        in the picture.  Of use for JPEG and JPEG 2000 only.
    tables
        JPEG tables that all tiles share (TIFF tag JPEGTables), or nothing.
    """

    compression: TileCompression
    transformed: bool | None = None
    tables: bytes = b""

    def __post_init__(self) -> None:
        if self.compression not in get_args(TileCompression):
            raise ValueError(f"compression {self.compression!r} is none of {', '.join(get_args(TileCompression))}")

    def decode(self, data: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Decode one tile.

        Parameters
        ----------
        data
            The tile's bytes.
        out
            Memory that may be used for the result.

        Returns
        -------
        numpy.ndarray
            ``(h, w, 3)`` uint8 RGB.

        Raises
        ------
        Exception
            Whatever the codec raises where the bytes are no complete picture.
        """
        if self.compression == "jpeg":
            return decode_jpeg(data, tables=self.tables or None, transformed=self.transformed, out=out)
        if self.compression == "jpeg2000":
            return decode_jpeg2000(data, transformed=bool(self.transformed))
        return decode_webp(data) if self.compression == "webp" else decode_jpegls(data)

    def looks_whole(self, data: bytes | memoryview, width: int, height: int) -> bool:
        """Whether a tile's bytes look like a whole picture that covers an area, judged without decoding it.

        For JPEG the start and end markers and the size in the frame header are looked at; for other compressions only
        that there are bytes.  A tile that passes may still be damaged within.

        Parameters
        ----------
        data
            The tile's bytes.
        width, height
            Pixels that the picture must cover.
        """
        if self.compression != "jpeg":
            return len(data) > 0
        if bytes(data[:2]) != _JPEG_START or _JPEG_END not in bytes(data[-_JPEG_END_WITHIN:]):
            return False
        return _jpeg_covers(data, width, height)


def _jpeg_covers(data: bytes | memoryview, width: int, height: int) -> bool:
    """Walk over the segments up to the frame header (ITU-T T.81, annex B) and compare the size it states."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_FRAMES:
            stated_height = data[position + 5] << 8 | data[position + 6]
            stated_width = data[position + 7] << 8 | data[position + 8]
            return stated_height >= height and stated_width >= width
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return False

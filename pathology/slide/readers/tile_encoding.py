"""How stored tiles are compressed, as plain data: enough to decode them without their slide."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pathology.slide.readers.codecs import decode_jpeg, decode_jpeg2000, decode_jpegls, decode_webp
from pathology.slide.readers.packed_tiles import PackedTiles

__all__ = ["TileCompression", "TileEncoding"]

TileCompression = Literal["jpeg", "jpeg2000", "jpeg-ls", "webp"]
"""Compressions whose tiles are complete images, apart from shared JPEG tables."""

_JPEG_START: Final = b"\xff\xd8"
_JPEG_END: Final = b"\xff\xd9"
_TWO_BYTES: Final = np.dtype("<u2")
_JPEG_END_WITHIN: Final = 64
_JPEG_HEADERS_WITHIN: Final = 2**18
"""The frame header must be within this many first bytes; an ICC profile or a thumbnail may precede it."""
_JPEG_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
"""Second bytes of the markers that state an image's size: baseline, extended and progressive Huffman coding."""


@dataclass(frozen=True, slots=True)
class TileEncoding:
    """How the tiles of a level are compressed.

    Attributes
    ----------
    compression
        Image format of each tile.
    transformed
        Whether samples are YCbCr (True) or RGB (False), if the container states it; ``None`` follows the markers in
        the image.  Only used for JPEG and JPEG 2000.
    tables
        JPEG tables that all tiles share (TIFF tag JPEGTables), or empty.
    """

    compression: TileCompression
    transformed: bool | None = None
    tables: bytes = b""

    def __post_init__(self) -> None:
        if self.compression not in get_args(TileCompression):
            raise ValueError(
                f"unknown compression {self.compression!r}; choose from {', '.join(get_args(TileCompression))}"
            )

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
            Whatever the codec raises if the bytes are not a complete image.
        """
        if self.compression == "jpeg":
            return decode_jpeg(data, tables=self.tables or None, transformed=self.transformed, out=out)
        if self.compression == "jpeg2000":
            return decode_jpeg2000(data, transformed=bool(self.transformed))
        return decode_webp(data) if self.compression == "webp" else decode_jpegls(data)

    def looks_whole(self, data: bytes | memoryview, width: int, height: int) -> bool:
        """Whether a tile's bytes look like a complete image that covers an area, judged without decoding it.

        For JPEG, this checks the start and end markers and the size in the frame header; for other compressions, only
        that the tile is not empty.  A tile that passes may still be damaged inside.

        Parameters
        ----------
        data
            The tile's bytes.
        width, height
            Pixels that the image must cover.
        """
        if self.compression != "jpeg":
            return len(data) > 0
        # The tiles of a slide begin with the same bytes, so most need only one comparison.
        known = _last_header.get((width, height))
        if data[-2:] != _JPEG_END and _JPEG_END not in bytes(data[-_JPEG_END_WITHIN:]):
            return False
        if known is not None and data[: len(known)] == known:
            return True
        header = _jpeg_frame_header(bytes(data[:_JPEG_HEADERS_WITHIN]), width, height)
        if header:
            _last_header[width, height] = header
        return bool(header)

    def look_whole(
        self, tiles: PackedTiles, widths: int | NDArray[np.integer], heights: int | NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Vectorised :meth:`looks_whole` for many tiles.

        Parameters
        ----------
        tiles
            Their bytes.
        widths, heights
            Pixels that each image must cover: ``(n,)``, or one number for all.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` bool; false for missing tiles.
        """
        result: NDArray[np.bool_] = tiles.lengths > 0
        if self.compression != "jpeg" or not result.any():
            return result
        widest = widths if isinstance(widths, int) else int(widths.max())
        highest = heights if isinstance(heights, int) else int(heights.max())
        # A header size that covers the largest area covers all.
        known = _last_header.get((widest, highest))
        sure = np.zeros(0, np.intp)
        if known is not None:
            sure = np.flatnonzero(tiles.lengths >= len(known) + len(_JPEG_END))
        if known is not None and len(sure):
            header = np.frombuffer(known, np.uint8)
            starts, ends = tiles.starts[sure], tiles.starts[sure] + tiles.lengths[sure]
            # One row per possible tile boundary; only actual boundaries are inspected.
            last = np.ndarray(len(tiles.data) - 1, _TWO_BYTES, tiles.data, 0, (1,))
            rows = np.ndarray((len(tiles.data) - len(header) + 1, len(header)), np.uint8, tiles.data, 0, (1, 1))
            alike = last[ends - 2] == np.frombuffer(_JPEG_END, _TWO_BYTES)
            alike &= (rows[starts] == header).all(axis=1)
            if alike.all() and len(sure) == len(result):
                return result
            sure = sure[alike]
        doubtful = result.copy()
        doubtful[sure] = False
        for i in np.flatnonzero(doubtful).tolist():
            width = widths if isinstance(widths, int) else int(widths[i])
            height = heights if isinstance(heights, int) else int(heights[i])
            result[i] = self.looks_whole(tiles.tile(i), width, height)
        return result


_last_header: dict[tuple[int, int], bytes] = {}
"""The beginning, up to the frame header's size, of the last tile that covered an area."""


def _jpeg_frame_header(data: bytes, width: int, height: int) -> bytes:
    """Walk over the segments (ITU-T T.81, annex B) to the frame header and compare the size it states.

    Returns
    -------
    bytes
        The image's beginning up to that size; empty if there is none, or it is smaller than the area.
    """
    position = 2 if data.startswith(_JPEG_START) else len(data)
    while position + 9 <= len(data) and data[position] == 0xFF:
        if data[position + 1] in _JPEG_FRAMES:
            stated_height, stated_width = struct.unpack_from(">HH", data, position + 5)
            return data[: position + 9] if stated_height >= height and stated_width >= width else b""
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return b""

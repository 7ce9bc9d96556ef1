"""A slide as a pyramid of JPEG tiles for a browser.

Level ``z`` halves the slide ``z`` times: its pixel ``i`` covers level-0 pixels ``[i * 2**z, (i + 1) * 2**z)``, and its
size is the slide's divided by ``2**z``, rounded up.  If the slide stores such a level as JPEG tiles of the pyramid's
tile size, these are served unchanged, without decoding, compositing and encoding, which take most of the time in other
tile servers.  Everything else is read with the slide's reader and encoded.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import OrderedDict
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.errors import UsageError
from pathology.slide.readers.base import Rect, SlideReader
from pathology.slide.readers.tile_encoding import TileEncoding
from pathology.slide.readers.tiled import TiledReader
from pathology.slide.resample import choose_scaling, read_scaled
from pathology.slide.thumbnail import thumbnail

__all__ = ["ByteCache", "TilePyramid", "complete_jpeg", "encode_jpeg"]

QUALITY: Final = 85
"""JPEG quality of encoded tiles: no visible block artefacts at 1:1, with half the bytes of quality 95."""

_LARGEST_TILE: Final = 1024
_SMALLEST_TILE: Final = 128
_OWN_TILE: Final = 512
"""Tile size if the slide's own tiles are unsuitable for a browser: strips, or larger or smaller than the two above."""

_MOST_REDUCTION: Final = 8
"""A level this much coarser than the nearest stored one is computed as a whole, once: read tile by tile, each view of
a slide without a pyramid would decode the whole slide again."""
_WHOLE_LONGEST: Final = 6000
"""Longer side in pixels of the finest level computed as a whole: 100 MB.  Finer ones are read tile by tile."""


class ByteCache:
    """Cache of the most recently used tiles, limited in bytes; thread-safe.

    Parameters
    ----------
    capacity
        Largest number of bytes kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[object, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes in the cache."""
        return self._size

    def get(self, key: object) -> bytes | None:
        """Return the bytes cached under a key, or ``None``."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: object, data: bytes) -> None:
        """Cache bytes; the least recently used ones are evicted."""
        if len(data) > self.capacity:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self._size += len(data) - (0 if old is None else len(old))
            self._entries[key] = data
            while self._size > self.capacity:
                _, dropped = self._entries.popitem(last=False)
                self._size -= len(dropped)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return ``(h, w, 3)`` uint8 RGB as a JPEG file (4:2:0)."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise UsageError(f"{pixels.shape} cannot be encoded as JPEG")
    return data.tobytes()


def complete_jpeg(data: bytes, encoding: TileEncoding) -> bytes:
    """Return a stored JPEG tile as a file that every program displays in the correct colours.

    Shared tables are inserted, and markers of the colour encoding are replaced by the correct one (an Adobe marker, as
    in Adobe Technical Note 5116): tiles of slide scanners often have none, or a wrong one.

    Parameters
    ----------
    data
        The tile's bytes, beginning with the start-of-image marker.
    encoding
        How it was compressed.
    """
    parts = [b"\xff\xd8"]
    if encoding.transformed is not None:
        parts.append(
            b"\xff\xee" + struct.pack(">H", 14) + b"Adobe\x00\x64\x00\x00\x00\x00" + bytes([encoding.transformed])
        )
    if encoding.tables:
        parts.append(encoding.tables.removeprefix(b"\xff\xd8").removesuffix(b"\xff\xd9"))
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        end = place + 2 + (data[place + 2] << 8 | data[place + 3])
        if marker == 0xDA:
            break
        if encoding.transformed is None or marker not in (0xE0, 0xEE):
            parts.append(data[place:end])
        place = end
    parts.append(data[place:])
    return b"".join(parts)


class TilePyramid:
    """Tiles of one open slide.  Thread-safe, as its reader is.

    Parameters
    ----------
    reader
        The slide; the caller closes it.
    overview
        ``(H, W, 3)`` uint8 image of the whole slide, if available.  Coarse levels that the slide does not store are
        then computed from it, so that a slide without a pyramid need not be read as a whole before it is shown.

    Attributes
    ----------
    width, height
        Size of the slide in level-0 pixels.
    tile_size
        Side length of a tile in pixels.
    coarsest
        Number of the coarsest level: the first that fits into one tile.
    """

    def __init__(self, reader: SlideReader, overview: NDArray[np.uint8] | None = None) -> None:
        self._reader = reader
        self._overview = overview
        self.width, self.height = reader.dimensions
        side, other = reader.tile_size
        suits = side == other and _SMALLEST_TILE <= side <= _LARGEST_TILE
        self.tile_size = side if suits else _OWN_TILE
        self.coarsest = max(0, math.ceil(math.log2(max(self.width, self.height) / self.tile_size)))
        self._first_whole = next(filter(self._far_from_stored, range(self.coarsest + 1)), self.coarsest + 1)
        self._base: NDArray[np.uint8] | None = None
        self._whole: dict[int, NDArray[np.uint8]] = {}
        self._making = threading.Lock()
        self._reading = threading.Lock()

    def level_size(self, z: int) -> tuple[int, int]:
        """``(width, height)`` of a level in its own pixels."""
        return -(-self.width // 2**z), -(-self.height // 2**z)

    def tile(self, z: int, column: int, row: int) -> bytes:
        """Return one tile as a JPEG file; those at the right and bottom edge are cropped to the slide.

        Parameters
        ----------
        z
            Level, 0 the finest.
        column, row
            Indices of the tile.

        Raises
        ------
        UsageError
            If the tile does not exist.
        SlideError
            If the slide can no longer be read.
        """
        if not 0 <= z <= self.coarsest:
            raise UsageError(f"there is no level {z}; there are 0 to {self.coarsest}")
        width, height = self.level_size(z)
        x, y = column * self.tile_size, row * self.tile_size
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"there is no tile ({column}, {row}) on level {z}")
        w, h = min(self.tile_size, width - x), min(self.tile_size, height - y)
        if w == h == self.tile_size:
            stored = self._stored(z, column, row)
            if stored is not None:
                return stored
        return encode_jpeg(self.pixels(z, x, y, w, h))

    def pixels(self, z: int, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return a rectangle of a level as ``(h, w, 3)`` uint8 RGB; ``x`` to ``h`` in pixels of that level."""
        if z >= self._first_whole:
            return np.ascontiguousarray(self._of_whole(z)[y : y + h, x : x + w])
        return read_scaled(self._reader, choose_scaling(self._reader, float(2**z)), Rect(x, y, w, h)).pixels

    def _stored(self, z: int, column: int, row: int) -> bytes | None:
        """Return the slide's own tile if it is exactly the requested one, in a form that browsers display."""
        reader = self._reader
        if not isinstance(reader, TiledReader):
            return None
        number = reader.best_level(float(2**z))
        level = reader.levels[number]
        # A stored level matches the pyramid's if they differ by less than a pixel over the whole slide.
        drift = abs(level.downsample / 2**z - 1) * max(level.width, level.height)
        inside = (column + 1) * self.tile_size <= level.width and (row + 1) * self.tile_size <= level.height
        if drift >= 1 or not inside or level.tile_size != (self.tile_size, self.tile_size):
            return None
        encoding = reader.tile_encoding(number)
        if encoding is None or encoding.compression != "jpeg":
            return None
        data = reader.stored_tile(number, column, row)
        if not encoding.looks_whole(data, self.tile_size, self.tile_size):
            return None
        return complete_jpeg(data, encoding)

    def _far_from_stored(self, z: int) -> bool:
        """Return whether a level is much coarser than any stored one, and small enough to be cached."""
        far = choose_scaling(self._reader, float(2**z)).reduction >= _MOST_REDUCTION
        return far and max(self.level_size(z)) <= _WHOLE_LONGEST

    def _of_whole(self, z: int) -> NDArray[np.uint8]:
        """Return a whole level; computed once."""
        with self._making:
            found = self._whole.get(z)
        if found is None:
            found = self._squeezed(self._picture(z), z)
            with self._making:
                self._whole[z] = found
        return found

    def _picture(self, z: int) -> NDArray[np.uint8]:
        """Return an image of the whole slide that is at least as fine as a level."""
        width, height = self.level_size(z)
        if self._overview is not None and self._overview.shape[0] >= height and self._overview.shape[1] >= width:
            return self._overview
        with self._reading:  # one pass over the slide serves all levels
            if self._base is None:
                self._base = thumbnail(self._reader, 1.0, float(2**self._first_whole)).pixels
            return self._base

    def _squeezed(self, picture: NDArray[np.uint8], z: int) -> NDArray[np.uint8]:
        """Resample an image of exactly the slide to a level, whose last pixels extend beyond the slide boundary."""
        width, height = self.level_size(z)
        across, down = width * 2**z * picture.shape[1] / self.width, height * 2**z * picture.shape[0] / self.height
        beyond = ((0, math.ceil(down) - picture.shape[0]), (0, math.ceil(across) - picture.shape[1]), (0, 0))
        padded = Image.fromarray(np.pad(picture, beyond, mode="edge"))
        return np.asarray(padded.resize((width, height), Image.Resampling.HAMMING, box=(0, 0, across, down)))

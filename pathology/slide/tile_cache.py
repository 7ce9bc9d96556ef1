"""A bounded, thread-safe store of decoded tiles, shared by neighbouring reads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

__all__ = ["TileCache"]


class TileCache:
    """Keeps decoded tiles up to a number of bytes: those with pixels not yet read, the most recently used first.

    Parameters
    ----------
    capacity
        Largest number of bytes kept; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tiles: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._left: dict[Hashable, int] = {}
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._size

    def get(self, key: Hashable, taken: int = 0) -> NDArray[np.uint8] | None:
        """Return the tile, read-only, or ``None``.

        Parameters
        ----------
        key
            The tile's name.
        taken
            How many of its pixels are read now.  A tile whose every pixel has been read is the next to make room: with
            neighbouring reads nobody will ask for it again.
        """
        if not self._tiles:
            return None
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._left[key] -= taken
                self._tiles.move_to_end(key, last=self._left[key] > 0)
            return tile

    def put(self, key: Hashable, tile: NDArray[np.uint8], left: int = 1) -> None:
        """Keep a tile; those read to their end and the least recently used make room.  The tile becomes read-only.

        Parameters
        ----------
        key
            The tile's name.
        tile
            ``(h, w, 3)`` uint8.
        left
            How many of its pixels have not been read yet.
        """
        if tile.nbytes > self.capacity:
            return
        tile.flags.writeable = False
        with self._lock:
            old = self._tiles.pop(key, None)
            if old is not None:
                self._size -= old.nbytes
            self._tiles[key] = tile
            self._left[key] = left
            self._size += tile.nbytes
            while self._size > self.capacity:
                dropped, pixels = self._tiles.popitem(last=False)
                del self._left[dropped]
                self._size -= pixels.nbytes

    def clear(self) -> None:
        """Forget every tile."""
        with self._lock:
            self._tiles.clear()
            self._left.clear()
            self._size = 0

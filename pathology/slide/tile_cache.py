"""A bounded, thread-safe store of decoded tiles, shared by neighbouring reads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

__all__ = ["TileCache"]


class TileCache:
    """Keeps the most recently used decoded tiles up to a number of bytes.

    Parameters
    ----------
    capacity
        Largest number of bytes kept; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tiles: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._size

    def get(self, key: Hashable) -> NDArray[np.uint8] | None:
        """Return the tile, read-only, or ``None``."""
        if not self._tiles:
            return None
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: NDArray[np.uint8]) -> None:
        """Keep a tile; the least recently used ones make room.  The tile becomes read-only."""
        if tile.nbytes > self.capacity:
            return
        tile.flags.writeable = False
        with self._lock:
            old = self._tiles.pop(key, None)
            if old is not None:
                self._size -= old.nbytes
            self._tiles[key] = tile
            self._size += tile.nbytes
            while self._size > self.capacity:
                _, dropped = self._tiles.popitem(last=False)
                self._size -= dropped.nbytes

    def clear(self) -> None:
        """Forget every tile."""
        with self._lock:
            self._tiles.clear()
            self._size = 0

"""A bounded, thread-safe cache of decoded tiles, shared by neighbouring reads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["TileCache"]

_REMEMBERED: Final = 4096
"""Evicted tiles whose unread pixel counts are remembered: less than half a megabyte."""


class TileCache:
    """Keeps decoded tiles up to a number of bytes; prefers tiles with unread pixels, then the most recently used.

    Parameters
    ----------
    capacity
        Maximum number of bytes kept; 0 disables the cache.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tiles: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._left: dict[Hashable, int] = {}
        self._driven_out: OrderedDict[Hashable, int] = OrderedDict()
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
            The tile's key.
        taken
            How many of its pixels are read now.  A tile whose pixels have all been read is evicted next: neighbouring
            reads will not need it again.
        """
        if key not in self._tiles:  # atomic, so it needs no lock
            return None
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._left[key] -= taken
                self._tiles.move_to_end(key, last=self._left[key] > 0)
            return tile

    def put(self, key: Hashable, tile: NDArray[np.uint8], left: int = 1, taken: int = 0, *, copy: bool = False) -> None:
        """Keep a tile, read-only; fully read tiles and then the least recently used are evicted.

        Parameters
        ----------
        key
            The tile's key.
        tile
            ``(h, w, 3)`` uint8.
        left
            How many of its pixels are still unread if it was not cached before.
        taken
            How many are read now.  A tile that was evicted before it was fully read resumes from its remembered count
            when it returns: otherwise tiles that will not be needed again would evict those that the next read needs,
            and so on.
        copy
            Whether the caller keeps using the memory; if so, the cache keeps a copy.
        """
        if tile.nbytes > self.capacity:
            return
        with self._lock:
            if self._driven_out and key in self._driven_out:
                left = self._driven_out.pop(key) - taken
                if left <= 0:
                    return
        kept = tile.copy() if copy else tile
        kept.flags.writeable = False
        with self._lock:
            old = self._tiles.pop(key, None)
            if old is not None:
                self._size -= old.nbytes
            self._tiles[key] = kept
            self._left[key] = left
            self._size += kept.nbytes
            while self._size > self.capacity:
                dropped, pixels = self._tiles.popitem(last=False)
                self._size -= pixels.nbytes
                lacking = self._left.pop(dropped)
                if lacking > 0:
                    self._driven_out[dropped] = lacking
                    if len(self._driven_out) > _REMEMBERED:
                        self._driven_out.popitem(last=False)

    def clear(self) -> None:
        """Forget every tile."""
        with self._lock:
            self._tiles.clear()
            self._left.clear()
            self._driven_out.clear()
            self._size = 0

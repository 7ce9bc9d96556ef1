"""Slides kept open between the tasks of one worker process.

A slide's blocks are processed in many tasks.  Reopening it for each would read its index again, which takes a tenth of
a second for a large slide, and would discard the cached tiles shared with the previous task's blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pathology.scoring.jobs import source_signature
from pathology.slide.open import open_reader
from pathology.slide.readers.base import SlideReader, TileCounts
from pathology.tiling.tile_work import TileWork

__all__ = ["PooledReader", "pooled_reader"]


@dataclass(eq=False)
class PooledReader:
    """An open slide that several tasks of this process may use at once.

    Attributes
    ----------
    reader
        The slide; the caller must not close it.
    """

    reader: SlideReader
    _key: object
    _users: int = 0
    _counted: TileCounts = field(default_factory=TileCounts)

    def take_work(self) -> TileWork:
        """Return what was decoded since the last call, by any task: the sum over all tasks is correct."""
        with _lock:
            now, before = self.reader.tile_counts, self._counted
            self._counted = now
        return TileWork(decoded=now.decoded - before.decoded, reused=now.reused - before.reused)


_lock = threading.Lock()
_held: list[PooledReader] = []
"""Slides in use, and at most one idle slide: the most recently used."""


@contextmanager
def pooled_reader(path: Path) -> Iterator[PooledReader]:
    """Open a slide, or reuse it if it is open; it stays open for the next task.

    Parameters
    ----------
    path
        The slide; it is reopened if it changed on disk.

    Raises
    ------
    SlideError
        If it cannot be opened.
    """
    key = (path, source_signature(path))
    with _lock:
        pooled = next((held for held in _held if held._key == key), None)
        if pooled is None:
            pooled = PooledReader(open_reader(path), key)
            _held.append(pooled)
        pooled._users += 1
        _close_idle(keep=pooled)
    try:
        yield pooled
    finally:
        with _lock:
            pooled._users -= 1
            _close_idle(keep=pooled)


def _close_idle(keep: PooledReader) -> None:
    for held in [held for held in _held if held._users == 0 and held is not keep]:
        _held.remove(held)
        held.reader.close()

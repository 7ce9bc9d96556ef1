"""Readers of slides whose levels are stored as compressed tiles.

The index (where each tile's bytes are) is read once, when the slide is opened.  A read then fetches the compressed
bytes with ``os.pread``, which needs no lock, decodes each stored tile once, outside the interpreter lock, and puts it
in its place.  Nothing is composed, blended or interpolated: that, not decoding, is where other readers spend their
time.
"""

from __future__ import annotations

import hashlib
import os
import threading
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, UsageError
from pathology.slide.codecs import TileDecodeError
from pathology.slide.reader import BACKGROUND, Level, Rect, Region, SlideReader, TileCounts
from pathology.slide.tile_cache import TileCache

__all__ = ["DEFAULT_CACHE_BYTES", "StoredLevel", "TiledReader"]

DEFAULT_CACHE_BYTES: Final = 64 * 2**20
"""Decoded tiles a reader keeps, in bytes.  64 MiB are 340 tiles of 256 x 256: two tile rows of a read 40,000 pixels
wide, and the borders of any block of up to 16,384 pixels with its neighbours."""

_HOT_BYTES: Final = 2**20
"""Tiles above this size do not stay in a processor's own cache anyway."""
_HASH_WHOLE_BELOW: Final = 32 * 2**20
"""A level with fewer compressed bytes than this goes into the fingerprint whole."""
_HASH_SAMPLED_TILES: Final = 64
"""Tiles, evenly spread, that go into the fingerprint from each larger level."""


@dataclass(frozen=True)
class StoredLevel:
    """One level as it lies in a file.

    Attributes
    ----------
    level
        What the level is to its users.
    offsets, lengths
        ``(rows * columns,)`` int64, row by row: where each tile's bytes begin in its file, and how many there are;
        length 0 where the scanner left the tile out.
    codec
        Name of the compression, part of the fingerprint.
    tables
        Bytes without which the tiles cannot be decoded (JPEG tables), part of the fingerprint.
    file_of_tile
        ``(rows * columns,)`` index into the reader's files, where the level is spread over several; ``None``: all
        tiles are in ``file``.
    file
        Index into the reader's files.
    """

    level: Level
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    codec: str
    tables: bytes = b""
    file_of_tile: NDArray[np.int64] | None = None
    file: int = 0
    columns: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        width, height = self.level.tile_size
        object.__setattr__(self, "columns", -(-self.level.width // width))
        object.__setattr__(self, "rows", -(-self.level.height // height))


class TiledReader(SlideReader):
    """Base of the readers that fetch and decode stored tiles themselves.

    A subclass finds the levels, hands them over in its constructor and implements :meth:`_decode`.

    Parameters
    ----------
    path
        The file or folder the slide was opened on.
    files
        The files that hold the tiles.
    stored
        The levels, finest first.
    threads
        Threads that decode the tiles of one read; 1 decodes in the calling thread.
    cache_bytes
        Decoded tiles kept for neighbouring reads, in bytes; 0 keeps none.  Only tiles that a read covers in part are
        kept, since the neighbour wants the rest: a read of whole tiles leaves no trace, and a large one drives out
        nothing but its border.

    Raises
    ------
    CorruptSlideError
        If the index points behind the end of a file.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        stored: Sequence[StoredLevel],
        *,
        threads: int = 1,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if threads < 1:
            raise UsageError(f"threads must be at least 1, not {threads}")
        if cache_bytes < 0:
            raise UsageError(f"cache_bytes must be 0 or more, not {cache_bytes}")
        self.path = path
        self.levels = tuple(s.level for s in stored)
        self._stored = tuple(stored)
        self._cache = TileCache(cache_bytes)
        self._lock = threading.Lock()
        self._decoded = 0
        self._reused = 0
        self._unreadable: set[tuple[int, int, int]] = set()
        self._scratch = threading.local()
        self._active = 0
        self._closed = False
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles") if threads > 1 else None
        self._descriptors: list[int] = []
        try:
            for file in files:
                # O_CLOEXEC is Python's default; the position is never used.
                self._descriptors.append(os.open(file, os.O_RDONLY))
            self._check_extent(files)
        except BaseException:
            self._close_descriptors()
            raise

    @abstractmethod
    def _decode(self, level: int, index: int, data: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Decode one tile to ``(h, w, 3)`` uint8 RGB, at least as large as the part of it inside the level.

        ``out`` is memory of the tile's size that may be used for the result.  Any exception means that the tile is
        unreadable.
        """

    @property
    def tile_counts(self) -> TileCounts:
        """Stored tiles decoded, reused and unreadable so far."""
        with self._lock:
            return TileCounts(self._decoded, self._reused, len(self._unreadable))

    @property
    def unreadable_tiles(self) -> frozenset[tuple[int, int, int]]:
        """Stored tiles found undecodable so far, as ``(level, column, row)``."""
        with self._lock:
            return frozenset(self._unreadable)

    def stored_tile(self, level: int, column: int, row: int) -> bytes:
        """Return the compressed bytes of one stored tile, as they are in the file.

        Parameters
        ----------
        level, column, row
            Position in the level's grid of tiles.

        Returns
        -------
        bytes
            Empty where the scanner left the tile out.
        """
        stored = self._stored[level]
        if not (0 <= column < stored.columns and 0 <= row < stored.rows):
            raise UsageError(
                f"level {level} has {stored.columns} x {stored.rows} tiles; there is none at ({column}, {row})"
            )
        self._enter()
        try:
            return self._fetch(stored, row * stored.columns + column)
        finally:
            self._leave()

    def close(self) -> None:
        """Close the files, once reads under way in other threads have ended.  Closing twice is allowed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle = self._active == 0
        if idle:
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._cache.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path}: the reader is closed")
            self._active += 1

    def _leave(self) -> None:
        with self._lock:
            self._active -= 1
            last = self._closed and self._active == 0
        if last:
            # Descriptors are closed by the last reader to leave: closed earlier, their numbers could already belong
            # to another file.
            self._close_descriptors()

    def _fetch(self, stored: StoredLevel, index: int) -> bytes:
        length = int(stored.lengths[index])
        if length == 0:
            return b""
        file = stored.file if stored.file_of_tile is None else int(stored.file_of_tile[index])
        data = os.pread(self._descriptors[file], length, int(stored.offsets[index]))
        if len(data) != length:
            raise TileDecodeError("the file has become shorter")
        return data

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        stored = self._stored[level]
        self._enter()
        try:
            return self._read_stored(level, stored, x, y, w, h)
        finally:
            self._leave()

    def _read_stored(self, level: int, stored: StoredLevel, x: int, y: int, w: int, h: int) -> Region:
        width, height = stored.level.width, stored.level.height
        tile_width, tile_height = stored.level.tile_size
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if left >= right or top >= bottom:
            return Region(np.full((h, w, 3), BACKGROUND, np.uint8))
        column, row = left // tile_width, top // tile_height
        if (
            (w, h) == (tile_width, tile_height)
            and (x, y) == (column * w, row * h)
            and (right, bottom) == (x + w, y + h)
        ):
            whole = self._whole_tile(level, stored, row * stored.columns + column)
            if whole is not None:
                return Region(whole)
        inside = right - left == w and bottom - top == h
        canvas = np.empty((h, w, 3), np.uint8) if inside else np.full((h, w, 3), BACKGROUND, np.uint8)
        window = Rect(x, y, w, h)
        tiles = [(c, r) for r in range(row, -(-bottom // tile_height)) for c in range(column, -(-right // tile_width))]
        if self._pool is None or len(tiles) == 1:
            return Region(canvas, tuple(self._paste(level, stored, tiles, canvas, window)))
        shares = [tiles[i :: self._threads] for i in range(min(self._threads, len(tiles)))]
        tasks = [self._pool.submit(self._paste, level, stored, share, canvas, window) for share in shares[1:]]
        try:
            unreadable = self._paste(level, stored, shares[0], canvas, window)
        finally:
            for task in tasks:
                task.exception()  # wait: the canvas must not be handed out, nor the file closed, under a writer
        for task in tasks:
            unreadable += task.result()
        return Region(canvas, tuple(sorted(unreadable, key=lambda rect: (rect.y, rect.x))))

    def _whole_tile(self, level: int, stored: StoredLevel, index: int) -> NDArray[np.uint8] | None:
        """Return one whole tile as an array of the caller's own, or ``None`` where the general way must be taken."""
        cached = self._cache.get((level, index))
        if cached is not None:
            with self._lock:
                self._reused += 1
            return cached.copy()
        if not stored.lengths[index]:
            return None
        tile = self._load(level, stored, index)
        width, height = stored.level.tile_size
        if tile is None or tile.shape[0] != height or tile.shape[1] != width:
            return None
        with self._lock:
            self._decoded += 1
        return tile if tile.flags.owndata and tile.flags.writeable else tile.copy()

    def _paste(
        self, level: int, stored: StoredLevel, tiles: Iterable[tuple[int, int]], canvas: NDArray[np.uint8], window: Rect
    ) -> list[Rect]:
        """Put tiles in their places on the canvas; return the places, on the canvas, of undecodable ones."""
        tile_width, tile_height = stored.level.tile_size
        decoded = reused = 0
        unreadable: list[Rect] = []
        lost: list[tuple[int, int, int]] = []
        scratch = self._thread_scratch(tile_width, tile_height)
        for column, row in tiles:
            index = row * stored.columns + column
            tile_left, tile_top = column * tile_width, row * tile_height
            # Part of the tile inside both the level and the window, in level pixels.
            left, top = max(tile_left, window.x), max(tile_top, window.y)
            right = min(tile_left + tile_width, stored.level.width, window.x + window.width)
            bottom = min(tile_top + tile_height, stored.level.height, window.y + window.height)
            place = canvas[top - window.y : bottom - window.y, left - window.x : right - window.x]
            tile = self._cache.get((level, index))
            if tile is not None:
                reused += 1
            else:
                if not stored.lengths[index]:
                    place[:] = BACKGROUND
                    continue
                tile = self._load(level, stored, index, scratch)
                if tile is None:
                    place[:] = BACKGROUND
                    unreadable.append(Rect(left - window.x, top - window.y, right - left, bottom - top))
                    lost.append((level, column, row))
                    continue
                decoded += 1
                if place.shape[0] < tile_height or place.shape[1] < tile_width:
                    self._cache.put((level, index), tile.copy() if tile is scratch else tile)
            place[:] = tile[top - tile_top : bottom - tile_top, left - tile_left : right - tile_left]
        with self._lock:
            self._decoded += decoded
            self._reused += reused
            self._unreadable.update(lost)
        return unreadable

    def _thread_scratch(self, width: int, height: int) -> NDArray[np.uint8] | None:
        """Return memory of one tile's size that belongs to this thread, or ``None`` where tiles are large.

        Decoding into memory that is still in the processor's cache and copying from there takes a fifth less time
        than decoding straight into cold memory.
        """
        if width * height * 3 > _HOT_BYTES:
            return None
        memory: NDArray[np.uint8] | None = getattr(self._scratch, "memory", None)
        if memory is None or memory.shape != (height, width, 3):
            memory = self._scratch.memory = np.empty((height, width, 3), np.uint8)
        return memory

    def _load(
        self, level: int, stored: StoredLevel, index: int, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8] | None:
        """Fetch and decode one tile; ``None`` where that cannot be done."""
        try:
            tile = self._decode(level, index, self._fetch(stored, index), out)
        except MemoryError:
            raise
        except Exception:  # each codec and file system has errors of its own; the tile is lost
            return None
        # The stored picture may be cut to the level's border but must cover what lies inside.
        tile_width, tile_height = stored.level.tile_size
        row, column = divmod(index, stored.columns)
        needed_height = min(tile_height, stored.level.height - row * tile_height)
        needed_width = min(tile_width, stored.level.width - column * tile_width)
        if tile.ndim != 3 or tile.shape[2] != 3 or tile.shape[0] < needed_height or tile.shape[1] < needed_width:
            return None
        return tile

    def _check_extent(self, files: Sequence[Path]) -> None:
        """Refuse a file that ends before its last tile: it was not copied to its end."""
        sizes = np.array([os.fstat(d).st_size for d in self._descriptors], np.int64)
        missing = total = 0
        for stored in self._stored:
            owner = np.full(1, stored.file) if stored.file_of_tile is None else stored.file_of_tile
            behind = (stored.lengths > 0) & (stored.offsets + stored.lengths > sizes[owner])
            missing += int(behind.sum())
            total += int((stored.lengths > 0).sum())
        if missing:
            raise CorruptSlideError(
                f"the file is cut off: {missing} of its {total} stored tiles lie behind its end at "
                f"{int(sizes.sum()):,} bytes",
                where=self.path if len(files) > 1 else files[0],
                remedy="Copy the slide again from its source",
            )

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # computed when first asked for, then a plain attribute
        """Hash of what the pixels are made from: the index, the tables and the tiles' bytes.

        Small levels are hashed whole, large ones by evenly spread tiles, so that asking does not read many gigabytes.
        A change of any tile shows in its length for every compressed format, and in the coarser levels, which are
        small.
        """
        digest = hashlib.sha256()
        self._enter()
        try:
            for stored in self._stored:
                level = stored.level
                digest.update(f"{level.width} {level.height} {level.tile_size} {stored.codec}".encode())
                digest.update(stored.tables)
                digest.update(np.ascontiguousarray(stored.lengths, "<i8").tobytes())
                present = np.flatnonzero(stored.lengths)
                if int(stored.lengths.sum()) > _HASH_WHOLE_BELOW:
                    present = present[np.linspace(0, len(present) - 1, _HASH_SAMPLED_TILES).astype(np.int64)]
                for index in present:
                    digest.update(self._fetch(stored, int(index)))
        finally:
            self._leave()
        return digest.hexdigest()

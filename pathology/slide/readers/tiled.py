"""Readers of slides whose levels are stored as compressed tiles.

The index (the position of each tile's bytes) is read once, when the slide is opened.  A read then fetches the
compressed bytes with ``os.pread``, which needs no lock, decodes each stored tile once, outside the interpreter lock,
and copies it into place.  Nothing is composed, blended or interpolated: that, not decoding, is where other readers
spend their time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, UsageError
from pathology.slide.readers.base import BACKGROUND, Level, Rect, Region, SlideReader, TileCounts
from pathology.slide.readers.codecs import TileDecodeError, decoding_memory, reduce_jpeg2000
from pathology.slide.readers.packed_tiles import PackedTiles
from pathology.slide.readers.tile_cache import TileCache
from pathology.slide.readers.tile_encoding import TileEncoding

__all__ = ["DEFAULT_CACHE_BYTES", "StoredLevel", "TileDecoder", "TiledReader", "image_decoder"]

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES: Final = 32 * 2**20
"""Default cache of decoded tiles, in bytes.  32 MiB hold 170 tiles of 256 x 256: one tile row of 43,000 pixels,
or the border of a block of 10,000 pixels.  More only helps wider passes, and memory that exceeds the CPU cache makes
every read a tenth slower."""

_HOT_BYTES: Final = 2**20
"""Tiles above this size do not fit into a core's own cache anyway."""
_GAP: Final = 4096
"""Tiles up to this many bytes apart are read together: reading the gap is cheaper than a second call."""
_RUN_BYTES: Final = 8 * 2**20
"""Approximate maximum number of bytes read at once."""
_HASH_WHOLE_BELOW: Final = 32 * 2**20
"""A level with fewer compressed bytes than this is hashed whole for the fingerprint."""
_HASH_SAMPLED_TILES: Final = 64
"""Evenly spaced tiles that are hashed for the fingerprint from each larger level."""


@dataclass(frozen=True, slots=True)
class TileDecoder:
    """How the tiles of a level become pixels.

    Attributes
    ----------
    decode
        From a tile's bytes, its index and memory of the tile's size that may be used for the result, to ``(h, w, 3)``
        uint8 RGB, at least as large as the part of the tile inside the level.  Any exception means that the tile is
        unreadable.
    reduce
        From a tile's bytes and a reduction to the tile shrunk by it, as the compression itself provides, or ``None``
        where it does not; the whole field is ``None`` for compressions that never do.
    """

    decode: Callable[[bytes, int, NDArray[np.uint8] | None], NDArray[np.uint8]]
    reduce: Callable[[bytes, int], NDArray[np.uint8] | None] | None = None


def image_decoder(encoding: TileEncoding) -> TileDecoder:
    """Return the decoder of tiles that are complete images."""
    reduce = None
    if encoding.compression == "jpeg2000":
        reduce = partial(reduce_jpeg2000, transformed=bool(encoding.transformed))
    return TileDecoder(lambda data, _, out: encoding.decode(data, out), reduce)


@dataclass(frozen=True)
class StoredLevel:
    """One level as stored in a file.

    Attributes
    ----------
    level
        The level's public description.
    offsets, lengths
        ``(rows * columns,)`` int64, row-major: offset and length of each tile's bytes in its file; length 0 if the
        scanner omitted the tile.
    codec
        Name of the compression, part of the fingerprint.
    decoder
        Decodes tiles to pixels.
    tables
        Bytes without which the tiles cannot be decoded (JPEG tables), part of the fingerprint.
    file_of_tile
        ``(rows * columns,)`` index into the reader's files, if the level spans several; ``None``: all tiles are in
        ``file``.
    file
        Index into the reader's files.
    encoding
        How the tiles are compressed, if they can be decoded without their file.
    """

    level: Level
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    codec: str
    decoder: TileDecoder
    tables: bytes = b""
    file_of_tile: NDArray[np.int64] | None = None
    file: int = 0
    encoding: TileEncoding | None = None
    columns: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        width, height = self.level.tile_size
        object.__setattr__(self, "columns", -(-self.level.width // width))
        object.__setattr__(self, "rows", -(-self.level.height // height))

    def inside(self, index: int) -> tuple[int, int]:
        """Return width and height of the part of a tile inside the level, which a stored image must cover."""
        row, column = divmod(index, self.columns)
        (width, height), level = self.level.tile_size, self.level
        return min(width, level.width - column * width), min(height, level.height - row * height)


@dataclass(frozen=True, slots=True)
class _View:
    """A level, possibly downsampled by an integer factor, as a grid of tiles; sizes in its own pixels."""

    number: int
    stored: StoredLevel
    reduction: int
    width: int
    height: int
    tile_width: int
    tile_height: int


_Piece = tuple[int, int, list[tuple[int, int, int, int, NDArray[np.uint8]]]]
"""A stored tile's column and row, and the destinations of its pixels: edges (left, top, right, bottom) and memory."""


def _view(number: int, stored: StoredLevel, reduction: int) -> _View | None:
    """Downsample a level tile by tile; ``None`` if tiles do not divide evenly."""
    level = stored.level
    tile_width, tile_height = level.tile_size
    # The last column and row may be clipped at the level's border; missing pixels are white.
    if (stored.columns > 1 and tile_width % reduction) or (stored.rows > 1 and tile_height % reduction):
        return None
    sides = (-(-side // reduction) for side in (level.width, level.height, tile_width, tile_height))
    return _View(number, stored, reduction, *sides)


class TiledReader(SlideReader):
    """Base class of readers that fetch and decode stored tiles themselves.

    A subclass finds the levels and their decoders, and passes them to this constructor.

    Parameters
    ----------
    path
        The file or folder the slide was opened on.
    files
        The files that contain the tiles.
    stored
        The levels, finest first.
    threads
        Threads that decode the tiles of one read; 1 decodes in the calling thread.
    cache_bytes
        Size of the cache of decoded tiles, in bytes; 0 disables it.  Only tiles that a read covers partly are kept,
        since a neighbouring read needs the rest: reading whole tiles does not fill the cache, and a large read only
        caches its border.

    Raises
    ------
    CorruptSlideError
        If the index points beyond the end of a file.
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
        self._filled = _filled_from_finer(stored)
        self._views = tuple(
            _View(i, s, 1, s.level.width, s.level.height, *s.level.tile_size) for i, s in enumerate(stored)
        )
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
            Empty if the scanner omitted the tile.
        """
        stored = self._stored[level]
        if not (0 <= column < stored.columns and 0 <= row < stored.rows):
            raise UsageError(
                f"level {level} has {stored.columns} x {stored.rows} tiles; ({column}, {row}) is out of range"
            )
        self._enter()
        try:
            return self._fetch(stored, row * stored.columns + column)
        finally:
            self._leave()

    def tile_encoding(self, level: int) -> TileEncoding | None:
        """Return how a level's tiles are compressed, or ``None`` if the tiles alone do not make up the level.

        That is the case if they cannot be decoded outside their file, or if some are filled from the next finer level.
        """
        return None if self._filled[level] else self._stored[level].encoding

    def stored_tiles(self, level: int, indices: NDArray[np.integer]) -> PackedTiles:
        """Return the compressed bytes of several stored tiles, reading adjacent ones in one call.

        Parameters
        ----------
        level
            Index into :attr:`levels`.
        indices
            ``(n,)`` row-major indices into the level's grid of tiles.

        Returns
        -------
        PackedTiles
            In the requested order.
        """
        stored = self._stored[level]
        starts, lengths = stored.offsets[indices], stored.lengths[indices]
        if stored.file_of_tile is None:
            order, owners = np.argsort(starts, kind="stable"), None
        else:
            owners = stored.file_of_tile[indices]
            order = np.lexsort((starts, owners))
        if not lengths.all():
            order = order[lengths[order] > 0]
        sorted_starts, sorted_owners = starts[order], None if owners is None else owners[order]
        ends = sorted_starts + lengths[order]
        edges = _runs(sorted_starts, ends, sorted_owners)
        firsts = edges[:-1]
        begins = sorted_starts[firsts]
        sizes = ends[edges[1:] - 1] - begins
        places = sizes.cumsum() - sizes
        data = np.empty(int(sizes.sum()), np.uint8)
        memory = data.data
        found = PackedTiles(data, np.zeros(len(indices), np.int64), lengths)
        found.starts[order] = sorted_starts + (places - begins).repeat(edges[1:] - firsts)
        self._enter()
        try:
            for first, last, begin, size, place in zip(
                *(numbers.tolist() for numbers in (firsts, edges[1:], begins, sizes, places)), strict=True
            ):
                descriptor = self._descriptors[stored.file if sorted_owners is None else sorted_owners[first]]
                got = _read_into(descriptor, memory[place : place + size], begin)
                if got < size:
                    found.lengths[order[first:last][ends[first:last] > begin + got]] = -1
        finally:
            self._leave()
        if type(self)._bare is TiledReader._bare:
            return found
        return PackedTiles.of(
            [None if n < 0 else self._bare(stored, found.tile(i)) if n else b"" for i, n in enumerate(found.lengths)]
        )

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
            raise TileDecodeError("the file has shrunk since it was opened")
        return bytes(self._bare(stored, data))  # no copy if already bytes

    def _bare(self, stored: StoredLevel, data: bytes | memoryview) -> bytes | memoryview:
        """Strip a tile's container-specific wrapping."""
        del stored
        return data

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        return self._read_view(self._views[level], x, y, w, h)

    def _read_into(self, out: NDArray[np.uint8], level: int, x: int, y: int, w: int, h: int) -> Region:
        return self._read_view(self._views[level], x, y, w, h, out=out)

    def read_reduced(
        self,
        level: int,
        reduction: int,
        x: int,
        y: int,
        w: int,
        h: int,
        *,
        overlap: int = 0,
        out: NDArray[np.uint8] | None = None,
    ) -> Region:
        """Read a region downsampled by an integer factor, tile by tile.

        Each tile is decoded and downsampled while it is in the CPU cache.  The result is the exact mean, as in
        :meth:`pathology.slide.readers.base.SlideReader.read_reduced`, except for JPEG 2000 with a power of two: then a
        stored lower resolution is decoded, which takes half the time at 2 and 4 and a quarter at 8, and differs from
        the mean by up to 5 levels (of 255) on average over tissue at 2, and by up to 3 at 4 and 8.

        JPEG's scaled decoding is not used: most of the time goes into entropy decoding, which it cannot skip, so it
        saves little and differs by up to 40 levels at edges.
        """
        valid = 0 <= level < len(self._stored) and reduction > 0 and w > 0 and h > 0
        view = _view(level, self._stored[level], reduction) if valid else None
        if view is None:
            return super().read_reduced(level, reduction, x, y, w, h, overlap=overlap, out=out)
        if out is not None:
            self._check_memory(out, w, h)
        return self._read_view(view, x, y, w, h, overlap, out)

    def _read_view(
        self, view: _View, x: int, y: int, w: int, h: int, overlap: int = 0, out: NDArray[np.uint8] | None = None
    ) -> Region:
        self._enter()
        try:
            return self._compose(view, x, y, w, h, overlap, out)
        finally:
            self._leave()

    def _compose(
        self, view: _View, x: int, y: int, w: int, h: int, overlap: int, out: NDArray[np.uint8] | None
    ) -> Region:
        tile_width, tile_height = view.tile_width, view.tile_height
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, view.width), min(y + h, view.height)
        if left >= right or top >= bottom:
            return Region(_white(h, w, out))
        column, row = left // tile_width, top // tile_height
        inside = right - left == w and bottom - top == h
        if inside and not overlap and w == tile_width and h == tile_height and x == column * w and y == row * h:
            whole = self._whole_tile(view, row * view.stored.columns + column, out)
            if whole is not None:
                return Region(whole)
        canvas = _white(h, w, out) if not inside else np.empty((h, w, 3), np.uint8) if out is None else out
        window, places = Rect(x, y, w, h), [(x, y, x + w, y + h, canvas)]
        pieces = [
            (c, r, places)
            for r in range(row, -(-bottom // tile_height))
            for c in range(column, -(-right // tile_width))
        ]
        lost = self._paste_all(view, pieces, window, overlap)
        return Region(canvas, tuple(_clipped(view, c, r, window) for c, r in lost))

    def read_windows(
        self,
        level: int,
        reduction: int,
        corners: NDArray[np.integer],
        out: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        *,
        overlap: int = 0,
    ) -> NDArray[np.bool_]:
        """Read many regions of one size, each stored tile decoded once for all of them.

        Like :meth:`pathology.slide.readers.base.SlideReader.read_windows`; pixels are copied directly from the
        decoder's memory to their destinations.
        """
        valid = 0 <= level < len(self._stored) and reduction > 0 and len(corners) > 0
        view = _view(level, self._stored[level], reduction) if valid else None
        if view is None:
            return super().read_windows(level, reduction, corners, out, overlap=overlap)
        height, width = out[0].shape[:2]
        for place in out:
            self._check_memory(place, width, height)
        self._enter()
        try:
            return self._distribute(view, corners, out, width, height, overlap)
        finally:
            self._leave()

    def _distribute(
        self,
        view: _View,
        corners: NDArray[np.integer],
        out: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        width: int,
        height: int,
        overlap: int,
    ) -> NDArray[np.bool_]:
        under: dict[tuple[int, int], list[int]] = {}
        for i, (x, y) in enumerate(corners.tolist()):
            left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, view.width), min(y + height, view.height)
            if right - left < width or bottom - top < height:
                out[i][:] = BACKGROUND
            if left >= right or top >= bottom:
                continue
            for row in range(top // view.tile_height, -(-bottom // view.tile_height)):
                for column in range(left // view.tile_width, -(-right // view.tile_width)):
                    under.setdefault((row, column), []).append(i)
        (first_x, first_y), (last_x, last_y) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        window = Rect(first_x, first_y, last_x - first_x + width, last_y - first_y + height)
        places = [(x, y, x + width, y + height, place) for (x, y), place in zip(corners.tolist(), out, strict=True)]
        pieces = [(column, row, [places[i] for i in under[row, column]]) for row, column in sorted(under)]
        readable = np.ones(len(corners), np.bool_)
        for column, row in self._paste_all(view, pieces, window, overlap):
            readable[under[row, column]] = False
        return readable

    def _paste_all(self, view: _View, pieces: list[_Piece], window: Rect, overlap: int) -> list[tuple[int, int]]:
        """Copy tiles to their destinations, in threads if available; return the undecodable ones in order."""
        if self._pool is None or len(pieces) == 1:
            return self._paste(view, pieces, window, overlap)
        shares = [pieces[i :: self._threads] for i in range(min(self._threads, len(pieces)))]
        tasks = [self._pool.submit(self._paste, view, share, window, overlap) for share in shares[1:]]
        try:
            lost = self._paste(view, shares[0], window, overlap)
        finally:
            for task in tasks:
                task.exception()  # wait: memory must not be reused, nor the file closed, while a thread is writing
        for task in tasks:
            lost += task.result()
        return sorted(lost, key=lambda tile: (tile[1], tile[0]))

    def _whole_tile(self, view: _View, index: int, out: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        """Return one whole tile as a new array, or ``None`` if the general path is needed."""
        cached = self._cache.get((view.number, view.reduction, index))
        if cached is not None:
            with self._lock:
                self._reused += 1
            tile = cached[: view.tile_height, : view.tile_width]
        else:
            if not view.stored.lengths[index]:
                return None
            scratch = self._thread_scratch(*view.stored.level.tile_size)
            loaded = self._load(view, index, scratch)
            if loaded is None or loaded.shape[0] != view.tile_height or loaded.shape[1] != view.tile_width:
                return None
            with self._lock:
                self._decoded += 1
            if out is None and loaded is not scratch and loaded.flags.owndata and loaded.flags.writeable:
                return loaded
            tile = loaded
        if out is None:
            return tile.copy()
        out[:] = tile
        return out

    def _paste(self, view: _View, pieces: Iterable[_Piece], window: Rect, overlap: int) -> list[tuple[int, int]]:
        """Copy tiles to their destinations; return column and row of the undecodable ones.

        Parameters
        ----------
        view
            The level being read.
        pieces
            The tiles and their destinations.
        window
            Bounding box of all destinations.
        overlap
            Overlap of neighbouring reads with the window.
        """
        stored, tile_width, tile_height = view.stored, view.tile_width, view.tile_height
        x, y, end_x, end_y = window.x, window.y, window.x + window.width, window.y + window.height
        # Tiles entirely within these bounds are not cached: no neighbouring read needs them.
        own_left, own_top, own_right, own_bottom = x + overlap, y + overlap, end_x - overlap, end_y - overlap
        cache, number, reduction, columns = self._cache, view.number, view.reduction, stored.columns
        filled = self._filled[number]
        decoded = reused = 0
        lost: list[tuple[int, int]] = []
        scratch = self._thread_scratch(*stored.level.tile_size)
        # This loop runs once per stored tile: using comparisons instead of min and max, and hoisting lookups out of it,
        # each gain about 1 % of the reading rate.
        for column, row, places in pieces:
            index = row * columns + column
            tile_left, tile_top = column * tile_width, row * tile_height
            tile_right, tile_bottom = tile_left + tile_width, tile_top + tile_height
            if tile_right > view.width:
                tile_right = view.width
            if tile_bottom > view.height:
                tile_bottom = view.height
            taken = ((tile_right if tile_right < end_x else end_x) - (tile_left if tile_left > x else x)) * (
                (tile_bottom if tile_bottom < end_y else end_y) - (tile_top if tile_top > y else y)
            )
            key = (number, reduction, index)
            tile = cache.get(key, taken)
            if tile is not None:
                reused += 1
            elif stored.lengths[index] or index in filled:
                tile = self._load(view, index, scratch) if stored.lengths[index] else self._from_finer(view, index)
                if tile is None:
                    lost.append((column, row))
                else:
                    decoded += 1
                    if (
                        tile_left < own_left
                        or tile_top < own_top
                        or tile_left + tile_width > own_right
                        or tile_top + tile_height > own_bottom
                    ):
                        left = (tile_right - tile_left) * (tile_bottom - tile_top) - taken
                        cache.put(key, tile, left, taken, copy=tile is scratch)
            for place_left, place_top, place_right, place_bottom, place in places:
                left = tile_left if tile_left > place_left else place_left
                top = tile_top if tile_top > place_top else place_top
                right = tile_right if tile_right < place_right else place_right
                bottom = tile_bottom if tile_bottom < place_bottom else place_bottom
                place[top - place_top : bottom - place_top, left - place_left : right - place_left] = (
                    BACKGROUND
                    if tile is None
                    else tile[top - tile_top : bottom - tile_top, left - tile_left : right - tile_left]
                )
        with self._lock:
            self._decoded += decoded
            self._reused += reused
            found = {(number, column, row) for column, row in lost} - self._unreadable
            for where in sorted(found):
                logger.info("%s: stored tile (level, column, row) %s cannot be decoded", self.path.name, where)
            self._unreadable |= found
        return lost

    def _thread_scratch(self, width: int, height: int) -> NDArray[np.uint8] | None:
        """Return thread-local memory of one tile's size, or ``None`` if tiles are large.

        Decoding into memory that is still in the CPU cache and copying from there is faster than decoding directly
        into cold memory.
        """
        if width * height * 3 > _HOT_BYTES:
            return None
        memory: NDArray[np.uint8] | None = getattr(self._scratch, "memory", None)
        if memory is None or memory.shape != (height, width, 3):
            memory = self._scratch.memory = decoding_memory(height, width, 3)
        return memory

    def _load(self, view: _View, index: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8] | None:
        """Fetch, decode and downsample one tile; ``None`` if that fails."""
        stored, reduction = view.stored, view.reduction
        tile_width, tile_height = stored.level.tile_size
        try:
            data = self._fetch(stored, index)
            if reduction > 1 and stored.decoder.reduce is not None:
                small = stored.decoder.reduce(data, reduction)
                if small is not None:
                    width, height = stored.inside(index)
                    if _covers(small, -(-width // reduction), -(-height // reduction)):
                        return small
            tile = stored.decoder.decode(data, index, out)
        except MemoryError:
            raise
        except Exception:  # codecs and file systems raise their own errors; the tile is unreadable
            return None
        if reduction == 1 and tile.shape == (tile_height, tile_width, 3):
            return tile
        width, height = stored.inside(index)
        if not _covers(tile, width, height):
            return None
        return tile if reduction == 1 else _shrunk(tile[:height, :width], reduction)

    def _from_finer(self, view: _View, index: int) -> NDArray[np.uint8] | None:
        """Build a tile that the scanner omitted from the next finer level; ``None`` if that cannot be read."""
        level, finer = view.stored.level, self._views[view.number - 1]
        width, height = view.stored.inside(index)
        row, column = divmod(index, view.stored.columns)
        left, top = column * level.tile_size[0], row * level.tile_size[1]
        x, right = (round(place * finer.width / level.width) for place in (left, left + width))
        y, bottom = (round(place * finer.height / level.height) for place in (top, top + height))
        canvas = np.empty((bottom - y, right - x, 3), np.uint8)
        places = [(x, y, right, bottom, canvas)]
        pieces = [
            (c, r, places)
            for r in range(y // finer.tile_height, -(-bottom // finer.tile_height))
            for c in range(x // finer.tile_width, -(-right // finer.tile_width))
        ]
        # In this thread: a pool thread that waits for the pool could deadlock.
        if self._paste(finer, pieces, Rect(x, y, right - x, bottom - y), 0):
            return None
        tile = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        return tile if view.reduction == 1 else _shrunk(tile, view.reduction)

    def _check_extent(self, files: Sequence[Path]) -> None:
        """Refuse a file that ends before its last tile: an incomplete copy."""
        sizes = np.array([os.fstat(d).st_size for d in self._descriptors], np.int64)
        missing = total = 0
        for stored in self._stored:
            owner = np.full(1, stored.file) if stored.file_of_tile is None else stored.file_of_tile
            behind = (stored.lengths > 0) & (stored.offsets + stored.lengths > sizes[owner])
            missing += int(behind.sum())
            total += int((stored.lengths > 0).sum())
        if missing:
            raise CorruptSlideError(
                f"the file is truncated: {missing} of its {total} stored tiles lie beyond its end at "
                f"{int(sizes.sum()):,} bytes",
                where=self.path if len(files) > 1 else files[0],
                remedy="Copy the slide again from its source",
            )

    @cached_property
    def fingerprint(self) -> str:  # type: ignore[override]  # computed when first asked for, then a plain attribute
        """Hash of everything the pixels are decoded from: the index, the tables and the tiles' bytes.

        Small levels are hashed whole, large ones by evenly spaced tiles, which avoids reading many gigabytes.
        A change in any tile shows in its length for every compressed format, and in the coarser levels, which are
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
        except (OSError, TileDecodeError) as error:
            raise CorruptSlideError(f"the file can no longer be read: {error}", where=self.path) from error
        finally:
            self._leave()
        return digest.hexdigest()


def _filled_from_finer(stored: Sequence[StoredLevel]) -> tuple[frozenset[int], ...]:
    """Return, for each level, the tiles that were omitted although the next finer level has pixels there.

    Aperio scanners omit tiles at the right edge of coarser levels even where there is tissue.
    """
    filled: list[frozenset[int]] = [frozenset()]
    present = np.zeros(0, np.bool_)
    for number, this in enumerate(stored):
        there = this.lengths[: this.rows * this.columns] > 0
        if number:
            finer = stored[number - 1]
            grid = present.reshape(finer.rows, finer.columns)
            across, down = finer.level.width / this.level.width, finer.level.height / this.level.height
            beneath = []
            for index in np.flatnonzero(~there).tolist():
                row, column = divmod(index, this.columns)
                (wide, high), (width, height) = this.level.tile_size, this.inside(index)
                rows, columns = (
                    slice(int(start * scale) // side, -(-round((start + size) * scale) // side))
                    for start, size, scale, side in (
                        (row * high, height, down, finer.level.tile_size[1]),
                        (column * wide, width, across, finer.level.tile_size[0]),
                    )
                )
                if grid[rows, columns].any():
                    beneath.append(index)
            there[beneath] = True
            filled.append(frozenset(beneath))
        present = there
    return tuple(filled)


def _read_into(descriptor: int, memory: memoryview, position: int) -> int:
    """Fill memory from a position in a file; return the number of bytes read."""
    got = 0
    try:
        while got < len(memory):
            count = os.preadv(descriptor, [memory[got:]], position + got)
            if count == 0:
                break
            got += count
    except OSError:
        return 0
    return got


def _runs(starts: NDArray[np.int64], ends: NDArray[np.int64], owners: NDArray[np.int64] | None) -> NDArray[np.intp]:
    """Group tiles, sorted by file and position, into contiguous runs.

    Returns
    -------
    numpy.ndarray
        Start of each run, plus the end of the last: one element more than there are runs.
    """
    if not len(starts):
        return np.zeros(1, np.intp)
    gaps = starts[1:] - ends[:-1]
    apart = (gaps < 0) | (gaps > _GAP)
    if owners is not None:
        apart |= owners[1:] != owners[:-1]
    # Long runs are split at multiples of the maximum number of bytes read at once.
    numbers = starts // _RUN_BYTES
    apart |= numbers[1:] != numbers[:-1]
    return np.concatenate([[0], np.flatnonzero(apart) + 1, [len(starts)]])


def _clipped(view: _View, column: int, row: int, window: Rect) -> Rect:
    """Return the part of a tile inside the window, relative to the window's corner."""
    left, top = max(column * view.tile_width, window.x), max(row * view.tile_height, window.y)
    right = min((column + 1) * view.tile_width, view.width, window.x + window.width)
    bottom = min((row + 1) * view.tile_height, view.height, window.y + window.height)
    return Rect(left - window.x, top - window.y, right - left, bottom - top)


def _white(h: int, w: int, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if out is None:
        return np.full((h, w, 3), BACKGROUND, np.uint8)
    out[:] = BACKGROUND
    return out


def _covers(tile: NDArray[np.uint8], width: int, height: int) -> bool:
    return tile.ndim == 3 and tile.shape[2] == 3 and tile.shape[0] >= height and tile.shape[1] >= width


def _shrunk(tile: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
    """Return the means of ``reduction`` x ``reduction`` pixels; pixels missing at the border are white."""
    height, width = tile.shape[:2]
    down, across = -height % reduction, -width % reduction
    if down or across:
        tile = np.pad(tile, ((0, down), (0, across), (0, 0)), constant_values=BACKGROUND)
    size = (tile.shape[1] // reduction, tile.shape[0] // reduction)
    return np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA), np.uint8)

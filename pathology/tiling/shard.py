"""Shard files of zarr v3, written and read without zarr.

A shard is many chunks in one file: their bytes one after the other, then an index of ``(offset, length)`` pairs of
unsigned 64-bit little-endian integers, one per chunk in row-major order, then the CRC-32C of the index.  A missing
chunk has both numbers at their maximum.  (zarr v3 specification, codec ``sharding_indexed``, with the default index
codecs and the index at the end.)

zarr itself takes about a millisecond per chunk of a shard, mostly in its event loop.  That is negligible for chunks of
many megabytes but not for patches.  It also drops chunks that contain only the fill value, and shards of only such
chunks, while here the presence of a shard means that its block is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pathology.errors import StoreError
from pathology.slide.readers.packed_tiles import PackedTiles

__all__ = ["read_chunks", "shard_is_whole", "write_packed_shard", "write_shard"]

_MISSING: Final = 2**64 - 1
_CHECKSUM_BYTES: Final = 4
_BUFFERS_AT_ONCE: Final = 512
"""Buffers passed to one ``writev``; systems allow 1,024."""
_CHUNKS_AT_ONCE: Final = 8
"""The same if chunks are generated while they are written, so that few are held in memory."""


def write_shard(path: Path | str, chunks: Iterable[bytes], slots: int) -> None:
    """Write a shard to a temporary file and rename it into place, so that an existing shard is always complete.

    Parameters
    ----------
    path
        The file.
    chunks
        The bytes of the first chunks in row-major order; empty ones are missing.  They are consumed a few at a time,
        so that they need not all be in memory.
    slots
        Number of chunk slots in the shard.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    sizes: list[int] = []

    def pieces() -> Iterator[bytes]:
        for chunk in chunks:
            sizes.append(len(chunk))
            if chunk:
                yield chunk

    def index() -> bytes:
        lengths = np.array(sizes, np.int64)
        return _index(np.cumsum(lengths) - lengths, lengths, slots)

    _write(path, pieces(), index, _CHUNKS_AT_ONCE)


def write_packed_shard(path: Path | str, chunks: PackedTiles, slots: int) -> None:
    """Like :func:`write_shard`, for chunks in one buffer: adjacent chunks are written together."""
    present = np.flatnonzero(chunks.lengths > 0)
    present = present[np.argsort(chunks.starts[present], kind="stable")]
    starts, lengths = chunks.starts[present], chunks.lengths[present]
    ends = starts + lengths
    first = np.flatnonzero(np.concatenate([[True], starts[1:] != ends[:-1]])) if len(present) else present
    last = np.append(first[1:], len(present)) - 1
    memory = chunks.data.data
    pieces = (memory[i:j] for i, j in zip(starts[first].tolist(), ends[last].tolist(), strict=True))
    offsets = np.zeros_like(chunks.starts)
    offsets[present] = np.cumsum(lengths) - lengths
    _write(path, pieces, lambda: _index(offsets, chunks.lengths, slots), _BUFFERS_AT_ONCE)


def shard_is_whole(path: Path, slots: int) -> bool:
    """Whether a shard is there with all its bytes, as its index and the index's checksum state.

    Cheap: the index is read, and no chunk.

    Raises
    ------
    OSError
        If it may not be read.
    """
    length = slots * 16 + _CHECKSUM_BYTES
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - length))
            stored = file.read()
    except FileNotFoundError:
        return False
    encoded, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
    if len(stored) < length or google_crc32c.value(encoded).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        return False
    index = np.frombuffer(encoded, "<u8").reshape(slots, 2)
    present = index[index[:, 0] != _MISSING]
    return int(present.sum(axis=1).max(initial=0)) == size - length


def _index(offsets: NDArray[np.int64], lengths: NDArray[np.int64], slots: int) -> bytes:
    index = np.full((slots, 2), _MISSING, "<u8")
    present = np.flatnonzero(lengths > 0)
    index[present, 0] = offsets[present]
    index[present, 1] = lengths[present]
    encoded = index.tobytes()
    checksum: int = google_crc32c.value(encoded)
    return encoded + checksum.to_bytes(_CHECKSUM_BYTES, "little")


def _write(
    path: Path | str, pieces: Iterator[bytes] | Iterator[memoryview], index: Callable[[], bytes], at_once: int
) -> None:
    # The process id keeps two writers of the same shard (a scheduler may start both) apart.
    folder, name = os.path.split(path)
    aside = f"{folder}/.{name}.{os.getpid()}.writing"
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            more = True
            while more:
                buffers: list[bytes | memoryview] = list(islice(pieces, at_once))
                more = len(buffers) == at_once
                if not more:
                    buffers.append(index())
                _write_all(descriptor, buffers)
            # A power cut after the rename must not leave a whole name with half a file.
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(aside, path)  # noqa: PTH105 - pathlib would take a tenth of the time per shard
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, buffers: list[bytes | memoryview]) -> None:
    written = os.writev(descriptor, buffers)
    if written < sum(map(len, buffers)):  # the next call reports a full disk
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def read_chunks(path: Path, slots: int, wanted: NDArray[np.integer]) -> Iterator[tuple[int, bytes | None]]:
    """Read chunks of a shard.

    Parameters
    ----------
    path
        The file.
    slots
        Number of chunk slots in the shard.
    wanted
        ``(n,)`` indices of the chunks.

    Yields
    ------
    int
        Index into ``wanted``, in file order of the chunks.
    bytes or None
        The chunk, ``None`` if it is missing.

    Raises
    ------
    StoreError
        If the file is missing, or its index is damaged or points outside it.
    OSError
        If it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise StoreError("a block of the store is missing", where=path, remedy=_MAKE_AGAIN) from None
    try:
        size = os.fstat(descriptor).st_size
        body = size - slots * 16 - _CHECKSUM_BYTES
        everything = len(wanted) * 2 > slots
        start = 0 if everything else body
        data = os.pread(descriptor, size - start, start) if body >= 0 else b""
        tail = data[body - start :]
        encoded, checksum = tail[:-_CHECKSUM_BYTES], tail[-_CHECKSUM_BYTES:]
        if len(encoded) != slots * 16 or google_crc32c.value(encoded) != int.from_bytes(checksum, "little"):
            raise StoreError("a block of the store is damaged", where=path, remedy=_MAKE_AGAIN)
        index = np.frombuffer(encoded, "<u8").reshape(slots, 2)[wanted]
        for place in np.argsort(index[:, 0], kind="stable").tolist():
            offset, length = int(index[place, 0]), int(index[place, 1])
            if offset == _MISSING:
                yield place, None
                continue
            chunk = data[offset : offset + length] if everything else os.pread(descriptor, length, offset)
            if len(chunk) != length or offset + length > body:
                raise StoreError("a block of the store is damaged", where=path, remedy=_MAKE_AGAIN)
            yield place, chunk
    finally:
        os.close(descriptor)


_MAKE_AGAIN: Final = "Delete the store and create it again"

"""Shard files of zarr v3, written and read without zarr in between.

A shard is many chunks in one file: their bytes one after the other, then an index of ``(offset, length)`` pairs of
unsigned 64-bit little-endian numbers, one a chunk in row-major order, then the CRC-32C of the index.  A chunk that is
not there has both numbers at their maximum.  (zarr v3 specification, codec ``sharding_indexed``, with the default
index codecs and the index at the end.)

zarr itself takes about a millisecond for each chunk of a shard, mostly in its event loop.  That is nothing for chunks
of many megabytes and much for patches; and it drops chunks that hold only the fill value, and shards that hold only
such chunks, while here the presence of a shard means that its block is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pathology.errors import StoreError

__all__ = ["read_chunks", "write_shard"]

_MISSING: Final = 2**64 - 1
_CHECKSUM_BYTES: Final = 4
_BUFFERS_AT_ONCE: Final = 512
"""Buffers handed to one ``writev``; systems allow 1,024."""


def write_shard(path: Path, chunks: Sequence[bytes | memoryview | None]) -> None:
    """Write a shard aside and rename it into place, so that one that is there is whole.

    Parameters
    ----------
    path
        The file.
    chunks
        The bytes of each chunk in row-major order, ``None`` for one that is not there.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    lengths = np.array([-1 if chunk is None else len(chunk) for chunk in chunks], np.int64)
    present = lengths >= 0
    ends = np.cumsum(np.where(present, lengths, 0))
    index = np.full((len(chunks), 2), _MISSING, "<u8")
    index[present, 0] = (ends - lengths)[present]
    index[present, 1] = lengths[present]
    encoded = index.tobytes()
    buffers: list[bytes | memoryview] = [chunk for chunk in chunks if chunk]
    buffers += [encoded, google_crc32c.value(encoded).to_bytes(_CHECKSUM_BYTES, "little")]
    # The process number keeps two writers of one shard, which a scheduler may bring about, out of each other's way.
    aside = f"{path.parent}/.{path.name}.{os.getpid()}.writing"
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for first in range(0, len(buffers), _BUFFERS_AT_ONCE):
                _write_all(descriptor, buffers[first : first + _BUFFERS_AT_ONCE])
        finally:
            os.close(descriptor)
        os.replace(aside, path)  # noqa: PTH105 - a tenth of the time per shard is path arithmetic otherwise
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, buffers: list[bytes | memoryview]) -> None:
    written = os.writev(descriptor, buffers)
    if written < sum(map(len, buffers)):  # a full disk is reported by the next call
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
        Number of chunks that the shard has places for.
    wanted
        ``(n,)`` places of the chunks.

    Yields
    ------
    int
        Position in ``wanted``, in the order in which the chunks lie in the file.
    bytes or None
        The chunk, ``None`` if it is not there.

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


_MAKE_AGAIN: Final = "Delete the store and make it again"

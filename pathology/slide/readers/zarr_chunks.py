"""Chunks of a zarr array as stored tiles: where their bytes lie, and how they become pixels.

zarr reads arrays through an event loop, which costs about a millisecond a chunk: as long as decoding one.  Here the
metadata are zarr's and the bytes are fetched directly; an array with a codec not known here is read through zarr.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError
from pathology.slide.readers.codecs import TileDecodeError

if TYPE_CHECKING:
    import zarr
    from zarr.abc.numcodec import Numcodec
    from zarr.core.metadata import ArrayV2Metadata

__all__ = ["LARGEST_METADATA", "METADATA_FILES", "ArrayChunks", "ChunkFiles", "FolderFiles", "ZipFiles"]

_ABSENT: Final = np.uint64(2**64 - 1)
"""Marks a chunk that a shard does not hold (zarr v3, sharding codec)."""

METADATA_FILES: Final = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
"""Names of the metadata of zarr v3 and v2; consolidated metadata are not needed."""
LARGEST_METADATA: Final = 16 * 2**20
"""Most bytes of one of them."""

_Decode = Callable[[bytes], bytes | NDArray[np.generic]]


class ChunkFiles(Protocol):
    """Files of a zarr hierarchy, by their names relative to its root."""

    prefix: str
    """Path of the hierarchy's root inside an archive, empty where it is the archive's own."""

    def check_metadata(self, folder: str) -> None:
        """Refuse metadata that are not a regular file, or too large, before zarr reads them."""

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return bytes of a file, ``None`` where there is no such file; a negative ``start`` counts from the end."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size of every file below a folder, by name relative to the root."""

    def close(self) -> None:
        """Release what is open."""


class FolderFiles:
    """A zarr hierarchy in a folder.

    Parameters
    ----------
    root
        The folder.
    """

    prefix = ""

    def __init__(self, root: Path) -> None:
        self._path, self._root = root, str(root)

    def check_metadata(self, folder: str) -> None:
        """Refuse metadata that are not a regular file (reading a pipe never ends), or too large."""
        for name in METADATA_FILES:
            path = self._path / folder / name
            with contextlib.suppress(FileNotFoundError):
                about = path.stat()
                if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST_METADATA:
                    raise CorruptSlideError(
                        f"its metadata file {name} is not a regular file, or is too large", where=path
                    )

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return bytes of a file, ``None`` where there is no such file."""
        try:
            descriptor = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            size = os.fstat(descriptor).st_size
            begin = start if start >= 0 else max(size + start, 0)
            return os.pread(descriptor, size - begin if length is None else length, begin)
        finally:
            os.close(descriptor)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size of every regular file below a folder."""
        found = {}
        pending = [folder]
        while pending:
            here = pending.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{self._root}/{here}") as entries:
                for entry in entries:
                    name = f"{here}/{entry.name}" if here else entry.name
                    if entry.is_file():
                        found[name] = entry.stat().st_size
                    elif entry.is_dir(follow_symlinks=False):
                        pending.append(name)
        return found

    def close(self) -> None:
        """Nothing stays open."""


class ZipFiles:
    """A zarr hierarchy in a ZIP archive.

    Parameters
    ----------
    path
        The archive.
    """

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._infos = {info.filename.lstrip("/"): info for info in self._zip.infolist() if not info.is_dir()}
        tops = {name.partition("/")[0] for name in self._infos}
        bare = len(tops) == 1 and not tops & set(METADATA_FILES)
        self.prefix = tops.pop() if bare else ""
        self._starts: dict[str, int] = {}
        self._descriptor = os.open(path, os.O_RDONLY)
        self._lock = threading.Lock()
        self._path = path

    def check_metadata(self, folder: str) -> None:
        """Refuse metadata that unpack to more than metadata can be."""
        for name in METADATA_FILES:
            info = self._infos.get("/".join(filter(None, (self.prefix, folder, name))))
            if info is not None and info.file_size > LARGEST_METADATA:
                raise CorruptSlideError(
                    f"its metadata file {name} is not a regular file, or is too large", where=self._path
                )

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return bytes of a member, ``None`` where there is no such member."""
        info = self._infos.get(f"{self.prefix}/{name}" if self.prefix else name)
        if info is None:
            return None
        begin = start if start >= 0 else max(info.file_size + start, 0)
        wanted = min(info.file_size - begin if length is None else length, max(info.file_size - begin, 0))
        if info.compress_type == zipfile.ZIP_STORED:
            return os.pread(self._descriptor, wanted, self._start(info) + begin)
        with self._lock, self._zip.open(info) as member:
            member.seek(begin)
            return member.read(wanted)

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Return where a member's bytes begin: behind its local header, whose length the directory does not give."""
        start = self._starts.get(info.filename)
        if start is None:
            header = os.pread(self._descriptor, 30, info.header_offset)
            if len(header) < 30 or header[:4] != b"PK\3\4":
                raise TileDecodeError("the archive is damaged")
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            start = self._starts[info.filename] = info.header_offset + 30 + lengths
        return start

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size of every member below a folder."""
        start = f"{self.prefix}/" if self.prefix else ""
        below = f"{start}{folder}/" if folder else start
        return {n[len(start) :]: i.file_size for n, i in self._infos.items() if n.startswith(below)}

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class _Shards:
    """Shards of an array: how many chunks each holds along every axis, and how their indices are read."""

    chunks: tuple[int, ...]
    at_end: bool
    checked: bool

    @property
    def index_bytes(self) -> int:
        return 16 * math.prod(self.chunks) + (4 if self.checked else 0)


class ArrayChunks:
    """The chunks of one array.

    Attributes
    ----------
    shape, chunks
        Of the array and of its chunks (inside shards, where there are any), in the array's axes.
    grid
        Chunks along every axis.
    codec
        Names of the compressions.
    direct
        Whether bytes are fetched directly; otherwise zarr reads them.
    fill
        Value of pixels whose chunk is not stored.

    Parameters
    ----------
    array
        The zarr array, of uint8.
    folder
        Its path below the root of ``files``, without slashes at the ends.
    files
        Where the bytes are.
    """

    def __init__(self, array: zarr.Array[Any], folder: str, files: ChunkFiles) -> None:
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.chunks: tuple[int, ...] = tuple(array.chunks)
        self.grid = tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        self._array, self._files = array, files
        self._size = math.prod(self.chunks)
        self._prefix = f"{folder}/" if folder else ""
        self.fill = int(array.fill_value or 0)
        self._shards: _Shards | None = None
        self._indices: dict[tuple[int, ...], NDArray[np.uint64] | None] = {}
        metadata = array.metadata
        if metadata.zarr_format == 2:
            self._decoders, self.codec = _decoders_v2(metadata)
            self._order = metadata.order
            self._separator, self._start = metadata.dimension_separator, ""
        else:
            codecs = tuple(metadata.codecs)
            if array.shards is not None:
                sharding: Any = codecs[0]
                ratio = tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
                names = [type(codec).__name__ for codec in sharding.index_codecs]
                known = len(codecs) == 1 and names in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"])
                self._shards = _Shards(ratio, sharding.index_location.value == "end", len(names) == 2)
                codecs = tuple(sharding.codecs) if known else (sharding,)
            self._decoders, self.codec = _decoders_v3(codecs, self._size)
            self._order = "C"
            encoding: Any = metadata.chunk_key_encoding
            self._separator = encoding.separator
            self._start = f"c{encoding.separator}" if encoding.name == "default" else ""
        self.direct = self._decoders is not None

    def chunk_bytes(self, place: tuple[int, ...]) -> bytes:
        """Return the stored bytes of a chunk; empty where none is stored, and its pixels are the fill value.

        Parameters
        ----------
        place
            The chunk's number along every axis.
        """
        if not self.direct:
            region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, self.chunks, strict=True))
            return np.ascontiguousarray(self._array[region]).tobytes()
        if self._shards is None:
            return self._files.read(self._name(place)) or b""
        shard = tuple(i // n for i, n in zip(place, self._shards.chunks, strict=True))
        index = self._shard_index(shard)
        if index is None:
            return b""
        inside = tuple(i % n for i, n in zip(place, self._shards.chunks, strict=True))
        start, length = index[inside]
        if start == _ABSENT and length == _ABSENT:
            return b""
        data = self._files.read(self._name(shard), int(start), int(length))
        if data is None or len(data) != length:
            raise TileDecodeError("the shard is truncated")
        return data

    def pixels(self, data: bytes, place: tuple[int, ...]) -> NDArray[np.uint8]:
        """Decode a chunk.

        Parameters
        ----------
        data
            What :meth:`chunk_bytes` returned.
        place
            The chunk's number along every axis.

        Returns
        -------
        numpy.ndarray
            uint8, as large as a chunk; at the array's end, if zarr read it, as large as what is left.

        Raises
        ------
        TileDecodeError
            If the bytes are not those of a whole chunk.
        """
        if not self.direct:
            left = tuple(min(c, n - i * c) for i, c, n in zip(place, self.chunks, self.shape, strict=True))
            return np.frombuffer(data, np.uint8).reshape(left)
        if not data:
            return np.full(self.chunks, self.fill, np.uint8)
        value: bytes | NDArray[np.generic] = data
        for decode in self._decoders or ():
            value = decode(value if isinstance(value, bytes) else bytes(value))
        flat = np.frombuffer(value, np.uint8) if not isinstance(value, np.ndarray) else value.reshape(-1).view(np.uint8)
        if flat.size != self._size:
            raise TileDecodeError(f"the chunk holds {flat.size} bytes, not {self._size}")
        return flat.reshape(self.chunks, order=self._order)

    def stored_lengths(self) -> NDArray[np.int64]:
        """Return the number of stored bytes of every chunk, ``grid`` in shape; 0 where none is stored.

        Of arrays that zarr reads every chunk counts as stored with one byte.
        """
        if not self.direct:
            return np.ones(self.grid, np.int64)
        lengths = np.zeros(self.grid, np.int64)
        if self._shards is None:
            start = len(self._prefix) + len(self._start)
            for name, size in self._files.sizes(self._prefix.rstrip("/")).items():
                place = _numbers(name[start:], self._separator, self.grid)
                if place is not None and self._name(place) == name:
                    lengths[place] = size
            return lengths
        grid = tuple(-(-n // c) for n, c in zip(self.grid, self._shards.chunks, strict=True))
        for shard in np.ndindex(*grid):
            index = self._shard_index(shard)
            if index is None:
                continue
            begins = tuple(i * n for i, n in zip(shard, self._shards.chunks, strict=True))
            region = tuple(slice(b, b + n) for b, n in zip(begins, self._shards.chunks, strict=True))
            target = lengths[region]
            own = index[(*(slice(n) for n in target.shape),)][..., 1].copy()
            own[own == _ABSENT] = 0
            target[...] = own.astype(np.int64)
        return lengths

    def _name(self, place: tuple[int, ...]) -> str:
        return self._prefix + self._start + self._separator.join(map(str, place))

    def _shard_index(self, shard: tuple[int, ...]) -> NDArray[np.uint64] | None:
        """Return ``(chunks..., 2)``: start and length of a shard's chunks; ``None`` where there is no such shard."""
        if shard in self._indices:
            return self._indices[shard]
        shards = self._shards
        assert shards is not None
        size = shards.index_bytes
        data = self._files.read(self._name(shard), -size if shards.at_end else 0, size)
        index = None
        if data is not None:
            if len(data) < size:
                raise TileDecodeError("the shard is truncated")
            if shards.checked:
                _check_crc32c(data)
                data = data[:-4]
            index = np.frombuffer(data, "<u8").reshape(*shards.chunks, 2)
        self._indices[shard] = index
        return index


def _numbers(text: str, separator: str, grid: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the numbers in a chunk's name, or ``None`` where it is the name of something else."""
    parts = text.split(separator)
    if len(parts) != len(grid) or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        return None
    place = tuple(map(int, parts))
    return place if all(i < n for i, n in zip(place, grid, strict=True)) else None


def _decoders_v2(metadata: ArrayV2Metadata) -> tuple[tuple[_Decode, ...] | None, str]:
    """Return the decoders of an array of format 2, in the order in which they apply, and their names."""
    codecs = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor is not None else [])]
    size = math.prod(metadata.chunks)
    return tuple(_numcodec(codec, size) for codec in reversed(codecs)), "+".join(c.codec_id for c in codecs) or "none"


def _numcodec(codec: Numcodec, size: int) -> _Decode:
    bounded = {"zlib": _inflate, "gzip": _inflate, "blosc": _blosc, "zstd": _zstd}.get(codec.codec_id)
    return codec.decode if bounded is None else lambda data: bounded(data, size)


def _decoders_v3(codecs: tuple[Any, ...], size: int) -> tuple[tuple[_Decode, ...] | None, str]:
    """Return the decoders of an array of format 3; ``None`` in their place where one is not known here."""
    known: dict[str, _Decode] = {
        "GzipCodec": lambda data: _inflate(data, size),
        "BloscCodec": lambda data: _blosc(data, size),
        "ZstdCodec": lambda data: _zstd(data, size),
        "Crc32cCodec": _check_crc32c,
    }
    kinds = [type(codec).__name__ for codec in codecs]
    names = "+".join(kind.removesuffix("Codec").lower() for kind in kinds if kind != "BytesCodec") or "none"
    if not kinds or kinds[0] != "BytesCodec" or not all(kind in known for kind in kinds[1:]):
        return None, names
    return tuple(known[kind] for kind in reversed(kinds[1:])), names


def _inflate(data: bytes, size: int) -> bytes:
    decoder = zlib.decompressobj(wbits=47)  # zlib or gzip, whichever the header says
    found = decoder.decompress(data, size + 1)
    if len(found) > size or not decoder.eof:
        raise TileDecodeError("the chunk is damaged or larger than it may be")
    return found


def _blosc(data: bytes, size: int) -> bytes:
    from numcodecs import blosc

    if (
        len(data) < 16
        or int.from_bytes(data[4:8], "little") > size
        or int.from_bytes(data[12:16], "little") > len(data)
    ):
        raise TileDecodeError("the chunk is damaged or larger than it may be")
    return bytes(blosc.decompress(data))


def _zstd(data: bytes, size: int) -> bytes:
    import imagecodecs

    # Frames of unknown size, which streaming writers make, get the most that is allowed.
    return bytes(imagecodecs.zstd_decode(data, out=min(size, _zstd_content(data) or size)))


def _zstd_content(data: bytes) -> int | None:
    """Return the content size that a Zstandard frame states (RFC 8878, 3.1.1.1), or ``None``."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise TileDecodeError("the chunk is damaged")
    flag, single, dictionary = data[4] >> 6, data[4] >> 5 & 1, (0, 1, 2, 4)[data[4] & 3]
    start = 5 + (0 if single else 1) + dictionary
    length = (1 if single else 0, 2, 4, 8)[flag]
    if length == 0:
        return None
    return int.from_bytes(data[start : start + length], "little") + (256 if length == 2 else 0)


def _check_crc32c(data: bytes) -> bytes:
    import google_crc32c

    if len(data) < 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise TileDecodeError("a checksum is wrong")
    return data[:-4]

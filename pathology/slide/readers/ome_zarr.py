"""OME-Zarr images (0.4 on zarr v2, 0.5 on v3, and earlier) in a folder or a ZIP archive, chunk by chunk."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, NotBrightfieldError, SlideError, UnsupportedSlideError
from pathology.slide.readers.base import Level
from pathology.slide.readers.codecs import TileDecodeError
from pathology.slide.readers.ome_zarr_metadata import ImageLayout, describe_channels, image_layouts
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES, StoredLevel, TileDecoder, TiledReader
from pathology.slide.readers.zarr_chunks import ArrayChunks, ChunkFiles, FolderFiles, ZipFiles

if TYPE_CHECKING:
    import zarr

__all__ = ["OmeZarrReader"]

_LARGEST_CHUNK: Final = 2**28
"""Most bytes of a chunk: a larger one cannot be read part by part."""
_MOST_CHUNKS: Final = 2**25
"""Most chunks of a level."""
_DARK: Final = 40
"""Median grey level below which an image that does not call its channels RGB is taken for fluorescence."""


class OmeZarrReader(TiledReader):
    """An OME-Zarr image: its chunks are the tiles.

    Of several images (bioformats2raw) the one with the most pixels is read, of several focal planes the middle one;
    ``warnings`` says so.  A chunk that is not stored has the array's fill value, as zarr defines.

    Parameters
    ----------
    path
        The folder, or a ZIP archive of it.
    threads
        Threads that decode the chunks of one read; 1 decodes in the calling thread.
    cache_bytes
        Decoded chunks kept for neighbouring reads, in bytes.

    Raises
    ------
    CorruptSlideError
        If metadata or shards are damaged.
    NotBrightfieldError
        If the image is not 8-bit RGB: fluorescence, labels, a heatmap.
    UnsupportedSlideError
        If there is no image, several time points, or chunks too large to read part by part.
    """

    backend: ClassVar[str] = "ome-zarr"

    def __init__(self, path: Path, *, threads: int = 1, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        try:
            self._files: ChunkFiles = FolderFiles(path) if path.is_dir() else ZipFiles(path)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise CorruptSlideError(f"the ZIP archive is damaged: {error}", where=path) from error
        try:
            self._open(path, threads, cache_bytes)
        except (SlideError, MemoryError):
            self._files.close()
            raise
        except Exception as error:  # zarr raises whatever its JSON leads to
            self._files.close()
            raise CorruptSlideError(f"the OME-Zarr metadata cannot be read: {error}", where=path) from error

    def _open(self, path: Path, threads: int, cache_bytes: int) -> None:
        import zarr
        from zarr.storage import LocalStore, ZipStore

        self._files.check_metadata("")
        store = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
        try:
            root = zarr.open_group(store, mode="r", path=self._files.prefix)
        except FileNotFoundError as error:
            raise UnsupportedSlideError("not an OME-Zarr image", where=path) from error

        def attributes_of(name: str) -> Mapping[str, Any] | None:
            if not name:
                return root.attrs.asdict()
            self._files.check_metadata(name)
            group = root.get(name)
            return group.attrs.asdict() if isinstance(group, zarr.Group) else None

        notes: list[str] = []
        layout = _largest(image_layouts(attributes_of, path), root, notes, path)
        for name in layout.datasets:
            self._files.check_metadata(name)
        arrays = [(number, _array(root, name, len(layout.axes), path)) for number, name in enumerate(layout.datasets)]
        x, y = layout.axes.index("x"), layout.axes.index("y")
        arrays.sort(key=lambda item: -item[1].shape[x] * item[1].shape[y])
        channels, certain = describe_channels(layout, _count(layout, arrays[0][1], "c"), path)
        _planes(layout, arrays[0][1], notes, path)
        stored: list[StoredLevel] = []
        self._tiles: list[_Tiles] = []
        for number, array in arrays:
            found = _level(array, arrays[0][1], layout, path)
            if found is None:
                notes.append(f"level {number} has another shape than the finest one and is not used")
                continue
            chunks = ArrayChunks(array, layout.datasets[number], self._files)
            tiles = _Tiles(chunks, layout, _planes(layout, array, [], path), channels)
            self._tiles.append(tiles)
            lengths, missing = tiles.lengths()
            if missing and chunks.direct:
                notes.append(
                    f"{missing} of {lengths.size} tiles of level {number} are not stored and have the fill value"
                    f" {chunks.fill}"
                )
            stored.append(
                StoredLevel(
                    found,
                    np.zeros(lengths.size, np.int64),
                    np.maximum(lengths, 1),  # what is not stored has the fill value
                    chunks.codec,
                    TileDecoder(tiles.decode),
                    file=len(stored),
                )
            )
        self.mpp = layout.mpp(arrays[0][0])
        self.objective_power = None
        self.vendor = "ome-zarr"
        self.properties = MappingProxyType(
            {"compression": self._tiles[0].chunks.codec, "format": f"OME-Zarr {layout.version}"}
        )
        self.warnings = tuple(notes)
        super().__init__(path, [], stored, threads=threads, cache_bytes=cache_bytes)
        if not certain:
            self._refuse_fluorescence()

    def _refuse_fluorescence(self) -> None:
        """Refuse an image that is mostly dark, where the file does not say that its channels are RGB."""
        level = len(self.levels) - 1
        width, height = self.levels[level].dimensions
        side = 1024
        w, h = min(width, side), min(height, side)
        pixels = self.read_masked(level, (width - w) // 2, (height - h) // 2, w, h).pixels
        if np.median(pixels.mean(axis=2)) < _DARK:
            self.close()
            raise NotBrightfieldError(
                "the OME-Zarr does not say that its 3 channels are red, green and blue, and its background is dark: it "
                "looks like fluorescence",
                where=self.path,
                remedy="If it is a brightfield slide, label its omero channels Red, Green and Blue",
            )

    def _fetch(self, stored: StoredLevel, index: int) -> bytes:
        return self._tiles[stored.file].fetch(index)

    def _check_extent(self, files: Sequence[Path]) -> None:
        """Do nothing: a truncated chunk fails when it is decoded, and missing ones are counted."""

    def _close_descriptors(self) -> None:
        super()._close_descriptors()
        self._files.close()


class _Tiles:
    """The chunks of a level that make one RGB tile: one, or one for each channel."""

    def __init__(
        self, chunks: ArrayChunks, layout: ImageLayout, planes: dict[str, int], channels: tuple[int, int, int]
    ) -> None:
        self.chunks = chunks
        self._axes = layout.axes
        self._planes = planes
        self._channels = channels
        self._size = dict(zip(layout.axes, chunks.chunks, strict=True))
        grid = dict(zip(layout.axes, chunks.grid, strict=True))
        self._columns, self._rows = grid["x"], grid["y"]
        # A chunk stored like an image is the tile itself.
        self._interleaved = layout.axes[-3:] == ("y", "x", "c") and channels == (0, 1, 2) and self._size["c"] == 3
        self._plane = tuple(slice(None) if a in "cyx" else planes[a] % self._size[a] for a in layout.axes)
        kept = [axis for axis in layout.axes if axis in "cyx"]
        self._to_cyx = [kept.index(axis) for axis in "cyx"]
        self._parts = sorted({channel // self._size["c"] for channel in channels})

    def _place(self, index: int, part: int) -> tuple[int, ...]:
        row, column = divmod(index, self._columns)
        where = {"x": column, "y": row, "c": part, **{a: p // self._size[a] for a, p in self._planes.items()}}
        return tuple(where[axis] for axis in self._axes)

    def lengths(self) -> tuple[NDArray[np.int64], int]:
        """Return ``(rows * columns,)`` stored bytes of every tile, and how many tiles lack a chunk."""
        lengths = self.chunks.stored_lengths()
        region = tuple(
            slice(None) if a in "xy" else self._parts if a == "c" else self._planes[a] // self._size[a]
            for a in self._axes
        )
        own: NDArray[np.int64] = lengths[region].transpose(self._to_cyx)
        return own.sum(axis=0).reshape(-1), int((own == 0).any(axis=0).sum())

    def fetch(self, index: int) -> bytes:
        """Return the bytes of a tile's chunks; of several, each with its length before it."""
        parts = [self.chunks.chunk_bytes(self._place(index, part)) for part in self._parts]
        return parts[0] if len(parts) == 1 else b"".join(struct.pack("<q", len(part)) + part for part in parts)

    def decode(self, data: bytes, index: int, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 RGB, in ``out`` where it fits."""
        parts = [data] if len(self._parts) == 1 else _split(data, len(self._parts))
        planes: dict[int, NDArray[np.uint8]] = {}
        for part, piece in zip(self._parts, parts, strict=True):
            pixels = self.chunks.pixels(piece, self._place(index, part))[self._plane]
            if self._interleaved:
                return pixels
            image = pixels.transpose(self._to_cyx)
            for channel in self._channels:
                if channel // self._size["c"] == part:
                    planes[channel] = image[channel % self._size["c"]]
        rgb = [np.ascontiguousarray(planes[channel]) for channel in self._channels]
        shape = (*rgb[0].shape, 3)
        result = out if out is not None and out.shape == shape else np.empty(shape, np.uint8)
        cv2.merge(rgb, result)
        return result


def _split(data: bytes, count: int) -> list[bytes]:
    parts, start = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<q", data, start)
        parts.append(data[start + 8 : start + 8 + length])
        start += 8 + length
    if start != len(data):
        raise TileDecodeError("the chunks of a tile do not fit together")
    return parts


def _largest(layouts: Sequence[ImageLayout], root: zarr.Group, notes: list[str], where: Path) -> ImageLayout:
    """Choose the image with the most pixels; slides have a label and an overview beside it."""
    if len(layouts) == 1:
        return layouts[0]
    areas = []
    for layout in layouts:
        shape = _array(root, layout.datasets[0], len(layout.axes), where).shape
        areas.append(shape[layout.axes.index("x")] * shape[layout.axes.index("y")])
    chosen = int(np.argmax(areas))
    others = sum(area * 4 >= areas[chosen] for area in areas) - 1
    if others:
        notes.append(
            f"the OME-Zarr holds {others + 1} images of similar size; only the largest, {layouts[chosen].path!r}, is "
            "read"
        )
    return layouts[chosen]


def _array(root: zarr.Group, name: str, axes: int, where: Path) -> zarr.Array[Any]:
    import zarr

    array = root.get(name)
    if not isinstance(array, zarr.Array):
        raise CorruptSlideError(
            f"the level {name!r} is missing", where=where, remedy="Copy the slide again from its source"
        )
    if array.dtype != np.uint8:
        raise NotBrightfieldError(f"the image is stored as {array.dtype}, not as 8-bit RGB", where=where)
    if array.ndim != axes:
        raise CorruptSlideError(f"the OME-Zarr states {axes} axes for an array of {array.ndim}", where=where)
    return array


def _count(layout: ImageLayout, array: zarr.Array[Any], axis: str) -> int:
    return int(array.shape[layout.axes.index(axis)]) if axis in layout.axes else 1


def _planes(layout: ImageLayout, array: zarr.Array[Any], notes: list[str], where: Path) -> dict[str, int]:
    """Choose one plane of every axis but y, x and c."""
    planes = {}
    for axis in layout.axes:
        if axis in ("x", "y", "c"):
            continue
        count = _count(layout, array, axis)
        if count > 1 and axis != "z":
            raise UnsupportedSlideError(
                f"the OME-Zarr has {count} steps along its axis {axis!r}", where=where, remedy="Export one of them"
            )
        planes[axis] = (count - 1) // 2 if axis == "z" else 0
        if count > 1:
            notes.append(f"the middle of {count} focal planes, number {planes[axis] + 1}, is read")
    return planes


def _level(array: zarr.Array[Any], finest: zarr.Array[Any], layout: ImageLayout, where: Path) -> Level | None:
    """Describe a level; ``None`` where it is not the finest one at a lower resolution."""
    x, y = layout.axes.index("x"), layout.axes.index("y")
    if array.ndim != len(layout.axes) or array.shape[x] < 1 or array.shape[y] < 1:
        return None
    width, height = int(array.shape[x]), int(array.shape[y])
    across, down = finest.shape[x] / width, finest.shape[y] / height
    others = [axis for axis in range(array.ndim) if layout.axes[axis] not in ("x", "y", "z")]
    if any(array.shape[axis] != finest.shape[axis] for axis in others):
        return None
    downsample = (across + down) / 2
    # Sizes are rounded to whole pixels, up or down.
    if max(abs(finest.shape[x] / downsample - width), abs(finest.shape[y] / downsample - height)) > 1.5:
        return None
    if int(np.prod(array.chunks)) > _LARGEST_CHUNK:
        raise UnsupportedSlideError(
            f"a chunk of the OME-Zarr holds {np.prod(array.chunks) / 2**20:,.0f} MiB",
            where=where,
            remedy="Convert it with chunks of 512 or 1024 pixels",
        )
    if -(-width // array.chunks[x]) * -(-height // array.chunks[y]) > _MOST_CHUNKS:
        raise UnsupportedSlideError(f"a level of {width} x {height} px has too many chunks", where=where)
    return Level(width, height, downsample, (int(array.chunks[x]), int(array.chunks[y])))

"""DICOM whole-slide images: a series of instances, one or more for each level, read frame by frame.

pydicom parses the headers, once and without the pixel data.  Frame positions are taken from the extended or
basic offset table, or found by walking over the item headers; frames are then fetched and decoded by
:class:`pathology.slide.readers.tiled.TiledReader`.  Parts of the standard cited below are PS3.3 (C.8.12.4,
C.7.6.16, C.7.6.17.3) and PS3.5 (annex A.4).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from pathology.errors import CorruptSlideError, NotBrightfieldError, UnsupportedSlideError
from pathology.input_files import reading
from pathology.slide.readers.base import Level
from pathology.slide.readers.bounds import MOST_TILES, require_plausible_size
from pathology.slide.readers.codecs import decode_jpegls, decode_rle, jpeg_is_ycbcr, ycbcr_to_rgb
from pathology.slide.readers.dicom_series import (
    LARGEST_ELEMENT,
    Instance,
    dicom_files,
    one_of_each_instance,
    read_instance,
    require_plain_header,
)
from pathology.slide.readers.tile_encoding import TileEncoding
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES, StoredLevel, TileDecoder, TiledReader, image_decoder

__all__ = ["DicomReader"]

_JPEG: Final = {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit}
_JPEG_2000: Final = {uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}
_JPEG_LS: Final = {uid.JPEGLSLossless, uid.JPEGLSNearLossless}
_NATIVE: Final = {uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian}

_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_FRAME_STARTS: Final = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
"""First bytes of a JPEG image, a JPEG 2000 codestream and a JP2 file."""

_KIND_STATED: Final = 3
"""Values of ImageType that tell VOLUME, LABEL, OVERVIEW and THUMBNAIL apart."""
_HEAD: Final = 4096
"""Bytes of a frame searched for markers."""

_COPY_AGAIN: Final = "Copy the whole series again from its source"


@dataclass(frozen=True)
class _Part:
    """One VOLUME instance: a level, or a part of a level that was split into a concatenation."""

    path: Path
    header: Dataset
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    head: bytes
    """First bytes of the first frame."""

    @property
    def size(self) -> tuple[int, int]:
        return int(self.header.TotalPixelMatrixColumns), int(self.header.TotalPixelMatrixRows)


class DicomReader(TiledReader):
    """A DICOM whole-slide image.

    The slide is the whole series, whichever of its files is opened.  Label, overview and thumbnail instances are never
    read.  Of several focal planes, the middle one is used.

    Parameters
    ----------
    path
        Any file of the series, or a folder that holds one series.
    threads
        Threads that decode the frames of one read; 1 decodes in the calling thread.
    cache_bytes
        Decoded frames kept for neighbouring reads, in bytes.

    Raises
    ------
    CorruptSlideError
        If a file is damaged or truncated.
    NotBrightfieldError
        If the image is not 8-bit RGB.
    UnsupportedSlideError
        If the series is not a whole-slide image, or in a form that is not supported.
    """

    backend: ClassVar[str] = "dicom"

    def __init__(self, path: Path, *, threads: int = 1, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        parts = [_read_part(instance) for instance in _levels_of_series(path)]
        finest = max(parts, key=lambda part: part.size)
        pyramid = finest.header.get("PyramidUID")
        if pyramid is not None:
            parts = [part for part in parts if part.header.get("PyramidUID", pyramid) == pyramid]
        by_size: dict[tuple[int, int], list[_Part]] = {}
        for part in parts:
            by_size.setdefault(part.size, []).append(part)
        files: list[Path] = []
        stored: list[StoredLevel] = []
        warnings: list[str] = []
        for _, members in sorted(by_size.items(), reverse=True):
            level_parts = _one_picture(members)
            stored.append(_level(level_parts, finest.size, len(files)))
            files += [part.path for part in level_parts]
            if len(stored) == 1:
                warnings += _choices(members, level_parts, stored[0])
        self.warnings = tuple(warnings)
        header = finest.header
        optics = _first(header.get("OpticalPathSequence"))
        self.mpp = _mpp(header)
        self.objective_power = _positive(optics.get("ObjectiveLensPower"))
        self.vendor = str(header.get("Manufacturer") or "") or None
        profile = optics.get("ICCProfile")
        self.icc_profile = bytes(profile) if profile else None
        self.properties = MappingProxyType({"compression": stored[0].codec})
        super().__init__(path, files, stored, threads=threads, cache_bytes=cache_bytes)

    def _bare(self, stored: StoredLevel, data: bytes | memoryview) -> bytes | memoryview:
        return data if stored.codec.startswith("none") else _joined(data)


def _levels_of_series(path: Path) -> list[Instance]:
    """Find the VOLUME instances that belong to a file or make up a folder; each once, however many copies."""
    folder = path if path.is_dir() else path.parent
    instances = one_of_each_instance(read_instance(file) for file in dicom_files(folder))
    if path.is_dir():
        series = {instance.series for instance in instances if instance.microscopy}
        if not series:
            raise UnsupportedSlideError("the folder contains no DICOM slide", where=path)
        if len(series) > 1:
            raise UnsupportedSlideError(
                f"the folder contains {len(series)} DICOM series",
                where=path,
                remedy="Give one file of the slide instead",
            )
        wanted = series.pop()
    else:
        named = read_instance(path)
        if not named.microscopy:
            raise UnsupportedSlideError("a DICOM file, but not a whole-slide image", where=path)
        wanted = named.series
    own = [instance for instance in instances if instance.series == wanted]
    levels = [instance for instance in own if instance.is_volume]
    if levels:
        return levels
    if not own or not all(instance.readable for instance in own):
        raise CorruptSlideError("the DICOM header cannot be read", where=path, remedy=_COPY_AGAIN)
    if any(len(instance.image_type) < _KIND_STATED for instance in own):
        what = "its ImageType is missing or incomplete, so that slide, label and overview cannot be told apart"
        raise UnsupportedSlideError(what, where=path, remedy="Export the slide again with the ImageType of each file")
    kinds = sorted({instance.image_type[2].lower() for instance in own})
    raise UnsupportedSlideError(
        f"the series holds only {' and '.join(kinds)} images, not the slide itself",
        where=path,
        remedy="Copy the whole series again from its source",
    )


def _read_part(instance: Instance) -> _Part:
    """Read one instance's header and find its frames."""
    path = instance.path
    with (
        reading(path, CorruptSlideError, what="the DICOM file is damaged or truncated", remedy=_COPY_AGAIN),
        path.open("rb") as file,
    ):
        require_plain_header(path)
        header = pydicom.dcmread(file, stop_before_pixels=True, defer_size=LARGEST_ELEMENT)
        start = file.tell()
        _require_brightfield(header, path)
        offsets, lengths = _frames(file.fileno(), start, header, path)
        # A frame without bytes says nothing about its colours.
        first = int(offsets[int(np.argmax(lengths > 8))])
        return _Part(path, header, offsets, lengths, os.pread(file.fileno(), _HEAD, first + 8))


def _require_brightfield(header: Dataset, path: Path) -> None:
    remedy = "Only 8-bit RGB brightfield slides can be scored"
    samples, bits = int(header.SamplesPerPixel), int(header.BitsAllocated)
    paths = int(header.get("NumberOfOpticalPaths", 1) or 1)
    if samples != 3 or bits != 8 or paths > 1:
        raise NotBrightfieldError(
            f"the image has {samples} channel(s) of {bits} bits in {paths} optical path(s), not one RGB image of 8 "
            "bits: it looks like fluorescence or a mask",
            where=path,
            remedy=remedy,
        )


def _frames(descriptor: int, start: int, header: Dataset, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the position of each frame in the file; for compressed frames, including their item headers."""
    count = int(header.get("NumberOfFrames", 1) or 1)
    if not 0 < count <= MOST_TILES:
        raise CorruptSlideError(f"the file announces {count:,} frames", where=path, remedy=_COPY_AGAIN)
    syntax = header.file_meta.TransferSyntaxUID
    explicit = syntax != uid.ImplicitVRLittleEndian
    element = os.pread(descriptor, 12, start)
    if element[:4] != _PIXEL_DATA or len(element) < 12:
        raise CorruptSlideError("the file ends before its pixel data", where=path, remedy=_COPY_AGAIN)
    begin = start + (12 if explicit else 8)
    if syntax in _NATIVE:
        # In YBR_FULL_422 two neighbouring pixels share their chroma.
        frame = int(header.Rows) * int(header.Columns) * (2 if _halved_colours(header) else 3)
        return begin + frame * np.arange(count, dtype=np.int64), np.full(count, frame, np.int64)
    if not syntax.is_compressed or syntax == uid.DeflatedExplicitVRLittleEndian:
        raise UnsupportedSlideError(f"DICOM transfer syntax {syntax.name} is not supported", where=path)
    table_length = _item(descriptor, begin)
    if table_length is None:
        raise CorruptSlideError("the pixel data do not begin with an offset table", where=path, remedy=_COPY_AGAIN)
    first = begin + 8 + table_length
    offsets = _stated_offsets(descriptor, begin, table_length, header, count)
    if offsets is None:
        return _walk(descriptor, first, count, path)
    end, position = 0, first + int(offsets[-1])
    while (length := _item(descriptor, position)) is not None:
        position += 8 + length
        end = position
    if end == 0:
        raise CorruptSlideError("the file is truncated within its last frames", where=path, remedy=_COPY_AGAIN)
    starts = first + offsets
    return starts, np.diff(starts, append=end)


def _stated_offsets(
    descriptor: int, begin: int, table_length: int, header: Dataset, count: int
) -> NDArray[np.int64] | None:
    """Return the frames' offsets from the extended or basic offset table, or ``None`` if neither can be used."""
    extended = header.get("ExtendedOffsetTable")
    if extended is not None and len(extended) == 8 * count:
        offsets = np.frombuffer(extended, "<u8").astype(np.int64)
    elif table_length == 4 * count:
        offsets = np.frombuffer(os.pread(descriptor, table_length, begin + 8), "<u4").astype(np.int64)
    else:
        return None
    # Tables that overflowed (slides above 4 GiB) or are not in order cannot be trusted.
    return offsets if len(offsets) == 1 or bool((np.diff(offsets) > 0).all()) else None


def _item(descriptor: int, position: int) -> int | None:
    """Return the length of the item whose header is at ``position``, or ``None`` if there is none."""
    head = os.pread(descriptor, 8, position)
    return int.from_bytes(head[4:], "little") if len(head) == 8 and head[:4] == _ITEM else None


def _walk(descriptor: int, first: int, count: int, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the frames by stepping from item header to item header."""
    starts: list[int] = []
    position = first
    while (length := _item(descriptor, position)) is not None:
        starts.append(position)
        position += 8 + length
    if len(starts) > count:
        # Frames in several fragments: a frame begins where an image does.
        starts = [s for s in starts if os.pread(descriptor, 12, s + 8).startswith(_FRAME_STARTS)]
        if len(starts) != count:
            raise UnsupportedSlideError("the DICOM file does not state where its frames begin", where=path)
    if len(starts) != count:
        raise CorruptSlideError(
            f"the file is truncated: it declares {count} frames but contains {len(starts)}",
            where=path,
            remedy=_COPY_AGAIN,
        )
    edges = np.array([*starts, position], np.int64)
    return edges[:-1], np.diff(edges)


def _joined(items: bytes | memoryview) -> bytes | memoryview:
    """Strip the item headers from a frame's fragments and concatenate them."""
    length = int.from_bytes(items[4:8], "little")
    if 8 + length >= len(items):
        return items[8 : 8 + length]
    fragments = []
    position = 0
    while items[position : position + 4] == _ITEM:
        length = int.from_bytes(items[position + 4 : position + 8], "little")
        fragments.append(items[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(fragments)


def _one_picture(members: Sequence[_Part]) -> list[_Part]:
    """Choose, among instances of the same size, the first image: one instance, or all parts of a concatenation."""
    first = min(members, key=lambda part: (int(part.header.get("InstanceNumber") or 0), part.path.name))
    concatenation = first.header.get("ConcatenationUID")
    if concatenation is None:
        return [first]
    own = [part for part in members if part.header.get("ConcatenationUID") == concatenation]
    own.sort(key=lambda part: int(part.header.get("InConcatenationNumber", 0)))
    total = first.header.get("InConcatenationTotalNumber")
    if total is not None and int(total) != len(own):
        raise CorruptSlideError(
            f"a level of the slide was split into {int(total)} files, of which only {len(own)} are present",
            where=first.path,
            remedy=_COPY_AGAIN,
        )
    return own


def _level(parts: Sequence[_Part], finest: tuple[int, int], first_file: int) -> StoredLevel:
    header = parts[0].header
    width, height = parts[0].size
    tile = int(header.Columns), int(header.Rows)
    require_plausible_size(parts[0].path, width, height, tile)
    columns, rows = -(-width // tile[0]), -(-height // tile[1])
    offsets = np.concatenate([part.offsets for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    owners = np.repeat(np.arange(len(parts), dtype=np.int64) + first_file, [len(part.offsets) for part in parts])
    frames = _frame_of_tile(parts, columns, rows, len(offsets))
    present = frames >= 0
    photometric = str(header.PhotometricInterpretation)
    name = "none" if header.file_meta.TransferSyntaxUID in _NATIVE else header.file_meta.TransferSyntaxUID.name
    encoding = _encoding(parts[0])
    return StoredLevel(
        Level(width, height, (finest[0] / width + finest[1] / height) / 2, tile),
        np.where(present, offsets[frames], 0),
        np.where(present, lengths[frames], 0),
        f"{name}, {photometric}",
        _decoder(parts[0]) if encoding is None else image_decoder(encoding),
        file_of_tile=np.where(present, owners[frames], first_file) if len(parts) > 1 else None,
        file=first_file,
        encoding=encoding,
    )


def _choices(members: Sequence[_Part], chosen: Sequence[_Part], level: StoredLevel) -> list[str]:
    """Describe which image was used if the finest level holds more than one."""
    said = []
    planes = round(sum(len(part.offsets) for part in chosen) / max(1, int(np.count_nonzero(level.lengths))))
    if planes > 1:
        said.append(f"The slide has {planes} focal planes; the middle one was used")
    if len(members) > len(chosen):
        said.append(f"The series contains several images of the slide's size; {chosen[0].path.name} was used")
    return said


def _frame_of_tile(parts: Sequence[_Part], columns: int, rows: int, frames: int) -> NDArray[np.int64]:
    """Return each tile's frame, -1 for missing ones.

    TILED_FULL frames are in row-major order, one focal plane after the other; others state their position.
    """
    header = parts[0].header
    path = parts[0].path
    organisation = str(header.get("DimensionOrganizationType", ""))
    area = columns * rows
    if organisation == "TILED_FULL" or (not organisation and "PerFrameFunctionalGroupsSequence" not in header):
        planes = frames // area
        if frames == 0 or frames % area:
            raise CorruptSlideError(
                f"the image needs {area} frames, but the file contains {frames}", where=path, remedy=_COPY_AGAIN
            )
        return np.arange(area, dtype=np.int64) + (planes // 2) * area
    places = [place for part in parts for place in _stated_places(part)]
    if len(places) != frames:
        raise CorruptSlideError(
            f"the file contains {frames} frames but states {len(places)} positions", where=path, remedy=_COPY_AGAIN
        )
    heights = sorted({z for _, _, z in places})
    middle = heights[len(heights) // 2]
    across, down = int(header.Columns), int(header.Rows)
    frame_of_tile = np.full(area, -1, np.int64)
    for frame, (x, y, z) in enumerate(places):
        if z != middle:
            continue
        if x % across or y % down or not (0 <= x // across < columns and 0 <= y // down < rows):
            raise UnsupportedSlideError(f"a frame at ({x}, {y}) is not on the grid of frames", where=path)
        frame_of_tile[y // down * columns + x // across] = frame
    return frame_of_tile


def _stated_places(part: _Part) -> Iterable[tuple[int, int, float]]:
    """Yield each frame's corner in pixels of its level, and its z position in the specimen."""
    for group in part.header.get("PerFrameFunctionalGroupsSequence", ()):
        place = _first(group.get("PlanePositionSlideSequence"))
        yield (
            int(place.ColumnPositionInTotalImagePixelMatrix) - 1,
            int(place.RowPositionInTotalImagePixelMatrix) - 1,
            float(place.get("ZOffsetInSlideCoordinateSystem", 0.0) or 0.0),
        )


def _transformed(part: _Part) -> bool:
    """Whether the header declares YCbCr samples that the reader has to convert."""
    photometric = str(part.header.PhotometricInterpretation)
    if photometric not in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"):
        raise UnsupportedSlideError(f"DICOM colour model {photometric} is not supported", where=part.path)
    return photometric in ("YBR_FULL", "YBR_FULL_422")


def _encoding(part: _Part) -> TileEncoding | None:
    """Return how the frames are compressed, if each is an image of its own."""
    syntax = part.header.file_meta.TransferSyntaxUID
    transformed = _transformed(part)
    if syntax in _JPEG:
        stated = jpeg_is_ycbcr(part.head)
        return TileEncoding("jpeg", transformed=transformed if stated is None else stated)
    if syntax in _JPEG_2000:
        # YBR_ICT and YBR_RCT name the codestream's own transform; if the codestream has none, its components are
        # YCbCr anyway, as in Aperio frames wrapped in DICOM.
        return TileEncoding("jpeg2000", transformed=str(part.header.PhotometricInterpretation) != "RGB")
    return TileEncoding("jpeg-ls") if syntax in _JPEG_LS and not transformed else None


def _decoder(part: _Part) -> TileDecoder:
    header = part.header
    syntax = header.file_meta.TransferSyntaxUID
    photometric = str(header.PhotometricInterpretation)
    transformed = _transformed(part)
    width, height = int(header.Columns), int(header.Rows)
    if syntax in _NATIVE and _halved_colours(header) and width % 2 == 0:
        return TileDecoder(lambda data, *_: _native_422(data, width=width, height=height))
    if syntax in _NATIVE and photometric in ("RGB", "YBR_FULL"):
        apart = bool(header.get("PlanarConfiguration", 0))
        return TileDecoder(
            lambda data, *_: _native(data, width=width, height=height, apart=apart, transformed=transformed)
        )
    if syntax == uid.RLELossless and photometric in ("RGB", "YBR_FULL"):
        return TileDecoder(lambda data, *_: _rle(data, width=width, height=height, transformed=transformed))
    if syntax in _JPEG_LS and photometric == "YBR_FULL":
        return TileDecoder(lambda data, *_: ycbcr_to_rgb(decode_jpegls(data)))
    raise UnsupportedSlideError(
        f"DICOM transfer syntax {syntax.name} with {photometric} is not supported", where=part.path
    )


def _native(data: bytes, *, width: int, height: int, apart: bool, transformed: bool) -> NDArray[np.uint8]:
    flat = np.frombuffer(data, np.uint8)
    pixels = flat.reshape(3, height, width).transpose(1, 2, 0) if apart else flat.reshape(height, width, 3)
    return ycbcr_to_rgb(pixels) if transformed else pixels


def _halved_colours(header: Dataset) -> bool:
    return str(header.PhotometricInterpretation) == "YBR_FULL_422"


def _native_422(data: bytes, *, width: int, height: int) -> NDArray[np.uint8]:
    """Unpack pairs of luma samples and the Cb and Cr they share (PS3.3, C.7.6.3.1.2)."""
    pairs = np.frombuffer(data, np.uint8).reshape(height, width // 2, 4)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, :, 0] = pairs[:, :, :2].reshape(height, width)
    pixels[:, :, 1:] = pairs[:, :, 2:].repeat(2, axis=1)
    return ycbcr_to_rgb(pixels)


def _rle(data: bytes, *, width: int, height: int, transformed: bool) -> NDArray[np.uint8]:
    pixels = decode_rle(data, width, height)
    return ycbcr_to_rgb(pixels) if transformed else pixels


def _first(sequence: Sequence[Dataset] | None) -> Dataset:
    """Return a sequence's first item, or an empty data set."""
    return sequence[0] if sequence else Dataset()


def _positive(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _mpp(header: Dataset) -> float | None:
    """Return µm per pixel, mean of both axes, from the pixel spacing or the size of the imaged volume (both in mm)."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        spacing = _first(_first(header.get(name)).get("PixelMeasuresSequence")).get("PixelSpacing")
        sides = [_positive(side) for side in spacing or ()]
        if len(sides) == 2 and sides[0] is not None and sides[1] is not None:
            return (sides[0] + sides[1]) / 2 * 1000
    across, down = _positive(header.get("ImagedVolumeWidth")), _positive(header.get("ImagedVolumeHeight"))
    if across is None or down is None:
        return None
    return (across / int(header.TotalPixelMatrixColumns) + down / int(header.TotalPixelMatrixRows)) / 2 * 1000

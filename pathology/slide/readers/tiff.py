"""Aperio SVS, OME-TIFF and plain TIFF slides, tiled or in strips, read directly.

tifffile parses the directories, once; tiles are then fetched and decoded by
:class:`pathology.slide.readers.tiled.TiledReader`.
TIFF-based formats with overlapping tiles or vendor-specific directories (Hamamatsu NDPI, Leica SCN, Ventana BIF,
Philips, Trestle) are refused, and :func:`pathology.slide.open.open_reader` passes them to OpenSlide.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, NotBrightfieldError, SlideError, UnsupportedSlideError
from pathology.slide.readers.base import Level
from pathology.slide.readers.bounds import require_plausible_size
from pathology.slide.readers.codecs import jpeg_is_ycbcr, over_white, premultiplied_over_white
from pathology.slide.readers.tiff_ycbcr import YcbcrLayout
from pathology.slide.readers.tile_encoding import TileEncoding
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES, StoredLevel, TileDecoder, TiledReader, image_decoder

__all__ = ["TiffReader"]

# tifffile logs every oddity it recovers from.  Anything that matters to a user is raised; an application that wants the
# rest can still configure this logger.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_PHOTOMETRIC_RGB: Final = 2
_PHOTOMETRIC_YCBCR: Final = 6
_PHOTOMETRIC_NAMES: Final = {
    0: "grey",
    1: "grey",
    3: "palette",
    4: "mask",
    5: "CMYK",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "raw sensor",
    34892: "raw sensor",
}

_NONE: Final = 1
_JPEG: Final = 7
_JPEG_2000: Final = {33003: "JPEG 2000 YCbCr (Aperio)", 33005: "JPEG 2000 RGB (Aperio)", 34712: "JPEG 2000"}
_APERIO_YCBCR: Final = 33003
_WEBP: Final = {34927: "WebP", 50001: "WebP"}
_LOSSLESS: Final = {5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}

_OTHER_READERS: Final = {
    "is_ndpi": "Hamamatsu NDPI",
    "is_scn": "Leica SCN",
    "is_bif": "Ventana BIF",
    "is_philips": "Philips TIFF",
}
"""Vendor-specific TIFF variants left to OpenSlide, by the tifffile property that recognises them."""

_NOT_A_LEVEL: Final = re.compile(r"\b(label|macro|thumbnail|overview|preview)\b", re.IGNORECASE)
_PLACES_COMPARED: Final = 8
_LEAST_COMPARED: Final = 32
"""Minimum side, in pixels of the smaller page, of an area compared with the slide."""
_CELLS: Final = 8
"""Each area is compared by the mean colours of a grid with this many cells per side."""
_SAME_WITHIN: Final = 10.0
"""Largest mean difference, in levels of 255, at which a page counts as a smaller copy.  Copies differ by 1 to 3, due to
compression and resampling; other tissue by 20 or more."""
_TILE_HEAD: Final = 4096
"""Bytes of a tile searched for markers."""
_LARGE_STRIP: Final = 2**20
"""Uncompressed strips larger than this many bytes are read in parts; some programs write the image as one strip."""

_METRES: Final = {
    "pm": 1e-12,
    "Å": 1e-10,
    "nm": 1e-9,
    "µm": 1e-6,
    "μm": 1e-6,
    "um": 1e-6,
    "mm": 1e-3,
    "cm": 1e-2,
    "dm": 1e-1,
    "m": 1.0,
    "km": 1e3,
    "in": 0.0254,
    "ft": 0.3048,
    "mil": 2.54e-5,
}
"""Units of PhysicalSizeX (OME data model, UnitsLength); both code points of µ occur.  ``pixel`` and ``reference
frame`` are not lengths and are omitted."""


@dataclass(frozen=True)
class _Pyramid:
    """The pages that make up the slide, finest first, and their metadata."""

    pages: list[tifffile.TiffPage]
    vendor: str
    mpp: float | None
    objective_power: float | None
    warnings: tuple[str, ...] = ()
    cropped: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Width and height, by page index, for pages that are padded to whole tiles."""


class TiffReader(TiledReader):
    """A slide in a TIFF file: Aperio SVS, OME-TIFF, plain TIFF and BigTIFF.

    Label, macro and thumbnail images are never read.

    Parameters
    ----------
    path
        The file.
    threads
        Threads that decode the tiles of one read; 1 decodes in the calling thread.
    cache_bytes
        Decoded tiles kept for neighbouring reads, in bytes.

    Raises
    ------
    CorruptSlideError
        If the file is damaged or truncated.
    NotBrightfieldError
        If the image is not 8-bit RGB.
    UnsupportedSlideError
        If the file is not a TIFF, or a TIFF that another backend must read.
    """

    backend: ClassVar[str] = "tiff"

    def __init__(self, path: Path, *, threads: int = 1, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        try:
            with tifffile.TiffFile(path) as tif:
                pyramid = _find_pyramid(tif, path)
                aperio, slide = pyramid.vendor == "aperio", pyramid.pages[0]
                stored = [_index(page, slide, path, aperio, pyramid.cropped.get(page.offset)) for page in pyramid.pages]
                profile = pyramid.pages[0].tags.get("InterColorProfile")
        except (SlideError, MemoryError):
            raise
        except tifffile.TiffFileError as error:
            raise _unreadable(path, error) from error
        except Exception as error:
            # A damaged directory can raise almost anything: struct.error, ValueError, KeyError, ...
            raise _unreadable(path, error) from error
        self.mpp = pyramid.mpp
        self.objective_power = pyramid.objective_power
        self.vendor = pyramid.vendor
        self.warnings = pyramid.warnings
        self.icc_profile = bytes(profile.value) if profile is not None else None
        self.properties = MappingProxyType({"compression": stored[0].codec})
        super().__init__(path, [path], stored, threads=threads, cache_bytes=cache_bytes)


def _unreadable(path: Path, error: Exception) -> SlideError:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] not in (b"II", b"MM"):
        return UnsupportedSlideError("not a TIFF file", where=path)
    return CorruptSlideError(
        f"the file is damaged or truncated: its TIFF directory cannot be read ({error})",
        where=path,
        remedy="Copy the slide again from its source",
    )


def _find_pyramid(tif: tifffile.TiffFile, path: Path) -> _Pyramid:
    for flag, name in _OTHER_READERS.items():
        if getattr(tif, flag):
            raise UnsupportedSlideError(f"{name} files are read through OpenSlide", where=path)
    if len(tif.pages) == 0:
        raise CorruptSlideError(
            "the file is damaged or truncated: it begins like a TIFF slide, but its list of images is missing",
            where=path,
            remedy="Copy the slide again from its source",
        )
    first = _page(tif, 0)
    if str(first.software).startswith("MedScan"):
        raise UnsupportedSlideError("Trestle files are read through OpenSlide", where=path)
    if tif.is_ome:
        root = _ome_root(str(first.description))
        if root is not None:
            return _ome_pyramid(tif, root, path)
    _require_last_directory(tif, path)
    others = [_page(tif, i) for i in range(1, len(tif.pages))]
    if not (tif.is_svs or tif.is_qpi):
        return _plain_pyramid([first, *others], path)
    pages = _same_pyramid([first, *_subdirectories(first), *others])
    if tif.is_svs:
        stated = _aperio_properties(str(first.description))
        return _Pyramid(pages, "aperio", _number(stated.get("MPP")), _number(stated.get("AppMag")))
    return _Pyramid(pages, "akoya", _resolution_mpp(first), None)


def _require_last_directory(tif: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose last readable directory points to another one: tifffile only logs that."""
    layout, last, file = tif.tiff, _page(tif, len(tif.pages) - 1), tif.filehandle
    file.seek(last.offset)
    (entries,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(last.offset + layout.tagnosize + entries * layout.tagsize)
    following = file.read(layout.offsetsize)
    if len(following) < layout.offsetsize or struct.unpack(layout.offsetformat, following)[0] >= file.size:
        raise CorruptSlideError(
            "the file is truncated: some of its images are missing",
            where=path,
            remedy="Copy the slide again from its source",
        )


def _page(tif: tifffile.TiffFile, index: int) -> tifffile.TiffPage:
    page = tif.pages[index]
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


def _subdirectories(page: tifffile.TiffPage) -> Iterator[tifffile.TiffPage]:
    for child in page.pages or () if page.subifds else ():
        yield child if isinstance(child, tifffile.TiffPage) else child.aspage()


def _plain_pyramid(pages: list[tifffile.TiffPage], path: Path) -> _Pyramid:
    """Choose the slide and its levels in a file without vendor metadata on the order of its images.

    The slide is the largest image that is not marked as reduced; tiled images take precedence.  A smaller image is a
    level if it is marked as reduced, or if it shows the same content.
    """
    full = [page for page in pages if not page.subfiletype and not _is_called_otherwise(page) and _is_rgb(page)]
    slides = [page for page in full if page.is_tiled] or full or pages[:1]
    largest = max(page.imagewidth * page.imagelength for page in slides)
    planes = [page for page in slides if page.imagewidth * page.imagelength == largest]
    planes = [page for page in planes if page.shape == planes[0].shape]
    slide = planes[len(planes) // 2]
    warnings = []
    if len(planes) > 1:
        place = f"number {len(planes) // 2 + 1} of {len(planes)}"
        warnings.append(
            f"The file contains {len(planes)} images of the slide's size, such as focal planes; {place} was used"
        )
    smaller = [page for page in pages if page.shape != slide.shape]
    candidates = [slide, *_subdirectories(slide), *smaller]
    cropped = {}
    for page in candidates[1:]:
        alike = _is_rgb(page) and page.samplesperpixel == slide.samplesperpixel
        size = _without_padding(page, slide) if alike else None
        # With a wrong size, positions are off by more the farther they are from the corner.
        if size and _difference(page, slide, path, size) < _difference(page, slide, path):
            cropped[page.offset] = size
    levels = _same_pyramid(candidates, cropped)

    def shows_the_same(page: tifffile.TiffPage) -> bool:
        return _difference(page, slide, path, cropped.get(page.offset)) <= _SAME_WITHIN

    plain = {id(page) for page in slides}
    levels = [page for page in levels if page is slide or id(page) not in plain or shows_the_same(page)]
    others = [page for page in slides if page not in planes and page not in levels]
    if others:
        sizes = ", ".join(f"{page.imagewidth} x {page.imagelength} px" for page in others)
        warnings.append(
            f"The file contains other images that are not levels of the slide ({sizes}); only the largest, "
            f"{slide.imagewidth} x {slide.imagelength} px, was used"
        )
    return _Pyramid(levels, "generic-tiff", _resolution_mpp(slide), None, tuple(warnings), cropped)


def _is_called_otherwise(page: tifffile.TiffPage) -> bool:
    return bool(_NOT_A_LEVEL.search(str(page.description).split("|", 1)[0]))


def _is_rgb(page: tifffile.TiffPage) -> bool:
    return page.photometric in (_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR) and page.dtype == np.uint8


class _Probe(TiledReader):
    """Two pages, to see whether one is a smaller copy of the other."""

    backend: ClassVar[str] = "tiff"


def _without_padding(page: tifffile.TiffPage, slide: tifffile.TiffPage) -> tuple[int, int] | None:
    """Return the size a page would have if it were the slide halved one or more times and padded to whole tiles.

    ``None`` if padding is not needed to explain its size, or does not explain it.
    """
    if not page.is_tiled or page.imagewidth >= slide.imagewidth:
        return None
    factor = 2 ** round(math.log2(slide.imagewidth / page.imagewidth))
    width, height = (max(1, round(side / factor)) for side in (slide.imagewidth, slide.imagelength))
    padded = (-(-width // page.tilewidth) * page.tilewidth, -(-height // page.tilelength) * page.tilelength)
    if padded != (page.imagewidth, page.imagelength) or max(padded[0] - width, padded[1] - height) <= 1:
        return None
    return width, height


def _difference(
    page: tifffile.TiffPage, slide: tifffile.TiffPage, path: Path, size: tuple[int, int] | None = None
) -> float:
    """Return how much a page differs from the slide at low resolution, in a few areas with much content.

    The mean over those areas, in levels of 255; 0 if none can be read.
    """
    stored = [_index(slide, slide, path, aperio=False), _index(page, slide, path, aperio=False, size=size)]
    fine, coarse = (one.level for one in stored)
    # Tiles with many bytes contain tissue.
    places = np.argsort(-stored[0].lengths, kind="stable")[:_PLACES_COMPARED].tolist()
    side = max(min(fine.tile_size), round(_LEAST_COMPARED * coarse.downsample))
    differences = []
    with _Probe(path, [path], stored) as probe:
        for place in places:
            row, column = divmod(place, stored[0].columns)
            x, y = column * fine.tile_size[0], row * fine.tile_size[1]
            width, height = min(side, fine.width - x), min(side, fine.height - y)
            region = probe.read_masked(0, x, y, width, height)
            left, right = (round(edge * coarse.width / fine.width) for edge in (x, x + width))
            top, bottom = (round(edge * coarse.height / fine.height) for edge in (y, y + height))
            if region.unreadable or right <= left or bottom <= top:
                continue
            other = probe.read_masked(1, left, top, right - left, bottom - top)
            if other.unreadable:
                continue
            one, two = (
                cv2.resize(pixels, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)
                for pixels in (region.pixels, other.pixels)
            )
            differences.append(float(np.abs(one - two).mean()))
    return float(np.mean(differences)) if differences else 0.0


def _same_pyramid(
    candidates: list[tifffile.TiffPage], cropped: Mapping[int, tuple[int, int]] = MappingProxyType({})
) -> list[tifffile.TiffPage]:
    """Keep the first page and the pages that are smaller copies of it, finest first.

    A copy has the first page's layout (tiles or strips), colour and aspect ratio, and is not named label, macro,
    thumbnail or overview.  Aperio stores those in strips; other vendors mark them in the description or by the
    subfile type.
    """
    first = candidates[0]
    kept = [first]
    for page in candidates[1:]:
        if _is_called_otherwise(page) or page.subfiletype & ~1:
            continue
        if (page.is_tiled, page.samplesperpixel, page.bitspersample) != (
            first.is_tiled,
            first.samplesperpixel,
            first.bitspersample,
        ):
            continue
        width, height = cropped.get(page.offset, (page.imagewidth, page.imagelength))
        across, down = first.imagewidth / width, first.imagelength / height
        # Each halving rounds the sides to whole pixels, up or down.
        if abs(across / down - 1) > 0.01 + 1 / page.imagewidth + 1 / page.imagelength:
            continue
        kept.append(page)
    kept.sort(key=lambda page: -page.imagewidth)  # stable: keeps the first of several focal planes
    pages = [first]
    for page in kept:
        if page.imagewidth < pages[-1].imagewidth and page.imagelength < pages[-1].imagelength:
            pages.append(page)
    return pages


def _index(
    page: tifffile.TiffPage,
    first: tifffile.TiffPage,
    path: Path,
    aperio: bool,
    size: tuple[int, int] | None = None,
) -> StoredLevel:
    """Read one page's table of tiles and choose its decoder."""
    _require_brightfield(page, path)
    width, height = size or (int(page.imagewidth), int(page.imagelength))
    samples = int(page.samplesperpixel)
    tile = (
        (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else (width, min(int(page.rowsperstrip), height))
    )
    divided = page.compression == _NONE and not page.is_tiled and page.photometric != _PHOTOMETRIC_YCBCR
    require_plausible_size(path, width, height, (tile[0], 1) if divided else tile)
    offsets = np.asarray(page.dataoffsets, np.int64)
    lengths = np.asarray(page.databytecounts, np.int64)
    if page.compression == _NONE:
        if divided:
            offsets, lengths, tile = _divided_strips(offsets, lengths, tile, height, samples)
        codec = "none"
    else:
        codec = _codec_name(int(page.compression), int(page.predictor), path)
    expected = -(-width // tile[0]) * -(-height // tile[1])
    if min(len(offsets), len(lengths)) < expected:
        raise CorruptSlideError(
            f"the image needs {expected} stored tiles, but the file lists {min(len(offsets), len(lengths))}",
            where=path,
            remedy="Copy the slide again from its source",
        )
    downsample = (first.imagewidth / width + first.imagelength / height) / 2
    encoding = _encoding(page, aperio)
    return StoredLevel(
        Level(width, height, downsample, tile),
        offsets[:expected],
        # Some writers mark an omitted tile with offset 0.
        np.where(offsets[:expected] > 0, lengths[:expected], 0),
        f"{codec}, {'YCbCr' if page.photometric == _PHOTOMETRIC_YCBCR else 'RGB'}",
        _decoder(page, tile, samples, path) if encoding is None else image_decoder(encoding),
        encoding.tables if encoding is not None else b"",
        encoding=encoding,
    )


def _require_brightfield(page: tifffile.TiffPage, path: Path) -> None:
    remedy = "Only 8-bit RGB brightfield slides can be scored"
    bits, samples, photometric = page.bitspersample, int(page.samplesperpixel), int(page.photometric)
    if photometric not in (_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR):
        kind = _PHOTOMETRIC_NAMES.get(photometric, f"colour model {photometric}")
        raise NotBrightfieldError(
            f"the image is stored as {kind} with {samples} channel(s) of {bits} bits, not as RGB: a mask, a "
            "fluorescence channel or a special camera format",
            where=path,
            remedy=remedy,
        )
    if page.dtype != np.uint8 or bits != 8:
        raise NotBrightfieldError(f"the image has {bits} bits per colour, not 8", where=path, remedy=remedy)
    if samples not in (3, 4) or (samples == 4 and (page.extrasamples or (0,))[0] not in (1, 2)):
        raise NotBrightfieldError(
            f"the image has {samples} channels, not the 3 of RGB: it looks like fluorescence or multispectral data",
            where=path,
            remedy=remedy,
        )
    if page.planarconfig != 1 or page.imagedepth != 1 or (samples == 4 and page.compression == _JPEG):
        raise UnsupportedSlideError(
            "red, green and blue are stored in separate planes, which is not supported", where=path
        )


def _codec_name(compression: int, predictor: int, path: Path) -> str:
    if compression == _JPEG:
        return "JPEG"
    name = _JPEG_2000.get(compression) or _WEBP.get(compression)
    if name is not None:
        return name
    name = _LOSSLESS.get(compression)
    if name is None or predictor not in (1, 2):
        raise UnsupportedSlideError(
            f"TIFF compression {compression} with predictor {predictor} is not supported", where=path
        )
    return name


def _encoding(page: tifffile.TiffPage, aperio: bool) -> TileEncoding | None:
    """Return how a page's tiles are compressed, if each is an image of its own."""
    compression, ycbcr = int(page.compression), page.photometric == _PHOTOMETRIC_YCBCR
    if compression == _JPEG:
        # Aperio's RGB tiles carry no marker, and the directory decides.  But Bio-Formats writes whole JFIF images,
        # which are YCbCr by definition, into pages that it declares RGB.
        stated = jpeg_is_ycbcr(_first_tile(page))
        return TileEncoding("jpeg", transformed=ycbcr if stated is None else stated, tables=page.jpegtables or b"")
    if compression in _JPEG_2000:
        # 33003 means YCbCr only in Aperio's files: Bio-Formats writes RGB under the same number.
        return TileEncoding("jpeg2000", transformed=ycbcr or (aperio and compression == _APERIO_YCBCR))
    return TileEncoding("webp") if compression in _WEBP else None


def _first_tile(page: tifffile.TiffPage) -> bytes:
    """Return the beginning of the first non-empty tile."""
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset and length:
            file = page.parent.filehandle
            file.seek(offset)
            return bytes(file.read(min(int(length), _TILE_HEAD)))
    return b""


def _decoder(page: tifffile.TiffPage, tile: tuple[int, int], samples: int, path: Path) -> TileDecoder:
    if page.photometric == _PHOTOMETRIC_YCBCR:
        layout = YcbcrLayout.of(page, tile, path)
        return TileDecoder(lambda data, *_: layout.decode(data))
    if page.compression == _NONE:
        unpack = partial(_uncompressed, width=tile[0], samples=samples)
    else:
        unpack = partial(_lossless, page.decode)
    if samples == 4:
        blend = premultiplied_over_white if page.extrasamples[0] == 1 else over_white
        return TileDecoder(lambda data, index, _: blend(unpack(data, index)))
    return TileDecoder(lambda data, index, _: unpack(data, index))


def _uncompressed(data: bytes, _index: int, *, width: int, samples: int) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(-1, width, samples)


def _lossless(unpack: Callable[..., Any], data: bytes, index: int) -> NDArray[np.uint8]:
    pixels, _, _ = unpack(data, index)
    tile: NDArray[np.uint8] = pixels[0]
    return tile


def _divided_strips(
    offsets: NDArray[np.int64], lengths: NDArray[np.int64], strip: tuple[int, int], height: int, samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, int]]:
    """Split large uncompressed strips into smaller ones by adjusting offsets."""
    width, rows = strip
    row_bytes = width * samples
    if rows * row_bytes <= _LARGE_STRIP:
        return offsets, lengths, strip
    smaller = max(1, _LARGE_STRIP // row_bytes)
    if len(offsets) > 1:
        # Every strip but the last must divide evenly; otherwise parts would span two strips.
        smaller = next(n for n in range(min(smaller, rows), 0, -1) if rows % n == 0)
    starts = np.arange(0, height, smaller, dtype=np.int64)
    strip_of = starts // rows
    inside = starts - strip_of * rows
    counts = np.minimum(smaller, height - starts) * row_bytes
    return offsets[strip_of] + inside * row_bytes, np.where(lengths[strip_of] > 0, counts, 0), (width, smaller)


def _aperio_properties(description: str) -> dict[str, str]:
    """Split ``...|AppMag = 20|MPP = 0.4990|...``."""
    fields = (field.split("=", 1) for field in description.split("|")[1:] if "=" in field)
    return {key.strip(): value.strip() for key, value in fields}


def _number(text: str | None) -> float | None:
    """Return a positive number, or ``None``; a decimal comma is accepted."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _resolution_mpp(page: tifffile.TiffPage) -> float | None:
    """Return µm per pixel from the resolution tags (TIFF 6.0, section 8), mean of both axes."""
    unit = page.tags.get("ResolutionUnit")
    micrometres = {2: 25_400.0, 3: 10_000.0}.get(int(unit.value) if unit is not None else 2)
    sides = []
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        if micrometres is None or tag is None:
            return None
        above, below = tag.value
        if above <= 0 or below <= 0:
            return None
        sides.append(micrometres * float(below) / float(above))
    return sum(sides) / 2


def _ome_root(description: str) -> ET.Element | None:
    try:
        # Expat (2.4.1 and later) bounds entity expansion itself, and external entities are never fetched.
        return ET.fromstring(description)  # noqa: S314
    except ET.ParseError:
        return None


def _ome_pyramid(tif: tifffile.TiffFile, root: ET.Element, path: Path) -> _Pyramid:
    """Choose the slide among the images of an OME-TIFF: the largest that is not named label or overview."""
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    pictures: list[tuple[int, ET.Element, ET.Element]] = []
    for image in root.iter(f"{space}Image"):
        pixels = image.find(f"{space}Pixels")
        if pixels is not None and not _NOT_A_LEVEL.search(image.get("Name", "")):
            pictures.append((int(pixels.get("SizeX", 0)) * int(pixels.get("SizeY", 0)), image, pixels))
    if not pictures:
        raise UnsupportedSlideError("the OME-TIFF contains no slide image", where=path)
    _, image, pixels = max(pictures, key=lambda picture: picture[0])
    depth, times = int(pixels.get("SizeZ", 1)), int(pixels.get("SizeT", 1))
    if depth * times > 1:
        raise UnsupportedSlideError(
            f"the OME-TIFF is a stack of {depth} focal planes and {times} time points",
            where=path,
            remedy="Export one plane",
        )
    channels = pixels.findall(f"{space}Channel")
    samples = [int(channel.get("SamplesPerPixel", 1)) for channel in channels]
    if len(channels) > 1 or (samples and samples[0] == 1):
        raise NotBrightfieldError(
            f"the OME-TIFF has {len(channels)} separate channel(s), not one RGB channel: it looks like fluorescence",
            where=path,
            remedy="If it is a brightfield slide, convert it again as interleaved RGB (raw2ometiff --rgb)",
        )
    data = pixels.find(f"{space}TiffData")
    page = _page(tif, int(data.get("IFD", 0)) if data is not None else 0)
    sides = [
        _physical_size(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"
    ]
    stated = [side for side in sides if side is not None]
    mpp = sum(stated) / len(stated) if stated else _resolution_mpp(page)
    settings = image.find(f"{space}ObjectiveSettings")
    power = None
    for objective in root.iter(f"{space}Objective"):
        if settings is not None and objective.get("ID") == settings.get("ID"):
            power = _number(objective.get("NominalMagnification"))
    warnings: tuple[str, ...] = ()
    if len(pictures) > 1:
        warnings = (
            f"The OME-TIFF contains {len(pictures)} images, such as scanned regions; only the largest, "
            f"{page.imagewidth} x {page.imagelength} px, was used",
        )
    return _Pyramid(_same_pyramid([page, *_subdirectories(page)]), "ome-tiff", mpp, power, warnings)


def _physical_size(value: str | None, unit: str) -> float | None:
    """Return micrometres, or ``None`` if the value is missing or its unit is not a length."""
    number, metres = _number(value), _METRES.get(unit)
    return None if number is None or metres is None else number * metres * 1e6

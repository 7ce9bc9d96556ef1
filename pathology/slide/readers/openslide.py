"""All other formats OpenSlide opens: Hamamatsu, Leica, MIRAX, Ventana, Philips, Zeiss, Sakura, Trestle, some DICOM.

Slower than the direct readers, since OpenSlide composes every region tile by tile with transparency, but it supports
the vendors' formats.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import ImageCms

from pathology.errors import CorruptSlideError, SlideError, UnsupportedSlideError
from pathology.slide.readers.base import BACKGROUND, Level, Rect, Region, SlideReader, TileCounts
from pathology.slide.readers.bounds import require_plausible_size
from pathology.slide.readers.codecs import over_white
from pathology.slide.readers.fingerprint import file_fingerprint
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES

__all__ = ["OpenSlideReader"]

_PIECE: Final = 256
"""Size, in pixels, of the pieces read one by one if a region holds a damaged tile and the tile size is unknown."""


class OpenSlideReader(SlideReader):
    """A slide read through OpenSlide.

    All threads share one handle: OpenSlide is thread-safe, releases the interpreter lock, and is no faster with one
    handle per thread (measured).  OpenSlide takes positions in level-0 pixels; for levels with a fractional downsample
    it therefore shifts the region by up to half a level-0 pixel.

    Label, macro and thumbnail images are never read, and no property that may name a patient is copied.

    Parameters
    ----------
    path
        The file.
    threads
        Ignored: regions are composed in the calling thread.
    cache_bytes
        Size of OpenSlide's own tile cache, in bytes.

    Raises
    ------
    CorruptSlideError
        If the file is of a known format but damaged.
    UnsupportedSlideError
        If OpenSlide does not support the format.
    """

    backend: ClassVar[str] = "openslide"

    def __init__(self, path: Path, *, threads: int = 1, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        del threads
        self.path = path
        self._cache = openslide.OpenSlideCache(cache_bytes)
        self._lock = threading.Lock()
        slide = self._open()
        self._slide: openslide.OpenSlide | None = slide
        stated = slide.properties
        self.levels = tuple(
            Level(width, height, 1.0 if i == 0 else float(downsample), _tile_size(stated, i, width, height))
            for i, ((width, height), downsample) in enumerate(
                zip(slide.level_dimensions, slide.level_downsamples, strict=True)
            )
        )
        for level in self.levels:
            require_plausible_size(path, level.width, level.height, level.tile_size)
        sides = [_number(stated.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        known = [side for side in sides if side is not None]
        self.mpp = sum(known) / len(known) if known else None
        self.objective_power = _number(stated.get("openslide.objective-power"))
        self.vendor = stated.get("openslide.vendor")
        try:
            profile = slide.color_profile
        except ImageCms.PyCMSError:
            profile = None
            self.warnings = ("The slide's colour profile is damaged and was ignored",)
        self.icc_profile = profile.tobytes() if profile is not None else None
        self.properties = MappingProxyType({"openslide version": openslide.__library_version__})
        self.fingerprint = file_fingerprint(_files_of(path), stated.get("openslide.quickhash-1", ""))
        self._unreadable: set[tuple[int, int, int]] = set()

    def _open(self) -> openslide.OpenSlide:
        try:
            slide = openslide.OpenSlide(self.path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise UnsupportedSlideError("not a slide format that OpenSlide supports", where=self.path) from None
        except openslide.OpenSlideError as error:
            raise _refusal(str(error), self.path) from error
        slide.set_cache(self._cache)
        return slide

    @property
    def tile_counts(self) -> TileCounts:
        """Unreadable tiles so far; OpenSlide does not report how many it decoded."""
        with self._lock:
            return TileCounts(unreadable=len(self._unreadable))

    @property
    def unreadable_tiles(self) -> frozenset[tuple[int, int, int]]:
        """Stored tiles found undecodable so far, as ``(level, column, row)``."""
        with self._lock:
            return frozenset(self._unreadable)

    def close(self) -> None:
        """Close the file, once reads under way in other threads have ended.  Closing twice is allowed."""
        with self._lock:
            # The library's object closes the file once it is no longer referenced.  Closing it now could crash the
            # process while another thread is reading.
            self._slide = None

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        try:
            return Region(self._compose(level, x, y, w, h))
        except openslide.OpenSlideError:
            return self._read_around_damage(level, x, y, w, h)

    def _compose(self, level: int, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        with self._lock:
            slide = self._slide
            if slide is None:
                raise ValueError(f"{self.path}: the reader is closed")
        downsample = self.levels[level].downsample
        place = (round(x * downsample), round(y * downsample))
        try:
            picture = slide.read_region(place, level, (w, h))
        except openslide.OpenSlideError:
            # OpenSlide refuses every later read after the first error, so the handle is replaced.
            with self._lock:
                if slide is self._slide:
                    self._slide = self._open()
            raise
        return over_white(np.asarray(picture))

    def _read_around_damage(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        """Read tile by tile, so that a damaged tile affects only its own area."""
        canvas = np.full((h, w, 3), BACKGROUND, np.uint8)
        unreadable: list[Rect] = []
        lost: list[tuple[int, int, int]] = []
        stored = self.levels[level]
        tile_width, tile_height = stored.tile_size
        for row in range(max(y, 0) // tile_height, -(-min(y + h, stored.height) // tile_height)):
            for column in range(max(x, 0) // tile_width, -(-min(x + w, stored.width) // tile_width)):
                left, top = max(column * tile_width, x), max(row * tile_height, y)
                right, bottom = min((column + 1) * tile_width, x + w), min((row + 1) * tile_height, y + h)
                try:
                    piece = self._compose(level, left, top, right - left, bottom - top)
                except openslide.OpenSlideError:
                    unreadable.append(Rect(left - x, top - y, right - left, bottom - top))
                    lost.append((level, column, row))
                else:
                    canvas[top - y : bottom - y, left - x : right - x] = piece
        with self._lock:
            self._unreadable.update(lost)
        return Region(canvas, tuple(unreadable))


def _tile_size(stated: Mapping[str, str], level: int, width: int, height: int) -> tuple[int, int]:
    sides = (stated.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height"))
    across, down = (int(side) if side and side.isdigit() and int(side) > 0 else _PIECE for side in sides)
    return min(across, width), min(down, height)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _refusal(reason: str, path: Path) -> SlideError:
    lowered = reason.lower()
    if "unsupported" in lowered or "not supported" in lowered:
        return UnsupportedSlideError(f"OpenSlide cannot read it: {reason}", where=path)
    return CorruptSlideError(
        f"the slide is damaged or incomplete: {reason}", where=path, remedy="Copy the slide again from its source"
    )


def _files_of(path: Path) -> list[Path]:
    """Return the file and, for MIRAX, the files in its companion folder, whose names do not depend on the slide's."""
    companion = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and companion.is_dir():
        return [path, *sorted(file for file in companion.iterdir() if file.is_file())]
    return [path]

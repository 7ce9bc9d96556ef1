"""The interface of all slide readers.

A reader turns a slide file into RGB pixels of its stored levels.  It knows nothing about tissue, patches
or target scales.  ``pathology.testing.SlideReaderSuite`` tests a backend against this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.errors import UnreadableTileError, UsageError

__all__ = ["BACKGROUND", "Level", "Rect", "Region", "SlideReader", "TileCounts"]

BACKGROUND = 255
"""Value (all three channels) of pixels outside the slide and of tiles the scanner omitted: white."""

_STRIP_PIXELS = 16_777_216
"""Level pixels held at once while downsampling (48 MiB of RGB), so that memory does not grow with the reduction."""


@dataclass(frozen=True, slots=True)
class Rect:
    """An axis-aligned rectangle ``(x, y, width, height)`` in whole pixels, origin top left."""

    x: int
    y: int
    width: int
    height: int

    def touches(self, x: NDArray[np.integer], y: NDArray[np.integer], width: int, height: int) -> NDArray[np.bool_]:
        """Return ``(n,)`` bool: which of ``n`` rectangles of one size overlap with this one."""
        across = (x < self.x + self.width) & (x + width > self.x)
        return np.asarray(across & (y < self.y + self.height) & (y + height > self.y))


@dataclass(frozen=True, slots=True)
class Level:
    """One stored resolution of a slide.

    Attributes
    ----------
    width, height
        Size in pixels of this level.
    downsample
        Level-0 pixels per pixel of this level (mean of both axes), >= 1.
    tile_size
        Stored tile size ``(width, height)`` in pixels; strips are tiles as wide as the level.
    """

    width: int
    height: int
    downsample: float
    tile_size: tuple[int, int]

    @property
    def dimensions(self) -> tuple[int, int]:
        """``(width, height)`` in pixels of this level."""
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels of a region and the parts of it that could not be read.

    Attributes
    ----------
    pixels
        ``(h, w, 3)`` uint8 RGB.  Unreadable parts hold ``BACKGROUND``.
    unreadable
        Rectangles of stored tiles that could not be decoded, relative to the region's corner and clipped to
        the region.
    """

    pixels: NDArray[np.uint8]
    unreadable: tuple[Rect, ...] = ()


@dataclass(frozen=True, slots=True)
class TileCounts:
    """How many stored tiles a reader has decoded or reused since it was opened.

    Attributes
    ----------
    decoded
        Stored tiles decoded; a tile decoded twice counts twice.
    reused
        Tiles taken from the cache instead of being decoded again.
    unreadable
        Distinct stored tiles that could not be decoded.
    """

    decoded: int = 0
    reused: int = 0
    unreadable: int = 0


class SlideReader(ABC):
    """A slide file as RGB pixels at its stored levels.

    Readers are thread-safe: any number of threads may call :meth:`read` at once.  They are context managers
    and close their file on exit; reading from a closed reader raises ``ValueError``.

    Attributes
    ----------
    path : Path
        The file (or, for a DICOM series, the folder) the reader was opened on.
    backend : str
        Name of the backend: ``tiff``, ``openslide``, ``dicom`` or ``image``.
    levels : tuple of Level
        From the finest (index 0) to the coarsest.
    mpp : float or None
        Micrometres per pixel of level 0 as stated in the file (mean of both axes), or ``None``.
        Never guessed; see :func:`pathology.slide.scale.resolve_mpp`.
    objective_power : float or None
        Objective magnification as stated in the file.
    fingerprint : str
        64 hexadecimal digits that change when the pixel data change; independent of the file's name, location
        and timestamps.
    vendor : str or None
        Scanner vendor or format family, such as ``aperio``.
    icc_profile : bytes or None
        The embedded ICC profile of level 0.
    properties : Mapping[str, str]
        Technical properties to display.  Never patient or label data.
    warnings : tuple of str
        Notes on how the file was read, for the reports, such as which of several images in it was used.
    """

    backend: ClassVar[str]

    path: Path
    levels: tuple[Level, ...]
    mpp: float | None
    objective_power: float | None
    fingerprint: str
    vendor: str | None = None
    icc_profile: bytes | None = None
    properties: Mapping[str, str] = MappingProxyType({})
    warnings: tuple[str, ...] = ()

    @property
    def dimensions(self) -> tuple[int, int]:
        """``(width, height)`` of level 0 in pixels."""
        return self.levels[0].dimensions

    @property
    def tile_size(self) -> tuple[int, int]:
        """Stored tile size ``(width, height)`` of level 0 in pixels."""
        return self.levels[0].tile_size

    @property
    @abstractmethod
    def tile_counts(self) -> TileCounts:
        """Stored tiles decoded, reused and unreadable so far."""

    @property
    @abstractmethod
    def unreadable_tiles(self) -> frozenset[tuple[int, int, int]]:
        """Stored tiles found undecodable so far, as ``(level, column, row)``."""

    @abstractmethod
    def _read(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        """Read a region at any position, including partly or wholly outside the level."""

    def _read_into(self, out: NDArray[np.uint8], level: int, x: int, y: int, w: int, h: int) -> Region:
        """Read into the given memory; override in backends that can do so without a copy."""
        region = self._read(level, x, y, w, h)
        out[:] = region.pixels
        return Region(out, region.unreadable)

    @abstractmethod
    def close(self) -> None:
        """Close the file.  Closing twice is allowed."""

    def read(
        self, level: int, x: int, y: int, w: int, h: int, *, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read pixels of one level.

        Parameters
        ----------
        level
            Index into :attr:`levels`.
        x, y
            Top left corner in pixels *of that level* (integers at every level, so that no reader has to
            interpolate); may be negative.
        w, h
            Size in pixels of that level.
        out
            ``(h, w, 3)`` uint8 memory for the result, in any layout.  Reusing memory avoids allocating and clearing
            new pages, which can take as long as decoding.

        Returns
        -------
        numpy.ndarray
            ``(h, w, 3)`` uint8 RGB, ``out`` if given; pixels outside the slide are white (``BACKGROUND``).

        Raises
        ------
        UnreadableTileError
            If a stored tile under the region cannot be decoded.
        UsageError
            If the level does not exist, the size is not positive or ``out`` does not fit.
        ValueError
            If the reader is closed.
        """
        region = self.read_masked(level, x, y, w, h, out=out)
        if region.unreadable:
            bad = region.unreadable[0]
            raise UnreadableTileError(
                f"{len(region.unreadable)} stored tile(s) of level {level} cannot be decoded, the first at "
                f"({bad.x}, {bad.y})",
                where=self.path,
                remedy="Copy the slide again from its source, or rescan it",
            )
        return region.pixels

    def read_masked(
        self, level: int, x: int, y: int, w: int, h: int, *, out: NDArray[np.uint8] | None = None
    ) -> Region:
        """Read like :meth:`read`, but return unreadable tiles as white with their rectangles instead of raising."""
        if not 0 <= level < len(self.levels):
            raise UsageError(
                f"level {level} does not exist; the slide has levels 0 to {len(self.levels) - 1}", where=self.path
            )
        if w <= 0 or h <= 0:
            raise UsageError(f"a region of {w} x {h} pixels has no area", where=self.path)
        if out is None:
            return self._read(level, x, y, w, h)
        self._check_memory(out, w, h)
        return self._read_into(out, level, x, y, w, h)

    def _check_memory(self, out: NDArray[np.uint8], w: int, h: int) -> None:
        if out.shape != (h, w, 3) or out.dtype != np.uint8 or not out.flags.writeable:
            raise UsageError(
                f"out must be writeable, {(h, w, 3)} and uint8; it is {out.shape} and {out.dtype}", where=self.path
            )

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
        """Read a region downsampled by an integer factor.

        Reduced pixel ``(i, j)`` covers level pixels ``[i * reduction, (i + 1) * reduction)`` horizontally and
        likewise vertically.  This default reads them and takes their exact mean (rounded to nearest); a backend may
        decode at a reduced size instead if it stays within its documented error bound.

        Parameters
        ----------
        level
            Index into :attr:`levels`.
        reduction
            Level pixels per returned pixel along each axis, >= 1.
        x, y, w, h
            The region in reduced pixels; white where it extends beyond the slide boundary.
        overlap
            Overlap of neighbouring reads with this one, in reduced pixels: a backend with a tile cache keeps the
            tiles they share.
        out
            ``(h, w, 3)`` uint8 memory for the result, as for :meth:`read`.

        Returns
        -------
        Region
            ``(h, w, 3)`` uint8; unreadable rectangles in reduced pixels.

        Raises
        ------
        UsageError
            As :meth:`read`, or if ``reduction`` is below 1.
        """
        del overlap  # only used by readers with a tile cache
        if reduction < 1:
            raise UsageError(f"reduction must be an integer of at least 1, not {reduction}", where=self.path)
        if reduction == 1:
            return self.read_masked(level, x, y, w, h, out=out)
        if w <= 0 or h <= 0:
            raise UsageError(f"a region of {w} x {h} pixels has no area", where=self.path)
        if out is not None:
            self._check_memory(out, w, h)
        pixels = np.empty((h, w, 3), np.uint8) if out is None else out
        unreadable: list[Rect] = []
        rows = max(1, _STRIP_PIXELS // (w * reduction * reduction))
        for top in range(0, h, rows):
            height = min(rows, h - top)
            strip = self.read_masked(level, x * reduction, (y + top) * reduction, w * reduction, height * reduction)
            pixels[top : top + height] = cv2.resize(strip.pixels, (w, height), interpolation=cv2.INTER_AREA)
            for bad in strip.unreadable:
                left, upper = bad.x // reduction, bad.y // reduction
                right, lower = -(-(bad.x + bad.width) // reduction), -(-(bad.y + bad.height) // reduction)
                unreadable.append(Rect(left, top + upper, right - left, lower - upper))
        return Region(pixels, tuple(unreadable))

    def read_windows(
        self,
        level: int,
        reduction: int,
        corners: NDArray[np.integer],
        out: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        *,
        overlap: int = 0,
    ) -> NDArray[np.bool_]:
        """Read many regions of one size, which may overlap, into the given memory.

        Parameters
        ----------
        level, reduction
            As for :meth:`read_reduced`.
        corners
            ``(n, 2)`` top left corners ``(x, y)`` in reduced pixels; ``n`` >= 1.
        out
            ``n`` times ``(h, w, 3)`` uint8 memory, as for :meth:`read`: one array or separate ones.
        overlap
            Overlap of other reads with the bounding box of these regions, in reduced pixels.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` bool: false where a stored tile under the region cannot be decoded; such tiles are white.

        Raises
        ------
        UsageError
            As :meth:`read_reduced`.
        """
        height, width = out[0].shape[:2]
        (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        # Their bounding box is read once: for most readers that is faster than many small regions.
        span = (left, top, right - left + width, bottom - top + height)
        region = self.read_reduced(level, reduction, *span, overlap=overlap)
        x, y = corners[:, 0] - left, corners[:, 1] - top
        for place, column, row in zip(out, x.tolist(), y.tolist(), strict=True):
            self._check_memory(place, width, height)
            place[:] = region.pixels[row : row + height, column : column + width]
        readable = np.ones(len(corners), np.bool_)
        for bad in region.unreadable:
            readable &= ~bad.touches(x, y, width, height)
        return readable

    def best_level(self, downsample: float) -> int:
        """Return the coarsest level at or above a resolution.

        Parameters
        ----------
        downsample
            Wanted level-0 pixels per output pixel, >= 1.

        Returns
        -------
        int
            Index of the level with the largest downsample not above ``downsample`` (by more than 1 %, since
            stored levels are rounded to whole pixels); 0 when all are coarser.
        """
        fitting = [i for i, level in enumerate(self.levels) if level.downsample <= downsample * 1.01]
        return max(fitting, key=lambda i: self.levels[i].downsample, default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

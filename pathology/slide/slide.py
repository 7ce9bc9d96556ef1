"""The user-facing slide: images at any scale, whatever levels the file stores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pathology import formatting
from pathology.errors import PathologyError, UnreadableTileError, UsageError
from pathology.notebook import PICTURE_SIDE, html_summary
from pathology.settings import TissueSettings
from pathology.slide.open import Backend, open_reader
from pathology.slide.readers.base import Level, Rect, SlideReader
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES
from pathology.slide.resample import choose_scaling, read_scaled
from pathology.slide.scale import Scale, resolve_mpp
from pathology.slide.thumbnail import thumbnail
from pathology.slide.tissue.detect import TissueMask, find_tissue, mask_mpp

__all__ = ["Slide", "open_slide"]

logger = logging.getLogger(__name__)

_MOST_PIXELS_SHOWN = 100_000_000
"""Pixels read for the notebook preview (a second or two).  Slides that store only their finest level exceed it."""


def open_slide(
    path: str | PathLike[str],
    *,
    mpp: float | None = None,
    backend: Backend | None = None,
    threads: int = 1,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Slide:
    """Open a slide of any format.

    Parameters
    ----------
    path
        A slide file, any instance of a DICOM series (which opens the whole series), or a folder that holds one
        DICOM series.
    mpp
        Micrometres per level-0 pixel, if the file does not state it or states it wrongly.
    backend
        ``tiff``, ``openslide``, ``dicom`` or ``image``; ``None`` chooses by the file's content.
    threads
        Threads that decode the tiles of one read.
    cache_bytes
        Size of the cache of decoded tiles, in bytes.

    Returns
    -------
    Slide
        Close it, or use it in a ``with`` statement.

    Raises
    ------
    SlideNotFoundError
        If the file does not exist.
    CorruptSlideError
        If the file is empty, damaged or truncated.
    NotBrightfieldError
        If it is not an 8-bit RGB image.
    UnsupportedSlideError
        If it is not a slide, or its format is not supported.
    UsageError
        If the backend is unknown, or ``mpp`` is not a plausible scale.

    Examples
    --------
    >>> slide = open_slide(slide_path)
    >>> slide
    Slide('slide.svs': 1024 x 768 px, 0.5 µm/px, 2 levels, tiff)
    >>> slide.thumbnail(max_size=256).shape
    (192, 256, 3)
    >>> slide.close()
    """
    reader = open_reader(path, backend=backend, threads=threads, cache_bytes=cache_bytes)
    try:
        return Slide(reader, mpp=mpp)
    except UsageError:
        reader.close()
        raise


class Slide:
    """An open slide.

    Any number of threads may read from it at once.

    Parameters
    ----------
    reader
        The reader of its stored levels; closed with the slide.
    mpp
        Micrometres per level-0 pixel; ``None``: as stated in the file.

    Raises
    ------
    UsageError
        If ``mpp`` is not a plausible scale.

    Examples
    --------
    >>> with open_slide(slide_path) as slide:
    ...     cells = slide.read_region(100, 200, 64, 48, mpp=1.0)
    ...     tissue = slide.tissue()
    >>> cells.shape
    (48, 64, 3)
    >>> tissue.area_mm2 > 0
    True
    """

    def __init__(self, reader: SlideReader, *, mpp: float | None = None) -> None:
        self.reader = reader
        self._given = mpp
        if mpp is not None:
            resolve_mpp(reader, option=mpp)

    @property
    def path(self) -> Path:
        """The file or, for a DICOM series, the folder it was opened from."""
        return self.reader.path

    @property
    def dimensions(self) -> tuple[int, int]:
        """``(width, height)`` of level 0 in pixels."""
        return self.reader.dimensions

    @property
    def levels(self) -> tuple[Level, ...]:
        """Stored levels, from the finest to the coarsest."""
        return self.reader.levels

    @property
    def backend(self) -> str:
        """Name of the reader: ``tiff``, ``openslide``, ``dicom`` or ``image``."""
        return self.reader.backend

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when the pixels change."""
        return self.reader.fingerprint

    @property
    def properties(self) -> Mapping[str, str]:
        """Technical properties as stated in the file; never patient or label data."""
        return self.reader.properties

    @property
    def mpp(self) -> float | None:
        """Micrometres per level-0 pixel, as given or as stated in the file; ``None`` if unknown."""
        return self.reader.mpp if self._given is None else self._given

    @cached_property
    def scale(self) -> Scale:
        """Micrometres per level-0 pixel and its source; estimated from the objective power if necessary.

        Raises
        ------
        MissingScaleError
            If the scale is unknown: pass ``mpp`` to :func:`open_slide`.
        ImplausibleScaleError
            If the file's value is not plausible.
        """
        scale = resolve_mpp(self.reader, option=self._given)
        if scale.warning:
            logger.warning("%s: %s", self.path.name, scale.warning)
        return scale

    def thumbnail(self, max_size: int | None = None, *, mpp: float | None = None) -> NDArray[np.uint8]:
        """Return the whole slide at a coarse scale; every pixel is the exact mean of the area it covers.

        Tiles that cannot be decoded are white, and a warning is logged.

        Parameters
        ----------
        max_size
            Longer side in pixels; 1024 if ``mpp`` is not given either.  Smaller slides are not upsampled.
        mpp
            Target scale in µm per pixel, instead of ``max_size``.

        Returns
        -------
        numpy.ndarray
            ``(H, W, 3)`` uint8 RGB.

        Raises
        ------
        UsageError
            If both are given, or one is not positive.
        MissingScaleError, ImplausibleScaleError
            If ``mpp`` is given and the slide's own scale is not known.

        Examples
        --------
        >>> with open_slide(slide_path) as slide:
        ...     slide.thumbnail(max_size=128).shape, slide.thumbnail(mpp=8).shape
        ((96, 128, 3), (48, 64, 3))
        """
        if mpp is not None:
            if max_size is not None:
                raise UsageError("give either max_size or mpp, not both", where=self.path)
            found = thumbnail(self.reader, self.scale.mpp, mpp)
        else:
            longest = 1024 if max_size is None else max_size
            if longest < 1:
                raise UsageError(f"max_size is {longest}; it must be at least 1 pixel", where=self.path)
            found = thumbnail(self.reader, 1.0, max(1.0, max(self.dimensions) / longest))
        if found.unreadable:
            logger.warning("%s: %d stored tiles cannot be decoded", self.path.name, len(found.unreadable))
        return found.pixels

    def read_region(self, x: int, y: int, w: int, h: int, *, mpp: float | None = None) -> NDArray[np.uint8]:
        """Read a region at any scale, anti-aliased.

        The pixels equal those of patches at this scale: ``read_region(*store.coords[i], patch, patch,
        mpp=mpp)`` is patch ``i`` of a store without stain normalisation.

        Parameters
        ----------
        x, y
            Top left corner in level-0 pixels.
        w, h
            Size of the result in pixels.
        mpp
            Target scale in µm per pixel; ``None``: level-0 pixels as they are.

        Returns
        -------
        numpy.ndarray
            ``(h, w, 3)`` uint8 RGB; white outside the slide.

        Raises
        ------
        UsageError
            If the size or ``mpp`` is not positive.
        UnreadableTileError
            If a stored tile under the region cannot be decoded.
        MissingScaleError, ImplausibleScaleError
            If ``mpp`` is given and the slide's own scale is not known.

        Examples
        --------
        >>> with open_slide(slide_path) as slide:
        ...     slide.read_region(100, 200, 32, 16, mpp=2.0).shape
        (16, 32, 3)
        """
        x, y = int(x), int(y)  # NumPy integers could overflow below
        if mpp is None:
            return self.reader.read(0, x, y, w, h)
        if mpp <= 0:
            raise UsageError(f"mpp is {mpp:g}; it must be above 0 µm per pixel", where=self.path)
        if w <= 0 or h <= 0:
            raise UsageError(f"a region of {w} x {h} pixels has no area", where=self.path)
        ratio = mpp / self.scale.mpp
        (column, across), (row, down) = _place(x, ratio), _place(y, ratio)
        target = Rect(column, row, w, h)
        region = read_scaled(self.reader, choose_scaling(self.reader, ratio), target, shift=(across, down))
        if region.unreadable:
            bad = region.unreadable[0]
            raise UnreadableTileError(
                f"{len(region.unreadable)} stored tile(s) under the region cannot be decoded, the first at pixel "
                f"({bad.x}, {bad.y}) of the region",
                where=self.path,
                remedy="Copy the slide again from its source, or rescan it",
            )
        return region.pixels

    def tissue(self, settings: TissueSettings | None = None) -> TissueMask:
        """Find the tissue, as scoring does.

        Parameters
        ----------
        settings
            How tissue is told from glass; ``None``: the defaults.

        Raises
        ------
        MissingScaleError, ImplausibleScaleError
            If the slide's scale is not known.

        Examples
        --------
        >>> with open_slide(slide_path) as slide:
        ...     slide.tissue().mask.shape
        (48, 64)
        """
        settings = settings or TissueSettings()
        mpp = self.scale.mpp
        overview = thumbnail(self.reader, mpp, mask_mpp(self.dimensions, mpp, settings))
        return find_tissue(overview.pixels, overview.mpp, settings, overview.unreadable_mask(self.dimensions))

    def close(self) -> None:
        """Close the file.  Closing twice is allowed."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.dimensions
        levels = "1 level" if len(self.levels) == 1 else f"{len(self.levels)} levels"
        size = "scale not known" if self.mpp is None else formatting.scale(self.mpp)
        return f"Slide({self.path.name!r}: {width} x {height} px, {size}, {levels}, {self.backend})"

    def _repr_html_(self) -> str:
        """Show the slide in a notebook; without a thumbnail if it is closed or stores no small level."""
        width, height = self.dimensions
        facts = {
            "Size": f"{width} × {height} px"
            + ("" if self.mpp is None else f", {formatting.extent(width, height, self.mpp)}"),
            "Scale": formatting.scale(self.mpp),
            "Levels": ", ".join(f"{level.width} × {level.height}" for level in self.levels),
            "Reader": self.backend,
        }
        picture = None
        read = self.levels[self.reader.best_level(max(1.0, max(width, height) / PICTURE_SIDE))]
        if read.width * read.height <= _MOST_PIXELS_SHOWN:
            try:
                picture = self.thumbnail(max_size=PICTURE_SIDE)
            except (OSError, PathologyError, ValueError) as error:
                facts["Picture"] = f"none: {error}"
        return html_summary(self.path.name, facts, picture)


def _place(position: int, ratio: float) -> tuple[int, float]:
    """Return the whole target pixel nearest to a level-0 position, and the position's offset from it.

    Patch positions are rounded to level-0 pixels, so offsets within half a level-0 pixel are taken as 0.
    """
    exact = position / ratio
    nearest = round(exact)
    rest = exact - nearest
    return nearest, 0.0 if abs(rest * ratio) <= 0.5 else rest

"""Readers that other packages add, contained: whatever they raise or however long they take, one slide is affected.

A package registers a class under the entry point group ``pathology.slide_readers``.  The class derives from
:class:`SlideSource`, which asks for little; :class:`OutsideReader` makes a full reader of it, checks what it returns
and gives each call a limited time.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, UnsupportedSlideError
from pathology.slide.readers.base import BACKGROUND, Level, Rect, Region, SlideReader, TileCounts
from pathology.slide.readers.fingerprint import file_fingerprint

__all__ = ["GROUP", "Outside", "OutsideReader", "SlideSource", "outside_readers"]

logger = logging.getLogger(__name__)

GROUP: Final = "pathology.slide_readers"
"""Entry point group under which packages register a :class:`SlideSource`."""
_TILE: Final = (256, 256)
"""Tile size stated for formats whose own is not known."""
_LARGEST: Final = 2**31 - 1

T = TypeVar("T")


class SlideSource(ABC):
    """What a package must write to add a format: a class made from the path of a slide, and refusing what it is not.

    Its constructor takes the path and raises any exception for a file that it cannot read.  Methods are never called by
    two threads at once.

    Attributes
    ----------
    suffixes : tuple of str
        Suffixes of the files it reads, such as ``.abc``.
    seconds : float
        How long opening, or one region, may take at most.
    sizes : sequence of (int, int)
        Width and height of each level in pixels, from the finest.
    mpp : float or None
        Micrometres per pixel of the finest level, as the file states it; never guessed.
    objective_power : float or None
        Objective magnification, as the file states it.
    vendor : str or None
        Scanner vendor or format.
    """

    suffixes: ClassVar[tuple[str, ...]]
    seconds: ClassVar[float] = 120.0
    sizes: Sequence[tuple[int, int]]
    mpp: float | None = None
    objective_power: float | None = None
    vendor: str | None = None

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Open a slide."""

    @abstractmethod
    def region(self, level: int, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 RGB of a region that lies within the level; raise if it cannot be read."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close the file."""


@dataclass(frozen=True)
class Outside:
    """A reader that another package has registered.

    Attributes
    ----------
    name
        Name of the entry point.
    package
        Package and version.
    kind
        The class; ``None`` if it cannot be used.
    problem
        Why it cannot be used.
    """

    name: str
    package: str
    kind: type[SlideSource] | None = None
    problem: str = ""

    @property
    def suffixes(self) -> frozenset[str]:
        """Suffixes of its files, in lower case."""
        return frozenset() if self.kind is None else frozenset(suffix.lower() for suffix in self.kind.suffixes)


@cache
def outside_readers() -> tuple[Outside, ...]:
    """Return the readers that installed packages add, by name; one that cannot be imported with its reason.

    Examples
    --------
    >>> [reader.name for reader in outside_readers()]
    []
    """
    return tuple(
        _loaded(point.name, f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package", point.load)
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)
    )


def _loaded(name: str, package: str, load: Callable[[], object]) -> Outside:
    try:
        kind = load()
        if not (isinstance(kind, type) and issubclass(kind, SlideSource)):
            return Outside(name, package, problem="it is no SlideSource")
        suffixes: Any = kind.suffixes
        if isinstance(suffixes, str) or not all(str(suffix).startswith(".") for suffix in suffixes):
            return Outside(name, package, problem="its suffixes are not a tuple of texts such as '.abc'")
    except Exception as error:
        logger.warning("the slide reader %s of %s cannot be used: %s", name, package, error)
        return Outside(name, package, problem=f"{type(error).__name__}: {error}")
    return Outside(name, package, kind)


class OutsideReader(SlideReader):
    """A slide read by another package's :class:`SlideSource`.

    Parameters
    ----------
    path
        The slide file.
    outside
        The package's reader.

    Raises
    ------
    UnsupportedSlideError
        If it raises for this file, takes too long, or states levels that make no pyramid.
    """

    backend = "outside"

    def __init__(self, path: Path, outside: Outside) -> None:
        assert outside.kind is not None
        self.path = path
        self._said_by = f"the reader {outside.name} of {outside.package}"
        self._seconds = outside.kind.seconds
        self._one_at_a_time = threading.Lock()
        self._stuck = self._closed = False
        self._unreadable: set[tuple[int, int, int]] = set()
        self._decoded = 0
        kind = outside.kind
        try:
            self._source = self._limited(lambda: kind(path), "opening")
            self.levels = _levels(self._source.sizes)
            self.mpp = _positive(self._source.mpp)
            self.objective_power = _positive(self._source.objective_power)
        except CorruptSlideError as error:
            raise UnsupportedSlideError(error.what, where=path) from error
        except Exception as error:
            raise UnsupportedSlideError(f"{self._said_by} cannot open it ({error})", where=path) from error
        self.vendor = self._source.vendor
        self.fingerprint = file_fingerprint([path], outside.name)
        self.properties = MappingProxyType({"reader": f"{outside.name}, {outside.package}"})
        self.warnings = (f"read by {outside.name} of {outside.package}, which is not part of this program",)

    @property
    def tile_counts(self) -> TileCounts:
        """Regions read so far, and tiles of 256 px that could not be."""
        return TileCounts(self._decoded, 0, len(self._unreadable))

    @property
    def unreadable_tiles(self) -> frozenset[tuple[int, int, int]]:
        """Tiles of 256 px that could not be read so far."""
        return frozenset(self._unreadable)

    def close(self) -> None:
        """Close the file."""
        if self._closed:
            return
        self._closed = True
        if not self._stuck:
            try:
                self._limited(self._source.close, "closing")
            except Exception as error:
                logger.warning("%s: %s failed when closing: %s", self.path.name, self._said_by, error)

    def _read(self, level: int, x: int, y: int, w: int, h: int) -> Region:
        if self._closed:
            raise ValueError(f"the reader of {self.path} is closed")
        pixels = np.full((h, w, 3), BACKGROUND, np.uint8)
        width, height = self.levels[level].dimensions
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if left >= right or top >= bottom:
            return Region(pixels)
        size = (right - left, bottom - top)
        try:
            found = self._limited(lambda: self._source.region(level, left, top, *size), "a region")
            inside = np.asarray(found)
            if inside.shape != (size[1], size[0], 3) or inside.dtype != np.uint8:
                raise TypeError(f"a region of {inside.shape} and {inside.dtype}, not {(size[1], size[0], 3)} and uint8")
        except CorruptSlideError:
            raise  # it is stuck, and every further region would take as long
        except Exception as error:
            logger.info("%s: %s: %s", self.path.name, self._said_by, error)
            self._unreadable |= {
                (level, column, row)
                for row in range(top // _TILE[1], (bottom - 1) // _TILE[1] + 1)
                for column in range(left // _TILE[0], (right - 1) // _TILE[0] + 1)
            }
            return Region(pixels, (Rect(left - x, top - y, *size),))
        self._decoded += 1
        pixels[top - y : bottom - y, left - x : right - x] = inside
        return Region(pixels)

    def _limited(self, call: Callable[[], T], what: str) -> T:
        """Return what a call returns, or raise what it raises, or an error if it takes too long."""
        results: list[T] = []
        errors: list[Exception] = []

        def run() -> None:
            try:
                results.append(call())
            except Exception as error:
                errors.append(error)

        too_long = CorruptSlideError(
            f"{what} took {self._said_by} more than {self._seconds:g} s",
            where=self.path,
            remedy="Update that package, or convert the slide",
        )
        if self._stuck or not self._one_at_a_time.acquire(timeout=self._seconds):
            raise too_long
        try:
            thread = threading.Thread(target=run, name="outside reader", daemon=True)
            thread.start()
            thread.join(self._seconds)
            if thread.is_alive():
                self._stuck = True
                raise too_long
        finally:
            self._one_at_a_time.release()
        if errors:
            raise errors[0]
        return results[0]


def _levels(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    whole = [(int(width), int(height)) for width, height in sizes]
    if not whole or any(not 1 <= side <= _LARGEST for size in whole for side in size):
        raise ValueError(f"levels of {whole} pixels")
    if any(a < b for (a, _), (b, _) in pairwise(whole)):
        raise ValueError("levels are not given from the finest")
    return tuple(
        Level(width, height, (whole[0][0] / width + whole[0][1] / height) / 2, _TILE) for width, height in whole
    )


def _positive(value: float | None) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{value!r} is no positive number")
    return number

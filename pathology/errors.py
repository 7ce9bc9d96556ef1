"""What can go wrong, as one small tree.

Every error carries three things a person needs: *what* is wrong, *where* (a path, a column, a row) and
*what to do*.  Each class also derives from the built-in exception a caller would already be catching, so
``except OSError`` keeps working for code that has never heard of this package.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import ClassVar

__all__ = [
    "BundleError",
    "CorruptSlideError",
    "ImplausibleScaleError",
    "InputTableError",
    "LeakageError",
    "MissingDependencyError",
    "MissingScaleError",
    "NoTissueError",
    "NotBrightfieldError",
    "OutputError",
    "PathologyError",
    "SlideError",
    "SlideNotFoundError",
    "StoreError",
    "UnknownArchitectureError",
    "UnknownModelError",
    "UnreadableTileError",
    "UnsafeWeightsError",
    "UnsupportedSlideError",
    "UsageError",
    "WeightsHashError",
]


class PathologyError(Exception):
    """Root of every error raised on purpose by this package.

    Parameters
    ----------
    what
        What is wrong, in words a pathologist understands, without a trailing full stop.
    where
        The file, folder, row or column concerned.
    remedy
        What the reader can do about it.

    Attributes
    ----------
    exit_status : int
        The command line's exit status when this error ends a command: 2 for wrong usage or an unusable
        model, 1 for a slide that failed.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else fspath(where)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line: ``where: what. remedy.``."""
        prefix = f"{self.where}: " if self.where else ""
        suffix = f". {self.remedy.rstrip('.')}." if self.remedy else ""
        return f"{prefix}{self.what}{suffix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Dask workers); the default reduction would lose the keywords.
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def _rebuild(kind: type[PathologyError], what: str, where: str | None, remedy: str | None) -> PathologyError:
    return kind(what, where=where, remedy=remedy)


class UsageError(PathologyError, ValueError):
    """The request itself cannot be carried out: a wrong option, an empty selection, a bad value."""


class InputTableError(UsageError):
    """A manifest, label or clinical table has a missing column, a duplicate or a value out of range."""


class LeakageError(UsageError):
    """The same patient, slide or content stands on both sides of a split, so a test would flatter the model."""


class MissingDependencyError(PathologyError, ImportError):
    """An optional library is needed for this and is not installed."""


class OutputError(PathologyError, OSError):
    """Results cannot be written: no permission, no space, a file where a folder should be."""


class StoreError(PathologyError, ValueError):
    """A patch store or results folder is not what its metadata says."""


class SlideError(PathologyError):
    """One slide cannot be used; the rest of the batch goes on."""

    exit_status = 1


class UnsupportedSlideError(SlideError, ValueError):
    """The file is intact as far as can be told, but is no brightfield RGB slide this package reads."""


class NotBrightfieldError(UnsupportedSlideError):
    """The picture is no RGB brightfield picture: fluorescence, a mask, 16-bit data; no reader will take it."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """There is no file of this name."""


class CorruptSlideError(SlideError, OSError):
    """The file is empty, truncated or damaged."""


class UnreadableTileError(SlideError, OSError):
    """A stored tile cannot be decoded, although the slide opens."""


class MissingScaleError(SlideError, ValueError):
    """The slide does not say how large a pixel is, and nobody else did."""


class ImplausibleScaleError(SlideError, ValueError):
    """The slide states a pixel size that no slide scanner produces."""


class NoTissueError(SlideError, ValueError):
    """No tissue was found, so there is nothing to score."""


class BundleError(PathologyError, ValueError):
    """A model bundle is incomplete or its card does not validate."""


class UnknownModelError(BundleError, LookupError):
    """No bundle has this name."""


class UnknownArchitectureError(BundleError):
    """The card names a network that this version does not have."""


class WeightsHashError(BundleError):
    """The weights are not the ones the card was written for."""


class UnsafeWeightsError(BundleError):
    """The weights are in a format that can run code when loaded (pickle)."""

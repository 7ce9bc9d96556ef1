"""The package's exceptions, as one small hierarchy.

Every error says *what* is wrong, *where* (a path, a column, a row) and *how to fix it*.  Each class also derives from
the matching built-in exception, so that ``except OSError`` works in code that does not know this package.
"""

from __future__ import annotations

from os import PathLike
from typing import ClassVar

from pathology.path_text import path_text, valid_text

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
    "UnusableDeviceError",
    "UsageError",
    "WeightsHashError",
]


class PathologyError(Exception):
    """Base class of every error that this package raises.

    Parameters
    ----------
    what
        What is wrong, in terms a pathologist understands, without a full stop at the end.
    where
        The file, folder, row or column concerned.
    remedy
        What the user can do about it.

    Attributes
    ----------
    exit_status : int
        The command line's exit status when this error ends a command: 2 for wrong usage or an unusable
        model, 1 for a slide that failed.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, what: str, *, where: str | PathLike[str] | None = None, remedy: str | None = None) -> None:
        self.what = valid_text(what)
        self.where = None if where is None else path_text(where)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        """One line: ``where: what. remedy.``."""
        prefix = f"{self.where}: " if self.where else ""
        suffix = f". {self.remedy.rstrip('.')}." if self.remedy else ""
        return f"{prefix}{self.what}{suffix}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors are pickled between processes (Dask workers); the default reduction would lose the keywords.
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def _rebuild(kind: type[PathologyError], what: str, where: str | None, remedy: str | None) -> PathologyError:
    return kind(what, where=where, remedy=remedy)


class UsageError(PathologyError, ValueError):
    """The request is invalid: a wrong option, an empty selection, a bad value."""


class InputTableError(UsageError):
    """A manifest, label or clinical table has a missing column, a duplicate or a value out of range."""


class LeakageError(UsageError):
    """The same patient, slide or content is on both sides of a split, which would inflate test results."""


class MissingDependencyError(PathologyError, ImportError):
    """A required optional library is not installed."""


class UnusableDeviceError(UsageError):
    """The requested device or engine cannot be used on this machine."""


class OutputError(PathologyError, OSError):
    """Results cannot be written: no permission, no space, a file where a folder should be."""


class StoreError(PathologyError, ValueError):
    """A patch store or results folder does not match its metadata."""


class SlideError(PathologyError):
    """One slide cannot be used; the rest of the batch continues."""

    exit_status = 1


class UnsupportedSlideError(SlideError, ValueError):
    """The file appears intact but is not a brightfield RGB slide in a supported format."""


class NotBrightfieldError(UnsupportedSlideError):
    """The image is not brightfield RGB (fluorescence, a mask, 16-bit data), so no reader supports it."""


class SlideNotFoundError(SlideError, FileNotFoundError):
    """No file with this name exists."""


class CorruptSlideError(SlideError, OSError):
    """The file is empty, truncated or damaged."""


class UnreadableTileError(SlideError, OSError):
    """A stored tile cannot be decoded, although the slide opens."""


class MissingScaleError(SlideError, ValueError):
    """The slide does not state its pixel size, and none was given."""


class ImplausibleScaleError(SlideError, ValueError):
    """The slide states a pixel size that no slide scanner produces."""


class NoTissueError(SlideError, ValueError):
    """No tissue was detected, so there is nothing to score."""


class BundleError(PathologyError, ValueError):
    """A model bundle is incomplete or its card is invalid."""


class UnknownModelError(BundleError, LookupError):
    """No bundle has this name."""


class UnknownArchitectureError(BundleError):
    """The card names a network architecture that this version does not support."""


class WeightsHashError(BundleError):
    """The weights do not match the hash on the card."""


class UnsafeWeightsError(BundleError):
    """The weights are in a format that can execute code when loaded (pickle)."""

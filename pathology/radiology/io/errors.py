"""Errors of imaging studies.

Like every error of the package, these state what is wrong, where, and the remedy.  A failed study does not
stop the others, hence the exit status 1.
"""

from __future__ import annotations

from pathology.errors import PathologyError

__all__ = [
    "EmptyMaskError",
    "GeometryError",
    "MissingDoseError",
    "MissingSliceError",
    "MixedSeriesError",
    "StudyError",
]


class StudyError(PathologyError, ValueError):
    """An imaging study cannot be used as it is."""

    exit_status = 1


class GeometryError(StudyError):
    """Orientation, spacing or extent are inconsistent, within one series or between an image and its mask."""


class MissingSliceError(GeometryError):
    """Slices are missing from a series, so distances and volumes would be wrong."""


class MixedSeriesError(StudyError):
    """A folder holds several series, or a series several images of the same place."""


class EmptyMaskError(StudyError):
    """A mask is empty."""


class MissingDoseError(StudyError):
    """A PET series lacks the data for standardised uptake values."""

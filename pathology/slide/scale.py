"""The physical pixel size of a slide; never guessed silently.

The scale determines what a network sees, so each result states its source, and an implausible scale is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pathology.errors import ImplausibleScaleError, MissingScaleError, UsageError
from pathology.slide.readers.base import SlideReader

__all__ = ["COARSEST_MPP", "FINEST_MPP", "Scale", "resolve_mpp"]

FINEST_MPP: Final = 0.05
"""Finest plausible scale, in µm per pixel: half a 100x scanner's 0.1.  Light microscopes resolve about 0.2 µm."""
COARSEST_MPP: Final = 20.0
"""Coarsest plausible scale of a slide's finest level, in µm per pixel: a nucleus is smaller than a pixel at 10."""
_OBJECTIVE_CONSTANT: Final = 10.0
"""µm per pixel times magnification: scanners record 0.25 µm per pixel at 40x and 0.5 at 20x."""

_REMEDY: Final = "Give the scale in µm per pixel with --mpp, or in a manifest column named mpp"


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of a slide's level 0.

    Attributes
    ----------
    mpp
        Micrometres per pixel.
    source
        Source: the ``--mpp`` option, the manifest, the file, or an estimate from the objective power.
    warning
        Caveat to report with the results, or ``None``.
    """

    mpp: float
    source: Literal["option", "manifest", "file", "objective power"]
    warning: str | None = None


def resolve_mpp(reader: SlideReader, *, option: float | None = None, manifest: float | None = None) -> Scale:
    """Determine the scale of level 0.

    In order of precedence: the option, the manifest, the file, the objective power (10 µm per pixel divided by the
    magnification, with a warning).

    Parameters
    ----------
    reader
        The slide.
    option
        Micrometres per pixel given on the command line or as an argument, for every slide.
    manifest
        Micrometres per pixel given for this slide in the manifest.

    Returns
    -------
    Scale
        The scale, its source, and a warning if it was estimated or contradicts the file.

    Raises
    ------
    UsageError
        If a value given by the user is not plausible.
    ImplausibleScaleError
        If the file's value is not plausible and no other is given.
    MissingScaleError
        If the scale is unknown.
    """
    stated = reader.mpp
    given: tuple[tuple[float | None, Literal["option", "manifest"], str], ...] = (
        (option, "option", "--mpp"),
        (manifest, "manifest", "the manifest"),
    )
    for value, source, name in given:
        if value is None:
            continue
        if not FINEST_MPP <= value <= COARSEST_MPP:
            raise UsageError(
                f"{name} gives {value:g} µm per pixel; slides have between {FINEST_MPP:g} and {COARSEST_MPP:g}",
                where=reader.path,
            )
        warning = None
        if stated is not None and abs(value / stated - 1) > 0.1:
            warning = f"{name} gives {value:g} µm per pixel, the file {stated:.3g}; {name} was used"
        return Scale(value, source, warning)
    if stated is not None:
        if COARSEST_MPP < stated <= 5 * COARSEST_MPP:
            raise ImplausibleScaleError(
                f"the finest image in the file has {stated:.3g} µm per pixel, too coarse to see cells",
                where=reader.path,
                remedy="The finer levels of this slide seem to be missing, or the file is wrong: then "
                + _REMEDY[0].lower()
                + _REMEDY[1:],
            )
        if not FINEST_MPP <= stated <= COARSEST_MPP:
            raise ImplausibleScaleError(
                f"the file states {stated:.3g} µm per pixel, which no slide scanner produces ({FINEST_MPP:g} to "
                f"{COARSEST_MPP:g}){_likely_mistake(stated)}",
                where=reader.path,
                remedy=_REMEDY,
            )
        return Scale(stated, "file")
    power = reader.objective_power
    if power is not None:
        estimate = _OBJECTIVE_CONSTANT / power
        if FINEST_MPP <= estimate <= COARSEST_MPP:
            return Scale(
                estimate,
                "objective power",
                f"the file does not state its scale; {estimate:g} µm per pixel is an estimate from the {power:g}x "
                "objective",
            )
    raise MissingScaleError("the file does not state its pixel size", where=reader.path, remedy=_REMEDY)


def _likely_mistake(stated: float) -> str:
    """Name the mistake that would explain an implausible value."""
    dots = 25_400 / stated
    if 30 < dots < 1300 and abs(dots - round(dots)) < 0.01:
        return f"; it is a screen or printer resolution ({dots:.0f} dots per inch)"
    for factor, slip in (
        (100, "pixels per metre may have been written instead of pixels per cm"),
        (1000, "the value may be in mm instead of µm"),
        (0.001, "the value may be in nm instead of µm"),
    ):
        if 0.1 <= stated * factor <= 2:
            return f"; if {stated * factor:.3g} is meant, {slip}"
    return ""

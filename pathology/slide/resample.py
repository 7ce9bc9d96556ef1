"""Pixels at any scale from a stored level: anti-aliased, and independent of where a block begins.

Bringing a level to the target scale by a factor ``f`` (level pixels per target pixel) takes two steps:

1. an exact average over ``r x r`` level pixels, ``r`` being the integer part of ``f``, on a lattice anchored at the
   slide's corner;
2. the rest, ``f / r`` (0.98 to 2), by bilinear interpolation at absolute positions, after a Gaussian whose
   sigma is ``(f / r - 1) / 2`` (the rule of ``skimage.transform.resize``) if it still downsamples.

Both steps use absolute coordinates, so a patch is the same whichever block it is read with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.slide.readers.base import Rect, Region, SlideReader

# Blocks are read in our own threads; OpenCV's would only compete with them (measured: 19 cores busy for the work
# of 8).  The results do not depend on this.
cv2.setNumThreads(1)

__all__ = ["Canvas", "Scaling", "choose_scaling", "footprint", "read_scaled"]

_MARGIN = 4
"""Reduced pixels read beyond a region on each side: the Gaussian's radius plus one for the interpolation."""

_NEARLY = 1.02
"""Relative tolerance below an integer at which a factor is rounded up: the second step then upsamples by at most 2 %,
which is cheaper and sharper than downsampling by almost 2."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a target scale is reached.

    Attributes
    ----------
    level
        Stored level to read.
    reduction
        Integer averaging factor of the first step.
    rest
        Factor of the second step, in reduced pixels per target pixel.
    """

    level: int
    reduction: int
    rest: float


def choose_scaling(reader: SlideReader, scale: float) -> Scaling:
    """Choose the cheapest way to reach a scale without losing detail.

    Parameters
    ----------
    reader
        The slide.
    scale
        Level-0 pixels per target pixel; below 1, level 0 is upsampled.
    """
    level = reader.best_level(max(scale, 1.0))
    factor = scale / reader.levels[level].downsample
    reduction = max(1, math.floor(factor * _NEARLY))
    rest = factor / reduction
    # Stored levels are rounded to whole pixels, so a remainder this close to 1 over a whole slide is rounding too.
    return Scaling(level, reduction, 1.0 if math.isclose(rest, 1.0, rel_tol=1e-6) else rest)


def footprint(scaling: Scaling, target: Rect, *, shifted: bool = False) -> Rect:
    """Return the area to read for a rectangle at the target scale.

    Parameters
    ----------
    scaling
        From :func:`choose_scaling`.
    target
        The rectangle in target pixels.
    shifted
        Whether the rectangle is shifted by a fraction of a target pixel; see :func:`read_scaled`.

    Returns
    -------
    Rect
        In reduced pixels, of ``scaling.reduction`` level pixels each.
    """
    rest = scaling.rest
    if rest == 1.0 and not shifted:
        return target
    left, top = math.floor(target.x * rest) - _MARGIN, math.floor(target.y * rest) - _MARGIN
    right = math.ceil((target.x + target.width) * rest) + _MARGIN
    bottom = math.ceil((target.y + target.height) * rest) + _MARGIN
    return Rect(left, top, right - left, bottom - top)


class Canvas:
    """Reusable memory for the intermediate images between a slide and its patches.

    The system allocates and clears new memory page by page, which for a block takes a quarter of its decoding time.
    Use one canvas per thread.
    """

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def of(self, name: str, width: int, height: int) -> NDArray[np.uint8]:
        """Return uninitialised ``(height, width, 3)`` uint8 memory; valid until the name is requested again."""
        size = height * width * 3
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = np.empty(size, np.uint8)
        return memory[:size].reshape(height, width, 3)


def read_scaled(
    reader: SlideReader,
    scaling: Scaling,
    target: Rect,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    overlap: int = 0,
    canvas: Canvas | None = None,
) -> Region:
    """Read a rectangle at the target scale.

    Parameters
    ----------
    reader
        The slide.
    scaling
        From :func:`choose_scaling`.
    target
        The rectangle in target pixels; white where it extends beyond the slide boundary.
    shift
        Offset of the rectangle to the right of and below whole target pixels, -0.5 to 0.5 of a pixel.  Zero for
        patches.
    overlap
        Overlap of neighbouring rectangles with this one, in target pixels.
    canvas
        Memory to work in; the result is then only valid until the next read.

    Returns
    -------
    Region
        ``(target.height, target.width, 3)`` uint8; unreadable rectangles in target pixels relative to the
        region's corner.
    """
    rest = scaling.rest
    shifted = shift != (0.0, 0.0)
    copied = rest == 1.0 and not shifted
    part = footprint(scaling, target, shifted=shifted)
    canvas = canvas or Canvas()
    shared = overlap if copied else math.ceil(overlap * rest) + 2 * _MARGIN + 1
    reduced = reader.read_reduced(
        scaling.level,
        scaling.reduction,
        part.x,
        part.y,
        part.width,
        part.height,
        overlap=shared,
        out=canvas.of("reduced", part.width, part.height),
    )
    if copied:
        return reduced
    pixels: Any = reduced.pixels
    if rest > 1.0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), (rest - 1) / 2, dst=pixels, borderType=cv2.BORDER_REPLICATE)
    # Target pixel t, centre t + 0.5, samples reduced position (t + 0.5) * rest - 0.5.
    shift_x = (target.x + shift[0] + 0.5) * rest - 0.5 - part.x
    shift_y = (target.y + shift[1] + 0.5) * rest - 0.5 - part.y
    matrix = np.array([[rest, 0, shift_x], [0, rest, shift_y]], np.float64)
    scaled: Any = cv2.warpAffine(
        pixels,
        matrix,
        (target.width, target.height),
        dst=canvas.of("scaled", target.width, target.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Region(scaled, tuple(_to_target(bad, rest, shift_x, shift_y, target) for bad in reduced.unreadable))


def _to_target(bad: Rect, rest: float, shift_x: float, shift_y: float, target: Rect) -> Rect:
    # One target pixel wider on each side: interpolation mixes neighbours.
    left = max(0, math.floor((bad.x - shift_x) / rest) - 1)
    top = max(0, math.floor((bad.y - shift_y) / rest) - 1)
    right = min(target.width, math.ceil((bad.x + bad.width - shift_x) / rest) + 1)
    bottom = min(target.height, math.ceil((bad.y + bad.height - shift_y) / rest) + 1)
    return Rect(left, top, max(0, right - left), max(0, bottom - top))

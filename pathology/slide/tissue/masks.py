"""Mask morphology with little memory: components, holes, dilation.

A whole-slide mask has tens of millions of pixels, so nothing here makes 64-bit copies of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "band_rows",
    "choose_components",
    "close_gaps",
    "dilate",
    "fill_holes",
    "keep_components",
    "number_pieces",
    "remove_thin",
]

_EIGHT = np.ones((3, 3), bool)
_ROWS = 512
_BAND_PIXELS = 400_000


def band_rows(width: int) -> int:
    """Return how many rows to process at once, so that their floats take a few megabytes: a multiple of 16."""
    return max(64, min(_ROWS, _BAND_PIXELS // max(1, width) // 16 * 16))


def number_pieces(
    mask: NDArray[np.bool_], structure: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.integer[Any]], int]:
    """Label the components of a mask, with 16-bit labels if they suffice, to halve the memory.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    structure
        Connectivity, ``(3, 3)`` bool; ``None``: 4-connected.

    Returns
    -------
    tuple
        ``(H, W)`` labels, 0 outside, and the number of components.
    """
    labels: NDArray[Any] = np.empty(mask.shape, np.uint16)
    try:
        n = ndimage.label(mask, structure, output=labels)
    except RuntimeError:  # too many components for 16 bits
        del labels
        wide, n = ndimage.label(mask, structure)
        return wide, n
    return labels, n


def _areas(labels: NDArray[np.integer[Any]], n: int, where: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
    """Count the pixels of each label, in bands: ``bincount`` would copy all labels as 64-bit integers."""
    area = np.zeros(n + 1, np.intp)
    for top in range(0, len(labels), _ROWS):
        band = labels[top : top + _ROWS]
        area += np.bincount(band.ravel() if where is None else band[where[top : top + _ROWS]], minlength=n + 1)
    return area


def keep_components(
    mask: NDArray[np.bool_], *, seed: NDArray[np.bool_] | None = None, smallest: float = 0, share: float = 0
) -> NDArray[np.bool_]:
    """Keep 8-connected components that are large enough and hold enough seeds.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    seed
        ``(H, W)`` bool: a component is kept only if it contains one of these pixels; ``None``: no condition.
    smallest
        Minimum number of pixels of a component.
    share
        Minimum fraction of its pixels that are seeds, 0 to 1.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` bool.
    """
    if not mask.any():
        return mask
    labels, n = number_pieces(mask, _EIGHT)
    area = _areas(labels, n)
    keep = area >= smallest
    if seed is not None:
        seeds = _areas(labels, n, seed)
        keep &= (seeds >= 1) & (seeds >= share * area)
    keep[0] = False
    return np.asarray(keep[labels])


def choose_components(
    mask: NDArray[np.bool_],
    wanted: Callable[[NDArray[np.bool_], tuple[slice, slice]], bool],
    *,
    smallest: float,
    margin: int,
) -> NDArray[np.bool_]:
    """Keep 8-connected components that satisfy a predicate.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    wanted
        Called with each component within its bounding box, grown by the margin, and with that box as slices.
    smallest
        Components with fewer pixels are dropped without calling it.
    margin
        Pixels by which the box extends beyond the component on each side, clipped to the mask.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` bool.
    """
    chosen = np.zeros_like(mask)
    labels, n = number_pieces(mask, _EIGHT)
    area = _areas(labels, n)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if area[label] < smallest:
            continue
        down, across = (
            slice(max(0, s.start - margin), min(size, s.stop + margin)) for s, size in zip(box, mask.shape, strict=True)
        )
        place = (down, across)
        inside = labels[place] == label
        if wanted(inside, place):
            chosen[place] |= inside
    return chosen


def dilate(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Dilate by ``radius`` pixels with an octagon: alternating crosses and squares."""
    for step in range(radius):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        # A square is a vertical dilation followed by a horizontal one.
        source = grown.copy() if step % 2 else mask
        grown[:, 1:] |= source[:, :-1]
        grown[:, :-1] |= source[:, 1:]
        mask = grown
    return mask


def close_gaps(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Close gaps up to twice ``radius`` wide; nothing grows towards the image border."""
    padded = np.pad(mask, radius)
    return ~dilate(~dilate(padded, radius), radius)[radius:-radius, radius:-radius]


def remove_thin(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Remove structures up to twice ``radius`` wide."""
    return dilate(~dilate(~mask, radius), radius)


def fill_holes(mask: NDArray[np.bool_], largest: float, barrier: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill holes of up to ``largest`` pixels, except those that touch the border or contain ink."""
    labels, n = number_pieces(~mask)
    if n == 0:
        return mask
    area = _areas(labels, n)
    fill = area <= largest
    fill[0] = False
    for border in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[border] = False
    fill[labels[barrier]] = False
    return np.asarray(mask | fill[labels])

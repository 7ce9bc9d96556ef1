"""Outlines of regions in a grid of cells, as polygons that follow the cells' edges exactly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

__all__ = ["Polygon", "Ring", "outlines", "ring_area"]

Ring = NDArray[np.float64]
"""``(K, 2)`` corners ``(x, y)``, first and last equal."""

Polygon = tuple[Ring, ...]
"""The outer ring, then those of the holes."""

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Steps ``(x, y)`` along an edge with the area on the right hand as seen on a screen (y grows downwards)."""


def outlines(
    mask: NDArray[np.bool_],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    cell: tuple[float, float] = (1.0, 1.0),
) -> list[Polygon]:
    """Return the connected areas of a grid as polygons.

    Cells that share an edge belong together; those that only touch at a corner do not.  No ring touches itself,
    which the simple-features standard forbids; two rings may meet in a point, which it allows.

    Parameters
    ----------
    mask
        ``(rows, columns)`` bool.
    origin
        ``(x, y)`` of the top left corner of cell ``(0, 0)``.
    cell
        Width and height of a cell.

    Returns
    -------
    list of tuple
        One polygon an area, from top to bottom by its first cell.  With x to the right and y *down*, outer rings run
        clockwise on the screen; in GeoJSON's sense (y up) that is counter-clockwise, as RFC 7946 asks.

    Examples
    --------
    >>> mask = np.zeros((4, 4), bool)
    >>> mask[1:3, 1:3] = True
    >>> len(outlines(mask, cell=(16.0, 16.0)))
    1
    """
    labels = np.asarray(label(mask)[0], np.int32)  # connected by edges
    scale, shift = np.asarray(cell, np.float64), np.asarray(origin, np.float64)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = defaultdict(list)
    for corners, area in _rings(labels):
        ring = np.array([*corners, corners[0]], np.float64)
        if ring_area(ring) > 0:
            outer[area] = ring * scale + shift
        else:
            holes[area].append(ring * scale + shift)
    return [(ring, *holes[area]) for area, ring in outer.items()]


def ring_area(ring: Ring) -> float:
    """Return the area inside a ring: positive where it runs clockwise on the screen, negative the other way.

    Shoelace formula.
    """
    x, y = ring[:, 0], ring[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _rings(labels: NDArray[np.int32]) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Yield the corners of each ring, and the label of the area that it bounds."""
    padded = np.pad(labels, 1)
    here = padded[1:-1, 1:-1]
    # An edge starts at a corner of a cell and runs in one of four directions, its area on the right.
    edges: dict[tuple[int, int], dict[int, int]] = defaultdict(dict)
    sides = (
        (padded[:-2, 1:-1], 0, 0),  # upper, to the right
        (padded[1:-1, 2:], 1, 0),  # right, downwards
        (padded[2:, 1:-1], 1, 1),  # lower, to the left
        (padded[1:-1, :-2], 0, 1),  # left, upwards
    )
    for direction, (beyond, dx, dy) in enumerate(sides):
        rows, columns = np.nonzero((here > 0) & (beyond != here))
        for x, y, area in zip((columns + dx).tolist(), (rows + dy).tolist(), here[rows, columns].tolist(), strict=True):
            edges[x, y][direction] = area
    for first in sorted(edges, key=lambda point: (point[1], point[0])):
        while edges[first]:
            direction = min(edges[first])
            area = edges[first].pop(direction)
            ring, (x, y) = [first], first
            while True:
                x, y = x + _STEPS[direction][0], y + _STEPS[direction][1]
                if (x, y) == first:
                    break
                onward = edges[x, y]
                right, left = (direction + 1) % 4, (direction - 1) % 4
                if len(onward) == 1:
                    turned = next(iter(onward))
                else:
                    # Two cells meet at their corners.  Of one area, the ring crosses over, or it would touch itself
                    # here; of two, it stays with its own.
                    turned = left if onward[left] == area else right
                del onward[turned]
                if turned != direction:
                    ring.append((x, y))
                direction = turned
            yield ring, area

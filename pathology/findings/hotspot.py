"""Where the most mitoses are: the exact maximum over all windows of a stated area.

A hotspot is the position of a window (circle or axis-parallel rectangle, of fixed size) that holds the most points
among *all* positions, not among those of a grid.  Such a maximum always has a position at which two points lie on
the window's edge, so it can be found by trying every pair; that takes time with the cube of the number of points.
Here a branch-and-bound search discards whole areas of positions whose enlarged window already holds too few, and
tries pairs only in the few that remain.  The result is the same (the tests compare the two), in milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["ExpectedMaximum", "Hotspot", "HotspotWindow", "expected_maximum", "find_hotspot", "find_hotspots"]

_EDGE = 1e-9
"""A point this far outside a window, as a share of its half width, still counts: windows include their edge, and
rounding must not exclude the very points that a window's position was computed from."""

_FEW = 12
"""Undecided points of a cell up to which all pairs are tried instead of splitting the cell further."""


_MANY = 200
"""Squares from which on a first look at larger ones pays."""

_FINE = 2**-10
_LINES = 1000
"""Side of a cell, and how many of them, from which on a search for rectangles is stuck on lines; see :func:`_sweep`."""


class HotspotWindow(Record):
    """The window in which mitoses are counted."""

    shape: Literal["circle", "rectangle"] = "circle"
    """A circle has no preferred direction; a rectangle is what a camera or a screen shows."""
    area_mm2: Annotated[float, Field(gt=0)] = 1.734
    """Area in mm².  1.734 is the area of the FNCLCC's ten high-power fields of 0.1734 mm²."""
    aspect: Annotated[float, Field(gt=0)] = 4 / 3
    """Width divided by height of a rectangle."""

    @property
    def half_extent_mm(self) -> tuple[float, float]:
        """Half of the width and height in mm; the radius, twice, of a circle."""
        if self.shape == "circle":
            radius = math.sqrt(self.area_mm2 / math.pi)
            return radius, radius
        height = math.sqrt(self.area_mm2 / self.aspect)
        return height * self.aspect / 2, height / 2


@dataclass(frozen=True)
class Hotspot:
    """One window and what it holds.

    Attributes
    ----------
    window
        Its shape and area.
    x, y
        Its centre in level-0 pixels.
    half_width, half_height
        In level-0 pixels; both the radius of a circle.
    members
        Indices of the points inside, ascending.
    """

    window: HotspotWindow
    x: float
    y: float
    half_width: float
    half_height: float
    members: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of points inside."""
        return len(self.members)

    def outline(self, corners: int = 72) -> NDArray[np.float64]:
        """Return the window's border as a closed polygon.

        Returns
        -------
        numpy.ndarray
            ``(K, 2)`` level-0 ``(x, y)``, first and last equal: five rows for a rectangle, ``corners + 1`` for
            a circle.
        """
        if self.window.shape == "rectangle":
            unit = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)], np.float64)
        else:
            angle = np.linspace(0, 2 * math.pi, corners + 1)
            unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            unit[-1] = unit[0]
        result: NDArray[np.float64] = unit * (self.half_width, self.half_height) + (self.x, self.y)
        return result


def find_hotspot(points: NDArray[np.floating], mpp: float, window: HotspotWindow) -> Hotspot | None:
    """Find the window that holds the most points.

    Parameters
    ----------
    points
        ``(N, 2)`` centres in level-0 pixels ``(x, y)``.
    mpp
        Micrometres per level-0 pixel.
    window
        Shape and area.

    Returns
    -------
    Hotspot or None
        The exact maximum over all positions.  The window is centred on its points (smallest enclosing circle or
        rectangle), so that none lies on its edge by accident of the search.  Where several windows hold equally
        many points, the same one is returned whatever the order of the points.  ``None`` without points.

    Raises
    ------
    UsageError
        If the coordinates are not finite, or mpp is not positive.

    Examples
    --------
    >>> points = np.array([[100.0, 100.0], [120.0, 110.0], [5000.0, 5000.0]])
    >>> hotspot = find_hotspot(points, 0.5, HotspotWindow(area_mm2=0.1))
    >>> hotspot.count
    2
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all() or not mpp > 0:
        raise UsageError("hotspot: coordinates must be finite numbers and mpp positive")
    if not len(points):
        return None
    half = np.array(window.half_extent_mm) * 1000 / mpp
    # A canonical order makes every later tie fall the same way.
    order = np.lexsort((points[:, 0], points[:, 1]))
    unit = points[order] / half
    # The search works near the origin, where floating point is finest.
    shift = np.floor(unit.min(axis=0))
    unit -= shift
    power = 2.0 if window.shape == "circle" else np.inf
    centre = _densest(unit, power)
    inside = _inside(unit, centre, power)
    centre = _centre_of(unit[inside], power)
    inside = _inside(unit, centre, power)
    x, y = (centre + shift) * half
    members = tuple(sorted(int(i) for i in order[inside]))
    return Hotspot(window, float(x), float(y), float(half[0]), float(half[1]), members)


def find_hotspots(points: NDArray[np.floating], mpp: float, window: HotspotWindow, most: int) -> tuple[Hotspot, ...]:
    """Find several windows one after the other, each without the points of those before it.

    Parameters
    ----------
    points, mpp, window
        As in :func:`find_hotspot`.
    most
        Largest number of windows.

    Returns
    -------
    tuple of Hotspot
        By falling count; no point is a member of two.
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    left = np.arange(len(points))
    found: list[Hotspot] = []
    while len(left) and len(found) < most:
        hotspot = find_hotspot(points[left], mpp, window)
        assert hotspot is not None
        members = left[list(hotspot.members)]
        found.append(
            Hotspot(
                window, hotspot.x, hotspot.y, hotspot.half_width, hotspot.half_height, tuple(int(i) for i in members)
            )
        )
        left = np.setdiff1d(left, members)
    return tuple(found)


def _inside(unit: NDArray[np.float64], centre: NDArray[np.float64], power: float) -> NDArray[np.bool_]:
    """Tell which points lie in the unit window about a centre."""
    result: NDArray[np.bool_] = _norm(unit - centre, power) <= 1 + _EDGE
    return result


def _densest(unit: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return the centre of a unit ball of the given norm that holds the most points."""
    tree: Any = cKDTree(unit)
    side = 0.5
    slant = math.sqrt(2) if power == 2 else 1.0
    # A cell's column and row in one whole number, which sorts faster than pairs; all are positive.
    columns, rows = (np.floor(unit / side).astype(np.int64) + 2).T
    high = int(rows.max()) + 3
    # A window that holds a point has its centre within a distance of 1 of it: two cells in every direction.
    reach = np.arange(-2, 3)
    around = (reach[:, None] * high + reach).ravel()
    keys = np.unique((np.unique(columns * high + rows)[:, None] + around).ravel())
    cells = np.stack([keys // high - 2, keys % high - 2], axis=1)
    cells = cells[_worthwhile(tree, cells, side, slant, power)]
    margin = side / 2 * slant
    upper = tree.query_ball_point((cells + 0.5) * side, 1 + margin + _EDGE, p=power, return_length=True)
    # A good lower bound discards most of the slide at once, so the fullest surroundings are searched first, by
    # steps to the best of nine neighbouring positions, each round half as long as the last.
    starts = (cells[np.argsort(-upper, kind="stable")[:24]] + 0.5) * side
    best = 0
    winner: NDArray[np.float64] = starts[0]
    neighbours = np.stack(np.meshgrid((0, -1, 1), (0, -1, 1)), axis=-1).reshape(-1, 2)
    for step in 0.5 ** np.arange(2, 9):
        positions = starts[:, None] + neighbours * step
        counts = tree.query_ball_point(positions, 1 + _EDGE, p=power, return_length=True)
        starts = positions[np.arange(len(starts)), counts.argmax(axis=1)]
        if counts.max() > best:
            best, winner = int(counts.max()), starts[int(counts.max(axis=1).argmax())]

    cells = cells[upper > best]
    lists: list[list[int]] = tree.query_ball_point((cells + 0.5) * side, 1 + margin + _EDGE, p=power)
    # Per cell: points that may or may not lie in a window centred in it, one after the other, and how many surely do.
    length = np.array([len(members) for members in lists], np.int64)
    near = np.fromiter(chain.from_iterable(lists), np.int64, int(length.sum()))
    surely = np.zeros(len(cells), np.int64)
    columns_of, rows_of = np.ascontiguousarray(unit.T)
    while len(cells):
        margin = side / 2 * slant
        centres = (cells + 0.5) * side
        ends = np.cumsum(length)
        away = columns_of[near] - np.repeat(centres[:, 0], length)
        down = rows_of[near] - np.repeat(centres[:, 1], length)
        # All lengths are near 1: nothing that hypot guards against, at a fraction of its time.
        distance = np.sqrt(away * away + down * down) if power == 2 else np.maximum(np.abs(away), np.abs(down))
        here = surely + _sums(distance <= 1 + _EDGE, ends)
        if here.max() > best:
            best, winner = int(here.max()), centres[int(here.argmax())]
        within = distance <= 1 - margin - _EDGE
        undecided = ~within & (distance <= 1 + margin + _EDGE)
        surely = surely + _sums(within, ends)
        length = _sums(undecided, ends)
        near = near[undecided]
        owner = np.repeat(np.arange(len(cells)), length)

        few = length <= _FEW
        tried = np.flatnonzero(few & (surely + length > best))
        if len(tried):
            padded = np.full((len(tried), _FEW, 2), np.nan)
            row = np.full(len(cells), -1)
            row[tried] = np.arange(len(tried))
            chosen = row[owner] >= 0
            place = (np.arange(len(owner)) - (np.cumsum(length) - length)[owner])[chosen]
            padded[row[owner[chosen]], place] = unit[near[chosen]]
            for start in range(0, len(tried), 256):
                part = slice(start, start + 256)
                count, position = _best_in_cells(padded[part], surely[tried[part]], centres[tried[part]], margin, power)
                if count > best:
                    best, winner = count, position
        if side < 1e-9:
            # Only reached by more than _FEW points in one place, whose windows all count the same.
            break
        kept = ~few & (surely + length > best)
        near = near[kept[owner]]
        cells, length, surely = cells[kept], length[kept], surely[kept]
        if power != 2 and side <= _FINE and len(cells) > _LINES:
            return _sweep(unit)
        # Four quarters of each cell inherit its undecided points.
        side /= 2
        cells = (2 * cells[:, None] + np.array([(0, 0), (1, 0), (0, 1), (1, 1)])).reshape(-1, 2)
        starts = np.repeat(np.cumsum(length) - length, 4)
        length, surely = np.repeat(length, 4), np.repeat(surely, 4)
        offset = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        near = near[np.repeat(starts, length) + offset]
    return winner


def _sweep(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centre of a square of side 2 that holds the most points, from every left edge there can be.

    Where many points lie in two columns that are all but a window's width apart, neither in one window nor clearly in
    two, all cells along a whole line stay undecided and double with every step of the search: whole pixels of
    coordinates make such columns.  A sweep takes time with the square of the number of points, but never more, and
    little memory.
    """
    # Room for rounding, so that both far sides are inside when counted from the middle.
    extent = 2 + 1.9 * _EDGE
    x, y = unit[np.argsort(unit[:, 1], kind="stable")].T
    best, corners = 0, unit[:1]
    for left in np.unique(x):
        slab = np.flatnonzero((x >= left) & (x <= left + extent))
        column = y[slab]
        counts = np.searchsorted(column, column + extent, "right") - np.arange(len(column))
        first = int(counts.argmax())
        if counts[first] > best:
            best = int(counts[first])
            members = slab[first : first + best]
            corners = np.stack([x[members], y[members]], axis=1)
    centre: NDArray[np.float64] = (corners.min(axis=0) + corners.max(axis=0)) / 2
    return centre


def _worthwhile(
    tree: Any,  # noqa: ANN401 - SciPy's tree has no types
    cells: NDArray[np.int64],
    side: float,
    slant: float,
    power: float,
) -> NDArray[np.bool_]:
    """Tell which cells can hold the centre of the fullest window, by a look at squares of four of them together."""
    corners = cells // 2
    high = int(corners[:, 1].max()) + 2
    keys, first, owner = np.unique((corners[:, 0] + 1) * high + corners[:, 1], return_index=True, return_inverse=True)
    if len(keys) < _MANY:
        return np.ones(len(cells), bool)
    centres = (corners[first] + 0.5) * 2 * side
    upper = tree.query_ball_point(centres, 1 + side * slant + _EDGE, p=power, return_length=True)
    fullest = centres[np.argsort(-upper, kind="stable")[:24]]
    steps = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), axis=-1).reshape(-1, 2) * side / 2
    held = tree.query_ball_point((fullest[:, None] + steps).reshape(-1, 2), 1 + _EDGE, p=power, return_length=True)
    # Equal counts stay, so that nothing is decided here that the search itself would decide otherwise.
    result: NDArray[np.bool_] = (upper >= held.max())[owner]
    return result


def _sums(flags: NDArray[np.bool_], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the true flags of consecutive groups, given where each group ends."""
    running = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])[ends]
    return np.diff(running, prepend=0)


def _norm(vectors: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return Euclidean (2) or maximum (inf) lengths over the last axis."""
    away = np.abs(vectors)
    result: NDArray[np.float64] = np.hypot(away[..., 0], away[..., 1]) if power == 2 else away.max(axis=-1)
    return result


def _best_in_cells(
    edge: NDArray[np.float64],
    surely: NDArray[np.int64],
    centres: NDArray[np.float64],
    margin: float,
    power: float,
) -> tuple[int, NDArray[np.float64]]:
    """Try, in each of several cells, the windows that have two of the undecided points on their edge.

    Parameters
    ----------
    edge
        ``(M, K, 2)`` undecided points of each cell; NaN fills the places of those with fewer.
    surely
        ``(M,)`` points that every window centred in the cell holds.
    centres, margin, power
        ``(M, 2)`` centres of the cells, their reach in the norm, and the norm.

    Returns
    -------
    tuple
        The largest count and its window's centre.
    """
    if power == 2:
        first, second = np.triu_indices(edge.shape[1], 1)
        apart = edge[:, second] - edge[:, first]
        length = _norm(apart, 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = (edge[:, first] + edge[:, second]) / 2
            # Not a number where two points coincide or lie more than a diameter apart.
            usable = (length > 0) & (length <= 2)
            height = np.where(usable, np.sqrt(np.maximum(1 - length**2 / 4, 0)) / length, np.nan)
        normal = np.stack([-apart[..., 1], apart[..., 0]], axis=-1) * height[..., None]
        candidates = np.concatenate([middle + normal, middle - normal], axis=1)
    else:
        # A rectangle can be moved up and to the left until its far sides meet two of its points (or one, twice).
        x, y = edge[..., 0] - 1, edge[..., 1] - 1
        shape = (*x.shape, x.shape[1])
        candidates = np.stack([np.broadcast_to(x[:, :, None], shape), np.broadcast_to(y[:, None, :], shape)], axis=-1)
        candidates = candidates.reshape(len(edge), -1, 2)
    with np.errstate(invalid="ignore"):
        usable = _norm(candidates - centres[:, None], power) <= margin + 4 * _EDGE
        held = np.count_nonzero(_norm(candidates[:, :, None] - edge[:, None], power) <= 1 + _EDGE, axis=-1)
    counts = np.where(usable, surely[:, None] + held, -1)
    cell, candidate = np.unravel_index(int(counts.argmax()), counts.shape)
    return int(counts[cell, candidate]), candidates[cell, candidate]


def _centre_of(points: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return the centre of the smallest circle (or of the bounding rectangle) around points."""
    if power != 2:
        centre: NDArray[np.float64] = (points.min(axis=0) + points.max(axis=0)) / 2
        return centre
    hull = _hull(points)
    if len(hull) == 1:
        alone: NDArray[np.float64] = hull[0]
        return alone
    # The smallest circle passes through two points (as a diameter) or three of the hull; few remain to try.
    pairs = np.array(list(combinations(range(len(hull)), 2)))
    candidates = [(hull[pairs[:, 0]] + hull[pairs[:, 1]]) / 2]
    if len(hull) > 2:
        triples = np.array(list(combinations(range(len(hull)), 3)))
        candidates.append(_circumcentres(hull[triples[:, 0]], hull[triples[:, 1]], hull[triples[:, 2]]))
    centres = np.concatenate(candidates)
    reach = np.hypot(*(hull[None] - centres[:, None]).transpose(2, 0, 1)).max(axis=1)
    result: NDArray[np.float64] = centres[int(reach.argmin())]
    return result


def _circumcentres(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centres of circles through three points each; points on a line are left out."""
    p, q = b - a, c - a
    twice = 2 * (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])
    usable = np.abs(twice) > 1e-15
    a, p, q, twice = a[usable], p[usable], q[usable], twice[usable]
    pp, qq = (p**2).sum(axis=1), (q**2).sum(axis=1)
    x = (q[:, 1] * pp - p[:, 1] * qq) / twice
    y = (p[:, 0] * qq - q[:, 0] * pp) / twice
    result: NDArray[np.float64] = a + np.stack([x, y], axis=1)
    return result


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the convex hull's corners (Andrew's monotone chain), also of points on a line or in one place."""
    unique = np.unique(points, axis=0)
    if len(unique) < 3:
        return unique

    def chain(sequence: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        corners: list[NDArray[np.float64]] = []
        for point in sequence:
            while len(corners) > 1:
                u, v = corners[-1] - corners[-2], point - corners[-1]
                if u[0] * v[1] - u[1] * v[0] > 0:
                    break
                corners.pop()
            corners.append(point)
        return corners[:-1]

    return np.array(chain(unique) + chain(unique[::-1]))


@dataclass(frozen=True)
class ExpectedMaximum:
    """What the hotspot of points without any clustering would hold.

    A maximum over many windows is high even where mitoses are spread evenly, and the more tissue is searched, the
    higher.  This is the figure to hold a hotspot count against.

    Attributes
    ----------
    mean
        Mean maximum over the simulations.
    interval
        Their 2.5 % and 97.5 % quantiles.
    anywhere
        Expected count of a window at a place chosen beforehand: density times area.
    p_value
        Share of simulations whose maximum reaches the observed one, ``(k + 1) / (n + 1)``.
    simulations
        Number of simulations.
    """

    mean: float
    interval: tuple[float, float]
    anywhere: float
    p_value: float
    simulations: int

    @property
    def bias(self) -> float:
        """How much higher the maximum is than a window at a place chosen beforehand, as a factor."""
        return self.mean / self.anywhere if self.anywhere > 0 else math.nan


def expected_maximum(
    total: int, tissue_mm2: float, window: HotspotWindow, *, observed: int, simulations: int = 199, seed: int = 0
) -> ExpectedMaximum:
    """Simulate the hotspot count of evenly spread mitoses.

    Parameters
    ----------
    total
        Mitoses on the slide.
    tissue_mm2
        Tissue searched, in mm².
    window
        The window of the hotspot.
    observed
        The hotspot's count.
    simulations
        Number of simulated slides.
    seed
        Of the random numbers; the same seed gives the same figures.

    Returns
    -------
    ExpectedMaximum
        From homogeneous Poisson processes (``total`` points in the mean) on a square of ``tissue_mm2``.  The
        square's short edge favours no window over another, while real tissue of a ragged shape has more edge and
        a slightly lower maximum; the figure is therefore a cautious one.

    Raises
    ------
    UsageError
        If ``tissue_mm2`` is not positive.

    Examples
    --------
    >>> chance = expected_maximum(20, tissue_mm2=100.0, window=HotspotWindow(area_mm2=2.0), observed=9)
    >>> chance.p_value < 0.05
    True
    """
    if not tissue_mm2 > 0:
        raise UsageError("the bias of a hotspot needs the area of tissue searched, in mm²")
    generator = np.random.default_rng(seed)
    side = math.sqrt(tissue_mm2)
    maxima = np.empty(simulations)
    for index in range(simulations):
        points = generator.uniform(0, side, (generator.poisson(total), 2))
        hotspot = find_hotspot(points, 1000.0, window)
        maxima[index] = hotspot.count if hotspot else 0
    low, high = np.quantile(maxima, [0.025, 0.975])
    return ExpectedMaximum(
        float(maxima.mean()),
        (float(low), float(high)),
        total * min(window.area_mm2 / tissue_mm2, 1),
        float((np.count_nonzero(maxima >= observed) + 1) / (simulations + 1)),
        simulations,
    )

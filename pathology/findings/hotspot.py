"""Mitotic hotspot: the exact maximum over all windows of a given area.

A hotspot is the window (circle or axis-parallel rectangle, of fixed size) that contains the most points over *all*
positions, not only those of a grid.  Such a maximum always has a position at which two points lie on the window's edge,
so it can be found by trying every pair, in time cubic in the number of points.  Here, a branch-and-bound search
discards whole regions of positions whose enlarged window contains too few points, and tries pairs only in the few that
remain.  The result is the same (the tests compare the two), in milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Annotated, Any, Literal

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["ExpectedMaximum", "Hotspot", "HotspotWindow", "expected_maximum", "find_hotspot", "find_hotspots"]

_EDGE = 1e-9
"""A point this far outside a window, as a fraction of its half width, still counts: windows include their edge, and
rounding must not exclude the points from which a window's position was computed."""

_FEW = 12
"""Largest number of undecided points in a cell for which all pairs are tried instead of splitting the cell."""


_MANY = 200
"""Number of squares above which checking larger squares first pays off."""

_FINE = 2**-10
_LINES = 1000
"""Size and number of cells at which a search for rectangles stalls on lines; see :func:`_sweep`."""


class HotspotWindow(Record):
    """The window in which mitoses are counted."""

    shape: Literal["circle", "rectangle"] = "circle"
    """A circle has no preferred direction; a rectangle matches a camera or a screen."""
    area_mm2: Annotated[float, Field(gt=0)] = 1.734
    """Area in mm².  1.734 is the area of ten FNCLCC high-power fields of 0.1734 mm²."""
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
    """A window and the points in it.

    Attributes
    ----------
    window
        Its shape and area.
    x, y
        Its centre in level-0 pixels.
    half_width, half_height
        In level-0 pixels; for a circle, both are the radius.
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
    """Find the window that contains the most points.

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
        rectangle), so that no point lies on its edge by accident of the search.  If several windows contain equally
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
    # A canonical order makes all ties resolve the same way.
    order = np.lexsort((points[:, 0], points[:, 1]))
    unit = points[order] / half
    # The search works near the origin, where floating point is most precise.
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
    """Find several windows in succession, each excluding the points of the previous ones.

    Parameters
    ----------
    points, mpp, window
        As in :func:`find_hotspot`.
    most
        Largest number of windows.

    Returns
    -------
    tuple of Hotspot
        By decreasing count; no point belongs to two windows.
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
    """Return which points lie in the unit window around a centre."""
    result: NDArray[np.bool_] = _norm(unit - centre, power) <= 1 + _EDGE
    return result


def _densest(unit: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Return the centre of a unit ball of the given norm that contains the most points."""
    tree: Any = scipy.spatial.cKDTree(unit)
    side = 0.5
    slant = math.sqrt(2) if power == 2 else 1.0
    # A cell's column and row in one integer, which sorts faster than pairs; all are positive.
    columns, rows = (np.floor(unit / side).astype(np.int64) + 2).T
    high = int(rows.max()) + 3
    # The centre of a window that contains a point is within a distance of 1 of it: two cells in every direction.
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
        # All lengths are near 1, so hypot's protection against overflow is not needed; this is much faster.
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
            # Only reached by more than _FEW coincident points, whose windows all have the same count.
            break
        kept = ~few & (surely + length > best)
        near = near[kept[owner]]
        cells, length, surely = cells[kept], length[kept], surely[kept]
        if power != 2 and side <= _FINE and len(cells) > _LINES:
            return _sweep(unit)
        # The four quarters of each cell inherit its undecided points.
        side /= 2
        cells = (2 * cells[:, None] + np.array([(0, 0), (1, 0), (0, 1), (1, 1)])).reshape(-1, 2)
        starts = np.repeat(np.cumsum(length) - length, 4)
        length, surely = np.repeat(length, 4), np.repeat(surely, 4)
        offset = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        near = near[np.repeat(starts, length) + offset]
    return winner


def _sweep(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centre of a square of side 2 that contains the most points, trying every possible left edge.

    If many points lie in two columns almost exactly one window width apart, all cells along a line stay undecided and
    double with every step of the search; integer pixel coordinates produce such columns.  A sweep takes time quadratic
    in the number of points, but never more, and little memory.
    """
    # A margin for rounding, so that both far sides are inside when counted from the centre.
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
    """Return which cells can contain the centre of the best window, by checking squares of four cells together."""
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
    # Ties are kept, so that this step never excludes a result of the search itself.
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
    """Try, in each of several cells, the windows with two of the undecided points on their edge.

    Parameters
    ----------
    edge
        ``(M, K, 2)`` undecided points of each cell, padded with NaN.
    surely
        ``(M,)`` number of points in every window centred in the cell.
    centres, margin, power
        ``(M, 2)`` centres of the cells, their extent in the norm, and the norm.

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
            # NaN where two points coincide or are more than a diameter apart.
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
    """Return the centres of circles through three points each, excluding collinear points."""
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
    """Return the corners of the convex hull (Andrew's monotone chain), also for collinear or coincident points."""
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
    """Expected hotspot count if the points were not clustered.

    A maximum over many windows is high even if mitoses are evenly distributed, and higher the more tissue is searched.
    Compare a hotspot count with this value.

    Attributes
    ----------
    mean
        Mean maximum over the simulations.
    interval
        2.5 % and 97.5 % quantiles of the maximum.
    anywhere
        Expected count of a window at a predefined position: density times area.
    p_value
        Proportion of simulations whose maximum reaches the observed one, ``(k + 1) / (n + 1)``.
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
        """Ratio of the maximum to the expected count of a window at a predefined position."""
        return self.mean / self.anywhere if self.anywhere > 0 else math.nan


def expected_maximum(
    total: int, tissue_mm2: float, window: HotspotWindow, *, observed: int, simulations: int = 199, seed: int = 0
) -> ExpectedMaximum:
    """Simulate the hotspot count of evenly distributed mitoses.

    Parameters
    ----------
    total
        Number of mitoses on the slide.
    tissue_mm2
        Tissue searched, in mm².
    window
        The window of the hotspot.
    observed
        The hotspot's count.
    simulations
        Number of simulated slides.
    seed
        Seed of the random numbers; the same seed gives the same values.

    Returns
    -------
    ExpectedMaximum
        From homogeneous Poisson processes (``total`` points on average) on a square of ``tissue_mm2``.  Real tissue has
        an irregular shape with a longer edge and therefore a slightly lower maximum than a square, so the estimate is
        conservative.

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
        raise UsageError("the expected maximum requires the area of tissue searched, in mm²")
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

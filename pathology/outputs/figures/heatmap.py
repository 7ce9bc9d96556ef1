"""Class probability maps: patch predictions placed on the slide.

A map has one cell per stride.  Cell ``(row, column)`` covers level-0 pixels
``[origin_x + column * stride, origin_x + (column + 1) * stride)`` across and likewise down, where ``stride`` is
not rounded: the grid's own positions, before they were rounded to whole pixels, so that a map does not drift
across a wide slide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pathology.errors import UsageError

__all__ = ["Heatmap", "build_heatmap"]


@dataclass(frozen=True)
class Heatmap:
    """Probabilities of all classes over a slide.

    Attributes
    ----------
    classes
        Class names, in the order of ``values``.
    values
        ``(C, rows, columns)`` float32, 0 to 1; NaN where no patch with tissue was scored.
    origin
        Level-0 ``(x, y)`` of the top left corner of cell ``(0, 0)``, not rounded.
    stride
        Side length of a cell in level-0 pixels, not rounded.
    extent
        Side length of a patch in level-0 pixels, not rounded.  Below ``stride``, cells are only partly covered.
    coverage
        ``(rows, columns)`` float32: number of patches on a cell, each weighted by the fraction of the cell it covers; 0
        where nothing was scored.
    """

    classes: tuple[str, ...]
    values: NDArray[np.float32]
    origin: tuple[float, float]
    stride: float
    extent: float
    coverage: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` in cells."""
        return self.values.shape[1], self.values.shape[2]

    def probability(self, name: str) -> NDArray[np.float32]:
        """Return the ``(rows, columns)`` map of one class.

        Raises
        ------
        UsageError
            If the model has no such class.
        """
        if name not in self.classes:
            raise UsageError(f"unknown class {name!r}", remedy=f"The model's classes are: {', '.join(self.classes)}")
        result: NDArray[np.float32] = self.values[self.classes.index(name)]
        return result

    def predicted(self) -> NDArray[np.int16]:
        """Return ``(rows, columns)`` int16: the index of each cell's most probable class, -1 where nothing was scored.

        Ties are resolved in favour of the first class on the card.
        """
        known = self.known()
        result = np.full(self.shape, -1, np.int16)
        result[known] = self.values[:, known].argmax(axis=0)
        return result

    def confidence(self) -> NDArray[np.float32]:
        """Return ``(rows, columns)`` float32: the probability of the predicted class, NaN where nothing was scored."""
        known = self.known()
        result = np.full(self.shape, np.nan, np.float32)
        result[known] = self.values[:, known].max(axis=0)
        return result

    @property
    def first_cell(self) -> tuple[int, int]:
        """``(row, column)`` of cell ``(0, 0)`` among the cells counted from the slide's own corner.

        Patches lie on a grid that begins at the slide's corner, so this is whole.
        """
        return round(self.origin[1] / self.stride), round(self.origin[0] / self.stride)

    def smoothed(self, sigma: float) -> Heatmap:
        """Return the map smoothed with a Gaussian, weighted by coverage.

        Every cell becomes the mean of the known cells around it, weighted with a Gaussian and with how many
        patches lie on each (``coverage``): where patches overlap, a cell rests on more evidence than at the edge of
        the tissue.  Nothing spreads to places that were not scored.  (A Gaussian mean of weighted samples divided by
        that of the weights: normalised convolution, Knutsson & Westin 1993.)

        Parameters
        ----------
        sigma
            Standard deviation of the Gaussian in level-0 pixels, above 0.

        Raises
        ------
        UsageError
            If ``sigma`` is not positive.
        """
        if not sigma > 0:
            raise UsageError(f"sigma must be positive, got {sigma:g} level-0 pixels")
        known = self.known()
        if not known.any():
            return self
        weights = np.where(known, self.coverage, 0).astype(np.float64)

        def spread(field: NDArray[np.float64]) -> NDArray[np.float64]:
            # Outside the map there is no data, not a mirror image.
            return np.asarray(gaussian_filter(field, sigma / self.stride, mode="constant"))

        total = spread(weights)
        values = np.full_like(self.values, np.nan)
        for index, probability in enumerate(self.values):
            mean = spread(np.where(known, probability, 0) * weights)[known] / total[known]
            values[index][known] = np.clip(mean, 0, 1)
        return replace(self, values=values)

    def known(self) -> NDArray[np.bool_]:
        """Return ``(rows, columns)`` bool: where there is a prediction."""
        return np.logical_not(np.isnan(self.values).any(axis=0))

    def bounds(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Return ``(left, top, right, bottom)`` of a cell in level-0 pixels, not rounded."""
        left, top = self.origin[0] + column * self.stride, self.origin[1] + row * self.stride
        return left, top, left + self.stride, top + self.stride

    def cells_along(self, positions: NDArray[np.float64], axis: int) -> NDArray[np.intp]:
        """Return the cell index of level-0 positions along one axis.

        Parameters
        ----------
        positions
            ``(n,)`` level-0 coordinates (pixel centres are at ``+ 0.5``).
        axis
            0 for x (columns), 1 for y (rows).

        Returns
        -------
        numpy.ndarray
            ``(n,)`` indices; -1 outside the map and, where the stride is wider than the patch, between patches.
        """
        within = (positions - self.origin[axis]) / self.stride
        index = np.floor(within)
        count = self.shape[1 - axis]
        covered = (within - index) * self.stride < min(self.extent, self.stride)
        inside = (index >= 0) & (index < count) & covered
        return np.where(inside, index, -1).astype(np.intp)


def build_heatmap(
    coords: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    tissue: NDArray[np.float32],
    *,
    classes: Sequence[str],
    extent: float,
    stride: float,
) -> Heatmap:
    """Place patch predictions on a grid of cells.

    Where patches overlap, a cell is the mean of the patches on it, each weighted with the share of the cell that
    it covers; when the patch is a whole number of strides wide that is the plain mean of the patches over it.

    Parameters
    ----------
    coords
        ``(N, 2)`` int32 level-0 ``(x, y)`` top left corners, on the grid: each within half a pixel of a whole
        number of strides.
    probabilities
        ``(N, C)`` float32.  Rows with NaN (patches that could not be read) are excluded.
    tissue
        ``(N,)`` float32 tissue fraction of each patch; patches with 0 are excluded.
    classes
        The C class names.
    extent, stride
        Side length of a patch and distance between patches in level-0 pixels, not rounded.

    Returns
    -------
    Heatmap
        Covers all patches that are not excluded; without any, a map of 0 x 0 cells.

    Raises
    ------
    UsageError
        If shapes do not fit, a corner does not lie on the grid, or two patches lie at the same place.

    Examples
    --------
    >>> heatmap = build_heatmap(
    ...     np.array([[0, 0], [256, 0]], np.int32),
    ...     np.array([[0.9, 0.1], [0.2, 0.8]], np.float32),
    ...     np.ones(2, np.float32),
    ...     classes=("stroma", "tumour"),
    ...     extent=256,
    ...     stride=256,
    ... )
    >>> heatmap.probability("tumour").shape
    (1, 2)
    """
    _check(coords, probabilities, tissue, classes, extent, stride)
    names = tuple(classes)
    kept = (tissue > 0) & ~np.isnan(probabilities).any(axis=1)
    if not kept.any():
        return Heatmap(
            names, np.empty((len(names), 0, 0), np.float32), (0.0, 0.0), stride, extent, np.empty((0, 0), np.float32)
        )

    index = np.rint(coords[kept] / stride).astype(np.int64)
    if np.abs(coords[kept] - index * stride).max() > 0.5 + 1e-6:
        raise UsageError(f"coords: not all corners lie on a grid with a stride of {stride:g} level-0 pixels")
    first = index.min(axis=0)
    columns, rows = (int(n) for n in index.max(axis=0) - first + 1)
    column, row = (index - first).T
    if len(np.unique(row * columns + column)) != len(row):
        raise UsageError("coords: two patches lie at the same place")

    # Sums and counts at the patches' corners, spread over the cells each patch covers: right, then down.
    sums = np.zeros((len(names) + 1, rows, columns))
    sums[:-1, row, column] = probabilities[kept].T
    sums[-1, row, column] = 1
    weights = _cover(extent, stride)
    for axis in (1, 2):
        sums = _spread(sums, weights, axis)
    # Sums of weights below this are rounding: the smallest true one is (1 % of a cell) squared, see _cover.
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(sums[-1] > 1e-9, sums[:-1] / sums[-1], np.nan).astype(np.float32)
    origin = (float(first[0] * stride), float(first[1] * stride))
    coverage = np.where(sums[-1] > 1e-9, sums[-1], 0).astype(np.float32)
    return Heatmap(names, np.clip(values, 0, 1), origin, stride, extent, coverage)


def _check(
    coords: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    tissue: NDArray[np.float32],
    classes: Sequence[str],
    extent: float,
    stride: float,
) -> None:
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise UsageError(f"coords: expected (N, 2), got {coords.shape}")
    if probabilities.shape != (len(coords), len(classes)):
        raise UsageError(f"probabilities: expected {(len(coords), len(classes))}, got {probabilities.shape}")
    if tissue.shape != (len(coords),):
        raise UsageError(f"tissue: expected {(len(coords),)}, got {tissue.shape}")
    if not (extent > 0 and stride > 0):
        raise UsageError(f"extent and stride must be positive, got {extent:g} and {stride:g}")


def _cover(extent: float, stride: float) -> list[float]:
    """Return the share of each successive cell along one axis that a patch starting at the first covers."""
    count = max(1, math.ceil(extent / stride))
    shares = [min(1.0, (extent - step * stride) / stride) for step in range(count)]
    # A hair's breadth over a cell's edge is rounding of the scale, and must not paint a cell of its own.
    return [share for step, share in enumerate(shares) if step == 0 or share > 0.01]


def _spread(sums: NDArray[np.float64], weights: list[float], axis: int) -> NDArray[np.float64]:
    shape = list(sums.shape)
    length = shape[axis]
    shape[axis] += len(weights) - 1
    result = np.zeros(shape)
    for step, weight in enumerate(weights):
        place = [slice(None)] * 3
        place[axis] = slice(step, step + length)
        result[tuple(place)] += weight * sums
    return result

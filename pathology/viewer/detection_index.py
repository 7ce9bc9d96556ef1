"""Spatial index of detections: those in a window, or counts per cell if there are too many to draw.

Detections are sorted once into square buckets; a window then covers a few runs of rows.  A million detections take
about 60 MB and a few milliseconds per query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.findings.detections import Detections

__all__ = ["Density", "DetectionIndex"]

_BUCKETS: Final = 256
"""Buckets along the longer side of the slide."""


@dataclass(frozen=True)
class Density:
    """Counts of detections per cell.

    Attributes
    ----------
    left, top
        Level-0 pixels of the corner of cell ``(0, 0)``.
    cell
        Side of a cell in level-0 pixels.
    counts
        ``(rows, columns)`` uint32.
    """

    left: float
    top: float
    cell: float
    counts: NDArray[np.uint32]


class DetectionIndex:
    """Detections of one slide, indexed by position.

    Parameters
    ----------
    found
        The detections.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels; detections beyond it are assigned to the nearest bucket.
    """

    def __init__(self, found: Detections, dimensions: tuple[int, int]) -> None:
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        self._x, self._y = np.ascontiguousarray(centres[:, 0]), np.ascontiguousarray(centres[:, 1])
        self._side = max(dimensions) / _BUCKETS
        self._columns = max(1, int(np.ceil(dimensions[0] / self._side)))
        self._rows = max(1, int(np.ceil(dimensions[1] / self._side)))
        bucket = self._bucket(self._y, self._rows) * self._columns + self._bucket(self._x, self._columns)
        self._order = np.argsort(bucket, kind="stable").astype(np.uint32)
        self._starts = np.searchsorted(bucket[self._order], np.arange(self._columns * self._rows + 1))

    def _bucket(self, values: NDArray[np.floating], count: int) -> NDArray[np.int64]:
        return np.asarray(np.clip(np.floor(values / self._side), 0, count - 1), np.int64)

    def within(self, left: float, top: float, right: float, bottom: float) -> NDArray[np.uint32]:
        """Return the rows of the detections whose centres lie in a window, ascending.

        Parameters
        ----------
        left, top, right, bottom
            Level-0 pixels; the right and lower edges are exclusive.
        """
        columns = self._bucket(np.array([left, right]), self._columns)
        rows = self._bucket(np.array([top, bottom]), self._rows)
        runs = []
        for row in range(rows[0], rows[1] + 1):
            first, last = row * self._columns + columns[0], row * self._columns + columns[1]
            runs.append(self._order[self._starts[first] : self._starts[last + 1]])
        near = np.concatenate(runs) if runs else np.empty(0, np.uint32)
        x, y = self._x[near], self._y[near]
        inside = near[(x >= left) & (x < right) & (y >= top) & (y < bottom)]
        return np.sort(inside)

    def density(self, rows: NDArray[np.uint32], window: tuple[float, float, float, float], cells: int) -> Density:
        """Count detections in square cells.

        Parameters
        ----------
        rows
            The detections to count; all must lie within the window.
        window
            ``(left, top, right, bottom)`` in level-0 pixels.
        cells
            Cells along the window's longer side.
        """
        left, top, right, bottom = window
        side = max(right - left, bottom - top) / cells
        # Cells lie on a grid fixed to the slide, so that they do not shift while the view moves.
        first_column, first_row = int(np.floor(left / side)), int(np.floor(top / side))
        columns = int(np.floor(right / side)) - first_column + 1
        down = int(np.floor(bottom / side)) - first_row + 1
        column = np.clip((self._x[rows] / side).astype(np.int64) - first_column, 0, columns - 1)
        row = np.clip((self._y[rows] / side).astype(np.int64) - first_row, 0, down - 1)
        counts = np.bincount(row * columns + column, minlength=columns * down).reshape(down, columns)
        return Density(first_column * side, first_row * side, side, counts.astype(np.uint32))

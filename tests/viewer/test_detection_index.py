"""Detections by place, against looking at every one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.findings.detections import Detections
from pathology.viewer.detection_index import DetectionIndex

side = st.floats(-200, 5200, allow_nan=False, width=32)


def detections(count, seed, dimensions):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-30, np.array(dimensions) + 30, (count, 2))
    boxes = np.concatenate([centres - 10, centres + 10], axis=1).astype(np.float32)
    return Detections(boxes, rng.random(count).astype(np.float32))


@given(st.integers(0, 300), st.integers(0, 5), side, side, side, side)
def test_a_window_holds_what_looking_at_all_finds(count, seed, a, b, c, d):
    dimensions = (5000, 3000)
    found = detections(count, seed, dimensions)
    left, right, top, bottom = min(a, c), max(a, c), min(b, d), max(b, d)
    rows = DetectionIndex(found, dimensions).within(left, top, right, bottom)
    x, y = found.boxes[:, [0, 2]].mean(axis=1), found.boxes[:, [1, 3]].mean(axis=1)
    expected = np.flatnonzero((x >= left) & (x < right) & (y >= top) & (y < bottom))
    np.testing.assert_array_equal(rows, expected)


def test_density_counts_everything_once_at_its_place():
    dimensions = (5000, 3000)
    found = detections(2000, 1, dimensions)
    index = DetectionIndex(found, dimensions)
    window = (100.0, 250.0, 4000.0, 2800.0)
    rows = index.within(*window)
    density = index.density(rows, window, 50)
    assert density.cell == pytest.approx(3900 / 50)
    assert density.counts.sum() == len(rows)
    centres = found.centres[rows]
    for row, column in np.argwhere(density.counts)[::37]:
        left, top = density.left + column * density.cell, density.top + row * density.cell
        inside = (centres >= (left, top)).all(axis=1) & (centres < (left + density.cell, top + density.cell)).all(
            axis=1
        )
        assert inside.sum() == density.counts[row, column]


def test_cells_do_not_move_with_the_window():
    dimensions = (5000, 3000)
    index = DetectionIndex(detections(100, 0, dimensions), dimensions)
    first = index.density(index.within(0, 0, 2000, 2000), (0, 0, 2000, 2000), 40)
    second = index.density(index.within(333, 77, 2333, 2077), (333, 77, 2333, 2077), 40)
    assert first.cell == second.cell
    assert (second.left / second.cell).is_integer()
    assert (second.top / second.cell).is_integer()


def test_no_detections():
    index = DetectionIndex(Detections.none(), (100, 100))
    assert len(index.within(0, 0, 100, 100)) == 0

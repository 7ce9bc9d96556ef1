"""Outlines of cells: areas, holes, orientation, validity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import label

from pathology.outputs.figures.polygons import outlines, ring_area


def test_a_rectangle_has_four_corners_at_its_own_place():
    mask = np.zeros((6, 7), bool)
    mask[2:4, 1:5] = True
    (polygon,) = outlines(mask, origin=(100.5, 200), cell=(10.25, 20))
    assert len(polygon) == 1
    assert sorted(map(tuple, polygon[0][:-1].tolist())) == [
        (110.75, 240.0),
        (110.75, 280.0),
        (151.75, 240.0),
        (151.75, 280.0),
    ]
    assert (polygon[0][0] == polygon[0][-1]).all()


def test_a_hole_is_a_ring_that_runs_the_other_way():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (polygon,) = outlines(mask)
    assert [ring_area(ring) for ring in polygon] == [25, -1]


def test_nothing_has_no_outline():
    assert outlines(np.zeros((4, 4), bool)) == []
    assert outlines(np.zeros((0, 0), bool)) == []


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_outlines_are_valid_and_cover_exactly_the_cells(mask):
    geometry = pytest.importorskip("shapely.geometry")
    polygons = outlines(mask)
    assert len(polygons) == label(mask)[1]
    shapes = [geometry.Polygon(rings[0], rings[1:]) for rings in polygons]
    assert all(shape.is_valid for shape in shapes)
    assert all(shape.exterior.is_ccw for shape in shapes)
    assert sum(shape.area for shape in shapes) == mask.sum()
    for row, column in np.argwhere(mask):
        assert sum(shape.contains(geometry.Point(column + 0.5, row + 0.5)) for shape in shapes) == 1


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_ring_areas_add_up(mask):
    assert sum(ring_area(ring) for polygon in outlines(mask) for ring in polygon) == mask.sum()

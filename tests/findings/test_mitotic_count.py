"""Counts, their units and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.errors import UsageError
from pathology.findings.hotspot import HotspotWindow
from pathology.findings.mitotic_count import (
    FNCLCC_FIELD,
    MODERN_FIELD,
    FieldConvention,
    TissueMap,
    bell_counts,
    count_mitoses,
)


def test_conventions_convert_as_published():
    assert FNCLCC_FIELD.area_mm2 == pytest.approx(1.734)
    assert FNCLCC_FIELD.to_density(10) == pytest.approx(5.77, abs=0.005)
    assert FNCLCC_FIELD.to_density(20) == pytest.approx(11.53, abs=0.005)
    # Counting in modern fields with the old cut-offs inflates a count.
    assert MODERN_FIELD.area_mm2 / FNCLCC_FIELD.area_mm2 == pytest.approx(1.367, abs=5e-4)


@given(st.floats(0, 1e4), st.floats(0.05, 0.5))
def test_conversion_is_invertible(count, field):
    convention = FieldConvention(name="any", field_mm2=field)
    assert convention.from_density(convention.to_density(count)) == pytest.approx(count)


def test_field_number_gives_the_field():
    microscope = FieldConvention.of_microscope(22, 40)
    assert microscope.field_mm2 == pytest.approx(math.pi * 0.275**2)
    assert microscope.field_mm2 == pytest.approx(MODERN_FIELD.field_mm2, rel=0.005)
    assert FieldConvention.of_microscope(25, 40, tube_factor=1.25).field_mm2 == pytest.approx(math.pi * 0.25**2)
    with pytest.raises(UsageError):
        FieldConvention.of_microscope(0)


def test_a_slide_is_counted():
    generator = np.random.default_rng(0)
    window = HotspotWindow(area_mm2=1.734)
    cluster = np.array([20_000, 20_000]) + generator.uniform(-1000, 1000, (30, 2))
    spread = generator.uniform(0, 60_000, (100, 2))
    result = count_mitoses(np.concatenate([spread, cluster]), 0.25, window=window, tissue_mm2=225.0, simulations=50)
    assert result.total == 130
    assert result.overall_per_mm2 == pytest.approx(130 / 225)
    hotspot = result.hotspot
    assert hotspot.count >= 30
    assert hotspot.count == len(hotspot.members)
    assert hotspot.per_mm2 == pytest.approx(hotspot.count / 1.734)
    assert hotspot.per_fields[FNCLCC_FIELD.name] == pytest.approx(hotspot.count)
    assert hotspot.per_fields[MODERN_FIELD.name] == pytest.approx(hotspot.count * 2.37 / 1.734)
    assert hotspot.per_mm2_interval[0] < hotspot.per_mm2 < hotspot.per_mm2_interval[1]
    assert result.clustering_p_value == pytest.approx(1 / 51)
    assert result.bias > 1


def test_no_mitoses_are_a_finding_too():
    result = count_mitoses(np.empty((0, 2)), 0.25, tissue_mm2=50.0)
    assert result.total == 0
    assert result.overall_per_mm2 == 0
    assert result.hotspot is None
    assert bell_counts(np.empty((0, 2)), 0.25) == ()


def test_unknown_area_leaves_figures_out():
    result = count_mitoses(np.array([[5.0, 5.0]]), 0.25)
    assert result.hotspot.count == 1
    assert result.overall_per_mm2 is None
    assert result.bias is None
    with pytest.raises(UsageError):
        count_mitoses(np.array([[5.0, 5.0]]), 0.25, tissue_mm2=0)


@pytest.mark.parametrize("shape", ["circle", "rectangle"])
def test_tissue_in_the_window(shape):
    window = HotspotWindow(shape=shape, area_mm2=0.25, aspect=1)

    def share(x, y, mask):
        tissue = TissueMap(mask, (20_000, 10_000))
        return count_mitoses(np.array([[x, y]], float), 0.25, window=window, tissue=tissue).hotspot.tissue_share

    left_half = np.zeros((500, 1000), bool)
    left_half[:, :500] = True
    assert share(5_000, 5_000, left_half) == 1
    assert share(15_000, 5_000, left_half) == 0
    assert share(10_000, 5_000, left_half) == pytest.approx(0.5, abs=0.01)
    assert share(0, 5_000, left_half) == pytest.approx(0.5, abs=0.01), "beyond the slide's edge there is no tissue"
    # One pixel of this mask is larger than the window.
    assert share(1, 1, np.array([[True, False]])) in {0.0, 0.5, 1.0}


def test_the_density_is_of_the_tissue_in_the_window():
    half = np.zeros((500, 1000), bool)
    half[:, :500] = True
    window = HotspotWindow(area_mm2=0.25)
    points = np.array([[10_000.0, 5_000.0]])
    spot = count_mitoses(points, 0.25, window=window, tissue=TissueMap(half, (20_000, 10_000))).hotspot
    assert spot.tissue_mm2 == pytest.approx(0.125, rel=0.02)
    assert spot.per_mm2 == pytest.approx(1 / spot.tissue_mm2)
    assert spot.per_mm2_interval[0] < spot.per_mm2 < spot.per_mm2_interval[1]
    assert spot.per_fields[FNCLCC_FIELD.name] == pytest.approx(spot.per_mm2 * 1.734)
    assert "in a window of 0.25 mm²" in spot.basis
    alone = count_mitoses(points, 0.25, window=window).hotspot
    assert alone.per_mm2 == pytest.approx(4)
    assert "tissue area unknown" in alone.basis


def test_of_equal_windows_the_one_with_more_tissue_is_taken():
    right = np.zeros((500, 1000), bool)
    right[:, 600:] = True
    window = HotspotWindow(area_mm2=0.25)
    points = np.array([[3_000.0, 5_000.0], [17_000.0, 5_000.0]])
    spot = count_mitoses(points, 0.25, window=window, tissue=TissueMap(right, (20_000, 10_000))).hotspot
    assert spot.x > 15_000
    assert spot.tissue_share == 1


def test_bell_takes_the_highest_of_four_sets():
    points = np.concatenate(
        [np.full((n, 2), 20_000.0 * i) + np.arange(n)[:, None] for i, n in enumerate([3, 12, 7, 5, 2], start=1)]
    )
    counts = [c.count for c in bell_counts(points, 0.25)]
    assert counts == [12, 7, 5, 3]


def test_tissue_that_could_not_be_read_is_not_counted_in():
    tissue = TissueMap(np.ones((10, 10), bool), (1000, 1000))
    corners = np.array([[0, 0], [400, 0], [800, 0], [0, 400]])
    whole, share = tissue.without_unread(corners, 400.0, np.zeros(4, bool))
    assert whole is tissue
    assert share == 1
    rest, share = tissue.without_unread(corners, 400.0, np.array([True, False, False, True]))
    assert share == pytest.approx(1 - 0.16 - 0.16)
    assert not rest.mask[:8, :4].any()
    assert rest.mask[:, 4:].all()
    # What another patch shows as well was read.
    over = np.array([[0, 0], [200, 0]])
    _, share = tissue.without_unread(over, 400.0, np.array([True, False]))
    assert share == pytest.approx(1 - 0.08)

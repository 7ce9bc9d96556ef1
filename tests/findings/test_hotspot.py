"""The fast hotspot search against trying every position."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pathology.errors import UsageError
from pathology.findings.hotspot import HotspotWindow, expected_maximum, find_hotspot, find_hotspots

SHAPES = ["circle", "rectangle"]


def exhaustive(points: np.ndarray, mpp: float, window: HotspotWindow) -> int:
    """Try every window with two points on its edge (and every point alone)."""
    half = np.array(window.half_extent_mm) * 1000 / mpp
    unit = np.asarray(points, float) / half
    if window.shape == "circle":
        best = 1
        for i, p in enumerate(unit):
            near = unit[np.hypot(*(unit - p).T) <= 2 + 1e-9]
            others = unit[i + 1 :]
            others = others[np.hypot(*(others - p).T) <= 2]
            d = others - p
            length = np.hypot(*d.T)
            middle, ok = p + d / 2, length > 0
            normal = np.stack([-d[ok, 1], d[ok, 0]], 1) / length[ok, None]
            lift = np.sqrt(np.maximum(1 - length[ok] ** 2 / 4, 0))[:, None] * normal
            centres = np.concatenate([[p], middle[ok] + lift, middle[ok] - lift])
            # Two circles about one pair reach no further than 2 from p.
            for start in range(0, len(centres), 2000):
                away = near[None] - centres[start : start + 2000, None]
                best = max(best, int((np.hypot(away[..., 0], away[..., 1]) <= 1 + 1e-9).sum(1).max()))
        return best
    best = 1
    for left in unit[:, 0]:
        column = unit[(unit[:, 0] >= left - 2e-9) & (unit[:, 0] <= left + 2 + 2e-9), 1]
        column = np.sort(column)
        best = max(best, int((np.searchsorted(column, column + 2 + 2e-9, "right") - np.arange(len(column))).max()))
    return best


@pytest.mark.parametrize("shape", SHAPES)
@given(
    points=arrays(np.int32, st.tuples(st.integers(1, 40), st.just(2)), elements=st.integers(0, 60)),
    area=st.floats(1e-5, 3e-3),
)
@settings(max_examples=150, deadline=None)
def test_equals_exhaustive_search_on_any_points(shape, points, area):
    window = HotspotWindow(shape=shape, area_mm2=area)
    hotspot = find_hotspot(points, 1.0, window)
    assert hotspot.count == exhaustive(points, 1.0, window)
    assert inside(hotspot, points) >= set(hotspot.members)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lack", [1e-3, 1e-5, 1e-7, 0.0, -1e-7])
@pytest.mark.parametrize("upright", [True, False])
def test_columns_all_but_a_window_apart_take_little_memory(shape, lack, upright):
    # Undecided along a line down to the scale of the lack: without care, cells double with every step.
    x, y = np.meshgrid([0, 3, 10, 13], np.arange(10) / 4)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points = np.concatenate([points, points])[:, :: 1 if upright else -1]
    side = 10 - lack
    window = HotspotWindow(shape=shape, area_mm2=(side**2 if shape == "rectangle" else np.pi * side**2 / 4) / 1e6)
    window = window.model_copy(update={"aspect": 1.0})
    tracemalloc.start()
    hotspot = find_hotspot(points, 1.0, window)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert hotspot.count == exhaustive(points, 1.0, window)
    assert inside(hotspot, points) == set(hotspot.members)
    assert peak < 50e6


def inside(hotspot, points) -> set[int]:
    x = (points[:, 0] - hotspot.x) / hotspot.half_width
    y = (points[:, 1] - hotspot.y) / hotspot.half_height
    distance = np.hypot(x, y) if hotspot.window.shape == "circle" else np.maximum(abs(x), abs(y))
    return set(np.flatnonzero(distance <= 1 + 1e-9).tolist())


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_exhaustive_search_on_every_real_case(shape, data_dir):
    content = json.loads((data_dir / "mitosis" / "MIDOG++.json").read_text())
    centres: dict[int, list[tuple[float, float]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["category_id"] == 1:
            x1, y1, x2, y2 = annotation["bbox"]
            centres[annotation["image_id"]].append(((x1 + x2) / 2, (y1 + y2) / 2))
    assert sum(1 for p in centres.values() if p) == 475
    checked = 0
    for points in (np.array(p) for p in centres.values() if p):
        # These regions measure about 2 mm²; smaller windows leave something to search.
        for area in (0.1, 0.5) if len(points) < 150 else (0.1,):
            window = HotspotWindow(shape=shape, area_mm2=area)
            assert find_hotspot(points, 0.25, window).count == exhaustive(points, 0.25, window)
        checked += 1
    assert checked == sum(1 for p in centres.values() if p) > 400


@pytest.mark.parametrize("shape", SHAPES)
def test_the_order_of_points_changes_nothing(shape):
    generator = np.random.default_rng(4)
    points = generator.integers(0, 3000, (400, 2))
    window = HotspotWindow(shape=shape, area_mm2=0.1)
    first = find_hotspot(points, 0.5, window)
    shuffle = generator.permutation(400)
    second = find_hotspot(points[shuffle], 0.5, window)
    assert (first.x, first.y) == (second.x, second.y)
    assert set(first.members) == {int(shuffle[i]) for i in second.members}


def test_a_planted_cluster_is_found_and_centred():
    generator = np.random.default_rng(1)
    window = HotspotWindow(area_mm2=0.2376)
    radius = window.half_extent_mm[0] * 4000
    spread = generator.uniform(0, 80_000, (2_000, 2))
    angle = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    cluster = np.stack([41_234 + 0.8 * radius * np.cos(angle), 9_876 + 0.8 * radius * np.sin(angle)], 1)
    hotspot = find_hotspot(np.concatenate([spread, cluster]), 0.25, window)
    assert set(range(2_000, 2_060)) <= set(hotspot.members)
    assert math.hypot(hotspot.x - 41_234, hotspot.y - 9_876) < 0.2 * radius


def test_ten_thousand_points_need_little_work():
    # Work, not wall time: how many positions the search looks at, of the 10**8 that pairs give.
    from unittest.mock import patch

    from scipy import spatial

    points = np.random.default_rng(0).uniform(0, 80_000, (10_000, 2))
    asked = 0

    class Counting(spatial.cKDTree):
        def query_ball_point(self, x, *arguments, **keywords):
            nonlocal asked
            asked += np.atleast_2d(x).shape[0]
            return super().query_ball_point(x, *arguments, **keywords)

    with patch.object(spatial, "cKDTree", Counting):
        find_hotspot(points, 0.25, HotspotWindow(area_mm2=2.37))
    assert asked < 100_000


def test_several_hotspots_share_no_point():
    points = np.random.default_rng(2).integers(0, 10_000, (300, 2))
    found = find_hotspots(points, 0.25, HotspotWindow(area_mm2=0.2), most=4)
    assert len(found) == 4
    assert [h.count for h in found] == sorted((h.count for h in found), reverse=True)
    assert len({i for h in found for i in h.members}) == sum(h.count for h in found)
    assert found[0].members == find_hotspot(points, 0.25, HotspotWindow(area_mm2=0.2)).members


def test_degenerate_inputs():
    window = HotspotWindow(area_mm2=1)
    assert find_hotspot(np.empty((0, 2)), 0.25, window) is None
    alone = find_hotspot(np.array([[5, 7]]), 0.25, window)
    assert (alone.x, alone.y, alone.members) == (5, 7, (0,))
    same = find_hotspot(np.full((50, 2), 3), 0.25, window)
    assert same.count == 50
    line = find_hotspot(np.stack([np.arange(1000) * 10, np.zeros(1000)], 1), 1.0, window)
    assert line.count == 113  # the diameter is 1128.4 µm, room for 113 points 10 µm apart
    with pytest.raises(UsageError):
        find_hotspot(np.array([[np.nan, 0]]), 0.25, window)
    with pytest.raises(UsageError):
        find_hotspot(np.array([[0, 0]]), 0, window)


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_encloses_the_stated_area(shape):
    hotspot = find_hotspot(np.array([[100, 50]]), 0.25, HotspotWindow(shape=shape, area_mm2=1.734, aspect=1.5))
    outline = hotspot.outline(720)
    x, y = outline[:-1].T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area * 0.25**2 / 1e6 == pytest.approx(1.734, rel=1e-4)
    assert (outline[0] == outline[-1]).all()


def test_the_maximum_of_even_points_is_biased_upwards():
    window = HotspotWindow(area_mm2=1.734)
    expected = expected_maximum(500, 100.0, window, observed=30, simulations=60, seed=1)
    assert expected.anywhere == pytest.approx(8.67)
    assert expected.bias > 1.5
    assert expected.interval[0] <= expected.mean <= expected.interval[1]
    assert expected.p_value == pytest.approx(1 / 61)
    assert expected == expected_maximum(500, 100.0, window, observed=30, simulations=60, seed=1)
    wider = expected_maximum(2000, 400.0, window, observed=30, simulations=60, seed=1)
    assert wider.mean > expected.mean, "the more tissue of one density is searched, the higher the maximum"
    with pytest.raises(UsageError):
        expected_maximum(5, 0.0, window, observed=1)

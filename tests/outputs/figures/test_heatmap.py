"""Where each prediction lands on the slide, by numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import UsageError
from pathology.outputs.figures.heatmap import Heatmap, build_heatmap
from pathology.settings import GridSettings
from pathology.tiling.grid import Grid


def corners(grid):
    return np.concatenate([grid.origins(grid.block(i)) for i in range(len(grid))])


def probabilities(n, c, seed=0):
    values = np.random.default_rng(seed).random((n, c)).astype(np.float32)
    return values / values.sum(axis=1, keepdims=True)


def on_grid(grid, p, tissue=None):
    coords = corners(grid)
    tissue = np.ones(len(coords), np.float32) if tissue is None else tissue
    names = [f"c{i}" for i in range(p.shape[1])]
    return build_heatmap(
        coords, p, tissue, classes=names, extent=grid.patch_extent, stride=grid.settings.stride * grid.scale
    )


@settings(max_examples=60, deadline=None)
@given(
    slide_mpp=st.floats(0.1, 1.0),
    mpp=st.floats(0.25, 2.0),
    patch=st.sampled_from([32, 224, 299]),
    width=st.integers(300, 60_000),
    height=st.integers(300, 3_000),
)
def test_cells_of_touching_patches_are_the_patches(slide_mpp, mpp, patch, width, height):
    grid = Grid(GridSettings(patch=patch, stride=patch, mpp=mpp), (width, height), slide_mpp)
    coords = corners(grid)
    p = probabilities(len(coords), 2)
    heatmap = on_grid(grid, p)
    assert heatmap.shape == (grid.rows, grid.columns)
    picks = np.random.default_rng(1).integers(0, len(coords), 50)
    for i in picks:
        x, y = coords[i]
        column = heatmap.cells_along(np.array([x + grid.patch_extent / 2]), 0)[0]
        row = heatmap.cells_along(np.array([y + grid.patch_extent / 2]), 1)[0]
        left, top, right, _ = heatmap.bounds(row, column)
        # Exactly the grid's own rounding brings the cell's corner back to the patch's.
        assert (np.floor(left + 0.5), np.floor(top + 0.5)) == (x, y)
        assert right - left == pytest.approx(grid.patch_extent)
        assert np.array_equal(heatmap.values[:, row, column], p[i])


@pytest.mark.parametrize(("patch", "stride"), [(64, 32), (96, 32), (60, 40), (64, 48), (50, 33)])
def test_overlapping_patches_are_averaged_by_area(patch, stride):
    # At a scale of 1 every corner is whole, so a raster of single pixels is an exact reference.
    grid = Grid(GridSettings(patch=patch, stride=stride, mpp=1.0, block=256), (400, 300), 1.0)
    coords = corners(grid)
    kept = np.random.default_rng(3).random(len(coords)) < 0.6
    p = probabilities(len(coords), 3, seed=4)
    heatmap = on_grid(grid, p, kept.astype(np.float32))

    first = coords[kept].min(axis=0)
    assert heatmap.origin == tuple(first)
    rows, columns = heatmap.shape
    sums = np.zeros((3, rows * stride, columns * stride))
    cover = np.zeros((rows * stride, columns * stride))
    for (x, y), values in zip(coords[kept] - first, p[kept], strict=True):
        sums[:, y : y + patch, x : x + patch] += values[:, None, None]
        cover[y : y + patch, x : x + patch] += 1
    per_cell = (rows, stride, columns, stride)
    total = cover.reshape(per_cell).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        expected = sums.reshape(3, *per_cell).sum(axis=(2, 4)) / total
    np.testing.assert_allclose(heatmap.values, expected, rtol=1e-6)
    assert np.array_equal(heatmap.known(), total > 0)


def test_four_patches_over_one_cell_give_their_plain_mean():
    coords = np.array([[0, 0], [32, 0], [0, 32], [32, 32]], np.int32)
    p = np.array([[0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]], np.float32)
    heatmap = build_heatmap(coords, p, np.ones(4, np.float32), classes=["a", "b"], extent=64, stride=32)
    assert heatmap.shape == (3, 3)
    assert heatmap.values[0, 1, 1] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4)
    assert heatmap.values[0, 0, 1] == pytest.approx((0.1 + 0.2) / 2)
    assert heatmap.values[1, 2, 2] == pytest.approx(0.3)


def test_rounding_of_corners_does_not_drift_over_a_wide_slide():
    grid = Grid(GridSettings(patch=224, stride=224, mpp=0.5), (150_000, 500), 0.2527)
    heatmap = on_grid(grid, probabilities(len(corners(grid)), 2))
    left, *_ = heatmap.bounds(0, grid.columns - 1)
    assert abs(left - corners(grid)[:, 0].max()) <= 0.5
    # A stride rounded to whole pixels would have come out several patches off.
    assert abs((grid.columns - 1) * round(grid.patch_extent) - left) > 40


def test_hairline_over_a_cell_paints_no_cell_of_its_own():
    stride = 224 * (0.25 / 0.2501)
    coords = np.array([[0, 0]], np.int32)
    one = np.ones(1, np.float32)
    heatmap = build_heatmap(coords, one[:, None], one, classes=["a"], extent=stride * (1 + 1e-12), stride=stride)
    assert heatmap.shape == (1, 1)


def test_no_tissue_and_unreadable_patches_are_not_known():
    coords = np.array([[0, 0], [10, 0], [20, 0], [30, 0]], np.int32)
    p = np.array([[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5], [0.9, 0.1]], np.float32)
    tissue = np.array([1, 1, 0, 0.5], np.float32)
    heatmap = build_heatmap(coords, p, tissue, classes=["a", "b"], extent=10, stride=10)
    assert heatmap.known().tolist() == [[True, False, False, True]]
    assert heatmap.predicted().tolist() == [[1, -1, -1, 0]]
    np.testing.assert_array_equal(heatmap.confidence(), np.array([[0.8, np.nan, np.nan, 0.9]], np.float32))
    np.testing.assert_array_equal(heatmap.probability("b"), np.array([[0.8, np.nan, np.nan, 0.1]], np.float32))


def test_ties_go_to_the_first_class():
    coords = np.zeros((1, 2), np.int32)
    p = np.array([[0.3, 0.35, 0.35]], np.float32)
    heatmap = build_heatmap(coords, p, np.ones(1, np.float32), classes=["a", "b", "c"], extent=5, stride=5)
    assert heatmap.predicted().item() == 1


@pytest.mark.parametrize("n", [0, 3])
def test_a_slide_without_any_scored_patch_has_an_empty_map(n):
    coords = np.arange(2 * n, dtype=np.int32).reshape(n, 2) * 10
    empty = build_heatmap(
        coords, np.full((n, 2), np.nan, np.float32), np.ones(n, np.float32), classes=["a", "b"], extent=10, stride=10
    )
    assert empty.shape == (0, 0)
    assert empty.predicted().shape == empty.confidence().shape == empty.probability("a").shape == (0, 0)
    assert empty.cells_along(np.arange(3.0), 0).tolist() == [-1, -1, -1]


def test_gaps_between_distant_patches_belong_to_no_cell():
    coords = np.array([[100, 40], [140, 40]], np.int32)
    p = np.ones((2, 1), np.float32)
    heatmap = build_heatmap(coords, p, np.ones(2, np.float32), classes=["a"], extent=10, stride=20)
    assert heatmap.shape == (1, 3)
    x = np.array([99.5, 100.5, 109.5, 110.5, 119.5, 120.5, 149.5, 150.5, 160.5])
    assert heatmap.cells_along(x, 0).tolist() == [-1, 0, 0, -1, -1, 1, 2, -1, -1]


def test_what_does_not_fit_is_refused():
    coords = np.array([[0, 0], [10, 0]], np.int32)
    p, tissue = np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32)
    good = {"classes": ["a", "b"], "extent": 10, "stride": 10}
    for bad, words in [
        ((coords[:, :1], p, tissue), "coords"),
        ((coords, p[:1], tissue), "probabilities"),
        ((coords, p[:, :1], tissue), "probabilities"),
        ((coords, p, tissue[:1]), "tissue"),
        ((np.array([[0, 0], [11, 0]], np.int32), p, tissue), "grid"),
        ((np.zeros((2, 2), np.int32), p, tissue), "same place"),
    ]:
        with pytest.raises(UsageError, match=words):
            build_heatmap(*bad, **good)
    with pytest.raises(UsageError, match="positive"):
        build_heatmap(coords, p, tissue, classes=["a", "b"], extent=10, stride=0)
    with pytest.raises(UsageError, match="a, b"):
        build_heatmap(coords, p, tissue, **good).probability("c")


class TestSmoothing:
    def heatmap(self, values, coverage=None):
        values = np.asarray(values, np.float32)
        coverage = np.ones(values.shape[1:], np.float32) if coverage is None else np.asarray(coverage, np.float32)
        return Heatmap(tuple("abc"[: len(values)]), values, (0.0, 0.0), 100.0, 100.0, coverage)

    def test_a_flat_map_stays_flat_up_to_its_edge(self):
        smooth = self.heatmap(np.full((1, 9, 9), 0.3)).smoothed(250)
        np.testing.assert_allclose(smooth.values, 0.3, atol=1e-6)

    def test_unknown_cells_stay_unknown_and_lend_nothing(self):
        values = np.full((1, 7, 7), 0.8)
        values[0, 3, 3] = np.nan
        smooth = self.heatmap(values).smoothed(150)
        assert np.isnan(smooth.values[0]).sum() == 1
        np.testing.assert_allclose(smooth.values[0][~np.isnan(values[0])], 0.8, atol=1e-6)

    def test_it_is_the_gaussian_mean_weighted_with_the_coverage(self):
        rng = np.random.default_rng(0)
        values, coverage = rng.random((1, 11, 8)), rng.integers(1, 5, (11, 8))
        smooth = self.heatmap(values, coverage).smoothed(130)
        rows, columns = np.mgrid[:11, :8]
        for row, column in ((0, 0), (5, 4), (10, 7)):
            # scipy cuts the Gaussian off at four standard deviations, along each axis
            near = (abs(rows - row) <= 5) & (abs(columns - column) <= 5)
            weights = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 1.3**2)) * coverage * near
            assert smooth.values[0, row, column] == pytest.approx((weights * values[0]).sum() / weights.sum(), abs=1e-6)

    def test_classes_still_add_up_to_one(self):
        first = np.random.default_rng(1).random((1, 6, 6))
        smooth = self.heatmap(np.concatenate([first, 1 - first])).smoothed(80)
        np.testing.assert_allclose(smooth.values.sum(axis=0), 1, atol=1e-6)

    def test_a_width_of_nothing_is_refused(self):
        with pytest.raises(UsageError, match="sigma"):
            self.heatmap(np.ones((1, 2, 2))).smoothed(0)


def test_coverage_says_how_many_patches_lie_on_a_cell():
    coords = np.array([(0, 0), (50, 0), (0, 50), (50, 50)], np.int32)
    heatmap = build_heatmap(
        coords, np.full((4, 1), 0.5, np.float32), np.ones(4, np.float32), classes=("a",), extent=100, stride=50
    )
    np.testing.assert_allclose(heatmap.coverage, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert heatmap.first_cell == (0, 0)

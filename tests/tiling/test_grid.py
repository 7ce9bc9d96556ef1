import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.settings import GridSettings
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles

settings_strategy = st.builds(
    lambda patch, mpp, ratio, block: GridSettings(
        patch=patch, mpp=mpp, stride=max(1, int(patch * ratio)), block=block, min_tissue=0
    ),
    patch=st.integers(16, 300),
    mpp=st.sampled_from([0.25, 0.499, 0.5, 1.0, 2.0]),
    ratio=st.floats(0.2, 2.0),
    block=st.integers(256, 2048),
)
grids = st.builds(
    Grid,
    settings=settings_strategy,
    dimensions=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    slide_mpp=st.sampled_from([0.25, 0.499, 0.5022]),
)


@given(grids)
def test_blocks_partition_the_positions(grid):
    seen = np.zeros((grid.rows, grid.columns), int)
    for index in range(len(grid)):
        block = grid.block(index)
        seen[block.row : block.row + block.rows, block.column : block.column + block.columns] += 1
    assert (seen == 1).all()
    with pytest.raises(IndexError):
        grid.block(len(grid))


@given(grids)
def test_touching_patches_cover_the_slide(grid):
    if grid.settings.stride > grid.settings.patch:
        return
    last_x = (grid.columns - 1) * grid.settings.stride + grid.settings.patch
    last_y = (grid.rows - 1) * grid.settings.stride + grid.settings.patch
    assert last_x >= grid.target_dimensions[0] - 0.5
    assert last_y >= grid.target_dimensions[1] - 0.5
    # ... and no column or row is there in vain.
    if grid.columns > 1:
        assert last_x - grid.settings.stride < grid.target_dimensions[0] - 0.5


@given(grids)
def test_level_zero_corners_do_not_drift(grid):
    block = grid.block(len(grid) - 1)
    corners = grid.origins(block)
    column = block.column + block.columns - 1
    exact = column * grid.settings.stride * grid.settings.mpp / grid.slide_mpp
    assert abs(corners[:, 0].max() - exact) <= 0.5 + 1e-6


def test_tissue_share_counts_cut_mask_pixels_by_the_part_inside():
    mask = np.zeros((4, 4), bool)
    mask[1, 1] = True  # level-0 pixels 10..20 of a 40 px slide
    share = TissueShare(mask, (40, 40))
    corners = np.array([[10, 10], [15, 10], [5, 5], [20, 20], [35, 35]], np.int32)
    assert share(corners, 10.0) == pytest.approx([1.0, 0.5, 0.25, 0.0, 0.0])


@given(
    mask=st.integers(0, 2**16 - 1),
    x=st.integers(-10, 80),
    y=st.integers(-10, 60),
    extent=st.integers(1, 60),
)
def test_tissue_share_equals_counting_pixels(mask, x, y, extent):
    bits = np.array([bool(mask >> i & 1) for i in range(16)]).reshape(4, 4)
    fine = np.kron(bits, np.ones((15, 20), bool))  # an 80 x 60 slide
    padded = np.pad(fine, 200)
    expected = padded[200 + y : 200 + y + extent, 200 + x : 200 + x + extent].mean()
    got = TissueShare(bits, (80, 60))(np.array([[x, y]], np.int32), float(extent))
    assert got[0] == pytest.approx(expected, abs=1e-6)


def test_plan_keeps_tissue_in_block_order():
    settings = GridSettings(patch=50, mpp=0.5, stride=50, min_tissue=0.5, block=256)
    grid = Grid(settings, (1000, 1000), 0.5)
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    plan = plan_tiles(grid, TissueShare(mask, grid.dimensions))
    assert len(plan) == 20 * 10
    assert plan.coords[:, 0].max() == 450
    assert (plan.tissue >= 0.5).all()
    assert plan.offsets[-1] == len(plan)
    for k in range(len(plan.blocks)):
        corners = grid.origins(grid.block(int(plan.blocks[k])))
        np.testing.assert_array_equal(plan.coords[plan.of_block(k)], corners[plan.positions[plan.of_block(k)]])


def test_a_slide_without_tissue_has_an_empty_plan():
    grid = Grid(GridSettings(), (500, 500), 0.5)
    plan = plan_tiles(grid, TissueShare(np.zeros((5, 5), bool), grid.dimensions))
    assert len(plan) == 0
    assert plan.coords.shape == (0, 2)

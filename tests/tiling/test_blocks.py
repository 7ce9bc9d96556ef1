"""A pass over a slide: every stored tile once, whatever the grid, the order and the number of threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.settings import GridSettings
from pathology.slide.open import open_reader
from pathology.testing.array_reader import ArrayReader
from pathology.testing.synthetic_slides import TissuePicture, write_svs
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.order import compact_order
from pathology.tiling.plan import plan_tiles
from pathology.tiling.tile_work import TileWork, tiles_under


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    picture = TissuePicture(2000, 1500, seed=3, tissue=0.7)
    return write_svs(tmp_path_factory.mktemp("slides") / "a.svs", picture, tile=128, factors=(1, 4))


def plan_of(reader, **grid):
    grid = Grid(GridSettings(**{"min_tissue": 0, "block": 512, **grid}), reader.dimensions, 0.5)
    return plan_tiles(grid, TissueShare(np.ones((3, 3), bool), reader.dimensions))


def read_all(reader, plan, ks=None, recolour=None):
    blocks = BlockReader(reader, plan.grid, recolour)
    return {
        k: blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]).pixels
        for k in (range(len(plan.blocks)) if ks is None else ks)
    }


GRIDS = {
    "aligned": {"patch": 128, "stride": 128, "mpp": 0.5},
    "several tiles": {"patch": 256, "stride": 256, "mpp": 0.5},
    "unaligned": {"patch": 100, "stride": 100, "mpp": 0.5},
    "overlapping": {"patch": 120, "stride": 60, "mpp": 0.5},
    "halved": {"patch": 64, "stride": 64, "mpp": 1.0},
    "resampled": {"patch": 96, "stride": 96, "mpp": 0.8},
    "resampled twice": {"patch": 60, "stride": 60, "mpp": 1.3},
    "coarser level": {"patch": 50, "stride": 50, "mpp": 2.0, "block": 256},
}


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_pass_decodes_every_stored_tile_once(slide, name):
    with open_reader(slide) as reader:
        plan = plan_of(reader, **GRIDS[name])
        assert len(plan.blocks) > 1
        everything = range(len(plan.blocks))
        read_all(reader, plan, compact_order(plan, everything))
        needed = tiles_under(reader, plan, everything)
        assert reader.tile_counts.decoded == needed
        level = reader.levels[BlockReader(reader, plan.grid).scaling.level]
        assert needed == -(-level.width // 128) * -(-level.height // 128)
        if name in ("unaligned", "overlapping", "resampled"):
            assert reader.tile_counts.reused > 0
        if name in ("aligned", "several tiles"):
            assert reader.tile_counts.reused == 0


@pytest.mark.parametrize("name", ["unaligned", "resampled"])
def test_order_threads_and_company_change_nothing(slide, name):
    with open_reader(slide) as one:
        plan = plan_of(one, **GRIDS[name])
        expected = read_all(one, plan)
    for threads in (1, 2, 4):
        with open_reader(slide, threads=threads) as reader, ThreadPoolExecutor(threads) as pool:
            blocks = BlockReader(reader, plan.grid)

            def read(k, blocks=blocks):
                return k, blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]).pixels

            for k, pixels in pool.map(read, compact_order(plan, range(len(plan.blocks)))):
                np.testing.assert_array_equal(pixels, expected[k])


@settings(deadline=None, max_examples=30)
@given(
    patch=st.integers(20, 90),
    stride=st.integers(10, 90),
    mpp=st.sampled_from([0.25, 0.5, 0.8, 1.0, 1.9]),
    chosen=st.sets(st.integers(0, 400), min_size=1, max_size=6),
)
def test_any_patches_of_a_block_are_those_of_the_whole_block(patch, stride, mpp, chosen):
    picture = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    reader = ArrayReader(picture)
    plan = plan_of(reader, patch=patch, stride=min(stride, 4 * patch), mpp=mpp)
    blocks = BlockReader(reader, plan.grid)
    positions = plan.positions[plan.of_block(0)]
    whole = blocks.read(0, positions).pixels.astype(int)
    some = np.unique([c % len(positions) for c in chosen])
    # Interpolation weights are rounded to 1/32 pixel relative to what is read.
    assert np.abs(blocks.read(0, positions[some]).pixels - whole[some]).max() <= (3 if mpp != 0.5 else 0)


@pytest.mark.parametrize("stride", [16, 60, 200])
def test_colours_are_changed_the_same_before_and_after_cutting(stride):
    picture = np.random.default_rng(1).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    reader = ArrayReader(picture)
    plan = plan_of(reader, patch=60, stride=stride, mpp=0.5)
    plain = read_all(reader, plan)
    changed = read_all(reader, plan, recolour=lambda pixels: 255 - pixels)
    for k, pixels in plain.items():
        np.testing.assert_array_equal(changed[k], 255 - pixels)


@given(patch=st.integers(16, 4000), stride=st.integers(1, 4000), block=st.integers(256, 4096))
def test_a_block_never_holds_much_more_than_its_pixels(patch, stride, block):
    stride = min(stride, 4 * patch)
    grid = Grid(GridSettings(patch=patch, stride=stride, block=block, mpp=0.5), (10**5, 10**5), 0.5)
    side = grid.patches_per_block
    assert side == 1 or (side * patch) ** 2 <= 4 * block**2
    assert side == 1 or (side - 1) * stride + patch <= block + patch


def test_strips_keep_neighbours_together():
    reader = ArrayReader(np.zeros((2000, 3000, 3), np.uint8))
    plan = plan_of(reader, patch=64, stride=64, mpp=0.5, block=256)
    ks = range(len(plan.blocks))
    order = compact_order(plan, ks)
    assert sorted(order) == list(ks)
    rows, columns = np.divmod(plan.blocks[list(order[:64])], plan.grid.block_columns)
    assert np.ptp(rows) == np.ptp(columns) == 7
    assert compact_order(plan, [5, 3]) == (3, 5)


def test_tile_work_adds_up_and_speaks():
    total = TileWork(3, 2, 1) + TileWork(needed=4)
    assert total == TileWork(7, 2, 1)
    assert str(total) == "2 decoded for 7 needed, 1 reused"


@settings(max_examples=25, deadline=None)
@given(patch=st.integers(80, 300), stride=st.integers(16, 320), level=st.integers(0, 1), choice=st.integers(0, 10**6))
def test_patches_at_any_stride_are_openslides_pixels(slide, patch, stride, level, choice):
    """On the generated slide's levels, whichever way the patches are read: tile by tile, as windows, overlapping."""
    with open_reader(slide) as reader, openslide.OpenSlide(slide) as other:
        plan = plan_of(reader, patch=patch, stride=stride, mpp=0.5 * 4**level)
        patches = read_block(reader, plan, choice)
        for coordinates, pixels in patches:
            wanted = np.asarray(other.read_region(coordinates, level, (patch, patch)))
            np.testing.assert_array_equal(pixels, np.where(wanted[:, :, 3:] == 0, 255, wanted[:, :, :3]))


@settings(max_examples=25, deadline=None)
@given(patch=st.integers(110, 400), stride=st.integers(16, 420), choice=st.integers(0, 10**6))
def test_patches_of_the_real_slide_are_openslides_pixels(data_dir, patch, stride, choice):
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    with open_reader(path) as reader, openslide.OpenSlide(path) as other:
        for coordinates, pixels in read_block(reader, plan_of(reader, patch=patch, stride=stride, mpp=0.5), choice):
            wanted = np.asarray(other.read_region(coordinates, 0, (patch, patch)))
            np.testing.assert_array_equal(pixels, np.where(wanted[:, :, 3:] == 0, 255, wanted[:, :, :3]))


def read_block(reader, plan, choice):
    """Up to 40 patches of one block with their level-0 corners."""
    k = choice % len(plan.blocks)
    chosen = np.arange(len(plan))[plan.of_block(k)][:40]
    pixels = BlockReader(reader, plan.grid).read(int(plan.blocks[k]), plan.positions[chosen]).pixels
    return [(tuple(map(int, plan.coords[i])), patch) for i, patch in zip(chosen, pixels, strict=True)]

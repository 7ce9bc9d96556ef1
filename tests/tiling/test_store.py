import numpy as np
import pytest
import zarr

from pathology.errors import StoreError
from pathology.settings import GridSettings
from pathology.testing.array_reader import ArrayReader
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles
from pathology.tiling.store import PatchStore


@pytest.fixture
def slide():
    picture = np.random.default_rng(0).integers(0, 255, (700, 900, 3)).astype(np.uint8)
    reader = ArrayReader(picture, damaged=[(0, 2, 2)])
    grid = Grid(GridSettings(patch=64, mpp=0.5, stride=48, block=256), reader.dimensions, 0.5)
    mask = np.ones((7, 9), bool)
    mask[:, 6:] = False
    return reader, picture, plan_tiles(grid, TissueShare(mask, reader.dimensions))


def create(path, reader, plan, mode="decoded"):
    return PatchStore.create(
        path, plan, mode, slide=reader.path, fingerprint=reader.fingerprint, description={"reader": "array"}
    )


def fill(store, reader, plan, ks=None):
    blocks = BlockReader(reader, plan.grid)
    for k in range(len(plan.blocks)) if ks is None else ks:
        store.write_block(k, blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]))


def test_patches_are_the_slides_pixels(tmp_path, slide):
    reader, picture, plan = slide
    store = create(tmp_path / "s.zarr", reader, plan)
    fill(store, reader, plan)
    store.finish()
    padded = np.pad(picture, ((0, 64), (0, 64), (0, 0)), constant_values=255)
    with PatchStore.open(tmp_path / "s.zarr") as opened:
        assert len(opened) == len(plan)
        damaged = np.flatnonzero(~opened.readable)
        assert len(damaged) > 0
        for i in range(len(opened)):
            x, y = plan.coords[i]
            touches = x < 192 and x + 64 > 128 and y < 192 and y + 64 > 128
            assert touches == (i in damaged)
            if not touches:
                np.testing.assert_array_equal(opened[i], padded[y : y + 64, x : x + 64])


def test_indexing_slices_and_dask_agree(tmp_path, slide):
    reader, _, plan = slide
    store = create(tmp_path / "s.zarr", reader, plan)
    fill(store, reader, plan)
    store.finish()
    opened = PatchStore.open(tmp_path / "s.zarr")
    few = opened[[5, 0, 17]]
    np.testing.assert_array_equal(few[1], opened[0])
    np.testing.assert_array_equal(opened[-1], opened[len(opened) - 1])
    np.testing.assert_array_equal(opened[3:9], np.stack([opened[i] for i in range(3, 9)]))
    lazy = opened.to_dask()
    assert lazy.shape == (len(plan), 64, 64, 3)
    np.testing.assert_array_equal(lazy[[5, 0, 17]].compute(scheduler="synchronous"), few)


def test_plain_zarr_reads_it(tmp_path, slide):
    reader, _, plan = slide
    store = create(tmp_path / "s.zarr", reader, plan)
    fill(store, reader, plan)
    store.finish()
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    slots = group["slots"][:]
    np.testing.assert_array_equal(group["pixels"][int(slots[3])], PatchStore.open(tmp_path / "s.zarr")[3])


def test_one_shard_a_block_and_resuming_knows_them(tmp_path, slide):
    reader, _, plan = slide
    store = create(tmp_path / "s.zarr", reader, plan)
    fill(store, reader, plan, ks=[0, 2])
    again = create(tmp_path / "s.zarr", reader, plan)
    assert [again.has_block(k) for k in range(len(plan.blocks))] == [k in (0, 2) for k in range(len(plan.blocks))]
    assert len(list((tmp_path / "s.zarr" / "pixels").glob("c.*"))) == 2


def test_an_unfinished_store_is_refused(tmp_path, slide):
    reader, _, plan = slide
    create(tmp_path / "s.zarr", reader, plan)
    with pytest.raises(StoreError, match="incomplete"):
        PatchStore.open(tmp_path / "s.zarr")


def test_no_store_and_another_store_are_refused(tmp_path, slide):
    reader, _, plan = slide
    with pytest.raises(StoreError, match="no patch store"):
        PatchStore.open(tmp_path / "nothing.zarr")
    create(tmp_path / "s.zarr", reader, plan)
    other = plan_tiles(
        Grid(GridSettings(patch=32, mpp=0.5, stride=32), reader.dimensions, 0.5),
        TissueShare(np.ones((2, 2), bool), reader.dimensions),
    )
    with pytest.raises(StoreError, match="a different store"):
        create(tmp_path / "s.zarr", reader, other)


def test_a_reference_store_reads_the_slide(tmp_path, cmu_slide):
    from pathology.slide.open import open_reader

    with open_reader(cmu_slide) as reader:
        grid = Grid(GridSettings(patch=128, mpp=1.0, stride=128), reader.dimensions, reader.mpp)
        plan = plan_tiles(grid, TissueShare(np.ones((3, 3), bool), reader.dimensions))
        store = PatchStore.create(
            tmp_path / "r.zarr", plan, "reference", slide=cmu_slide, fingerprint=reader.fingerprint, description={}
        )
        store.finish()
        expected = BlockReader(reader, grid).read(0, plan.positions[plan.of_block(0)]).pixels
    with PatchStore.open(tmp_path / "r.zarr") as opened:
        assert opened.mode == "reference"
        np.testing.assert_array_equal(opened[plan.of_block(0)], expected)


def test_a_reference_store_refuses_another_slide(tmp_path, cmu_slide):
    reader = ArrayReader(np.zeros((300, 300, 3), np.uint8))
    grid = Grid(GridSettings(), reader.dimensions, 0.5)
    plan = plan_tiles(grid, TissueShare(np.ones((2, 2), bool), reader.dimensions))
    PatchStore.create(
        tmp_path / "r.zarr", plan, "reference", slide=cmu_slide, fingerprint=reader.fingerprint, description={}
    ).finish()
    with pytest.raises(StoreError, match="not the one"):
        PatchStore.open(tmp_path / "r.zarr")

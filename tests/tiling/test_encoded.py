import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import zarr

from pathology.errors import StoreError, UsageError
from pathology.settings import GridSettings
from pathology.slide.open import open_reader
from pathology.testing.array_reader import ArrayReader
from pathology.testing.synthetic_slides import TissuePicture, write_dicom, write_svs, write_tiff
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles
from pathology.tiling.store import PatchStore
from pathology.tiling.stored_tiles import StoredTiles, on_stored_tiles

PICTURE = TissuePicture(1000, 700, mpp=0.5, tissue=0.8)


def make(path, slide, *, patch, mpp, block=512):
    """An encoded store of the whole slide."""
    with open_reader(slide) as reader:
        wanted = GridSettings(patch=patch, mpp=mpp, stride=patch, min_tissue=0, block=block)
        grid = Grid(on_stored_tiles(reader, wanted, reader.mpp), reader.dimensions, reader.mpp)
        plan = plan_tiles(grid, TissueShare(np.ones((2, 2), bool), reader.dimensions))
        tiles = StoredTiles(reader, grid)
        store = PatchStore.create(
            path, plan, "encoded", slide=slide, fingerprint=reader.fingerprint, description={}, tiles=tiles
        )
        for k in range(len(plan.blocks)):
            store.write_tiles(k, *tiles.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]))
        store.finish()
    return PatchStore.open(path)


def assert_is_the_slide(store, slide, level, patch):
    """Every patch is what a reader gives, white outside included, and together they cover the level."""
    seen = set()
    with open_reader(slide) as reader:
        downsample = reader.levels[level].downsample
        for i, (x, y) in enumerate(store.coords):
            column, row = round(x / downsample / patch), round(y / downsample / patch)
            seen.add((column, row))
            np.testing.assert_array_equal(store[i], reader.read(level, column * patch, row * patch, patch, patch))
        width, height = reader.levels[level].dimensions
    assert seen == {(c, r) for c in range(-(-width // patch)) for r in range(-(-height // patch))}
    assert store.readable.all()


WRITERS = {
    "svs": lambda path: write_svs(path / "a.svs", PICTURE, tile=128, factors=(1, 4)),
    "svs rgb": lambda path: write_svs(path / "a.svs", PICTURE, tile=128, compression="jpeg-rgb", factors=(1, 4)),
    "svs jpeg 2000": lambda path: write_svs(
        path / "a.svs", PICTURE, tile=128, compression="jpeg2000-ycbcr", factors=(1, 4)
    ),
    "webp": lambda path: write_tiff(path / "a.tif", PICTURE, tile=(128, 128), compression="webp", factors=(1, 4)),
    "dicom": lambda path: write_dicom(path / "series", PICTURE, tile=128, fragments=2),
}


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("level", [0, 1])
def test_patches_are_exactly_the_slides_pixels(tmp_path, name, level):
    slide = WRITERS[name](tmp_path)
    store = make(tmp_path / "s.zarr", slide, patch=128, mpp=(0.5, 2.0)[level])
    assert_is_the_slide(store, slide, level, 128)


def test_a_real_slide(tmp_path, cmu_slide):
    store = make(tmp_path / "s.zarr", cmu_slide, patch=240, mpp=0.499)
    assert_is_the_slide(store, cmu_slide, 0, 240)


def test_chunks_are_the_stored_tiles_byte_for_byte(tmp_path):
    slide = WRITERS["svs"](tmp_path)
    store = make(tmp_path / "s.zarr", slide, patch=128, mpp=0.5)
    shards = b"".join(f.read_bytes() for f in (tmp_path / "s.zarr" / "pixels").glob("c.*"))
    with open_reader(slide) as reader:
        for column, row in ((0, 0), (3, 2), (7, 5)):
            assert reader.stored_tile(0, column, row) in shards
    assert len(store) == 8 * 6


def test_plain_zarr_opens_it_by_the_entry_point(tmp_path):
    """In a process that never imports this package by itself."""
    slide = WRITERS["svs"](tmp_path)
    store = make(tmp_path / "s.zarr", slide, patch=128, mpp=0.5)
    np.save(tmp_path / "expected.npy", store[[0, 9, 20]])
    program = """
import sys, numpy as np, zarr
group = zarr.open_group(sys.argv[1], mode="r")
assert not any(name.startswith("pathology") for name in sys.modules)
slots = group["slots"][:]
np.testing.assert_array_equal(group["pixels"].oindex[slots[[0, 9, 20]]], np.load(sys.argv[2]))
"""
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "s.zarr", tmp_path / "expected.npy"],
        check=True,
        env=environment,
        cwd=tmp_path,
    )


def test_the_codec_cannot_be_written_through(tmp_path):
    make(tmp_path / "s.zarr", WRITERS["svs"](tmp_path), patch=128, mpp=0.5)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r+")
    with pytest.raises(StoreError, match="cannot be written"):
        group["pixels"][0] = np.zeros((128, 128, 3), np.uint8)


def test_tiles_the_scanner_left_out_are_white(tmp_path):
    slide = write_svs(
        tmp_path / "a.svs", PICTURE, tile=128, factors=(1,), omitted=lambda level, column, row: column == 2
    )
    store = make(tmp_path / "s.zarr", slide, patch=128, mpp=0.5)
    assert_is_the_slide(store, slide, 0, 128)


def test_damaged_tiles_are_marked(tmp_path):
    source = WRITERS["svs"](tmp_path)
    content = bytearray(source.read_bytes())
    with open_reader(source) as reader:
        cut_off, broken_within = reader.stored_tile(0, 1, 1), reader.stored_tile(0, 4, 2)
    place = content.index(cut_off)
    content[place + len(cut_off) - 80 : place + len(cut_off)] = bytes(80)  # no end marker: seen when the store is made
    place = content.index(broken_within)
    start = broken_within.index(b"\xff\xda") + 20
    content[place + start : place + start + 60] = b"\xff\xd0" * 30  # seen when it is decoded, if at all
    slide = tmp_path / "damaged.svs"
    slide.write_bytes(content)
    store = make(tmp_path / "s.zarr", slide, patch=128, mpp=0.5)
    where = {(x // 128, y // 128): i for i, (x, y) in enumerate(store.coords)}
    bad = where[1, 1]
    assert not store.readable[bad]
    assert (store[bad] == 255).all()
    assert store.readable.sum() == len(store) - 1
    found = store.read(np.arange(len(store)))
    with open_reader(slide) as reader:
        region = reader.read_masked(0, 4 * 128, 2 * 128, 128, 128)
    assert found.readable[where[4, 2]] == (not region.unreadable)
    np.testing.assert_array_equal(found.pixels[where[4, 2]], region.pixels)


def test_a_damaged_shard_is_refused(tmp_path):
    make(tmp_path / "s.zarr", WRITERS["svs"](tmp_path), patch=128, mpp=0.5)
    shard = tmp_path / "s.zarr" / "pixels" / "c.0.0.0.0"
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    store = PatchStore.open(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="damaged"):
        store.read_block(0)
    shard.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.read_block(0)


def test_a_store_crosses_process_borders(tmp_path):
    store = make(tmp_path / "s.zarr", WRITERS["svs"](tmp_path), patch=128, mpp=0.5)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again[5], store[5])


@pytest.mark.parametrize(
    ("patch", "stride", "mpp"), [(224, 224, 1.0), (128, 64, 0.5), (128, 128, 1.0), (256, 256, 0.5)]
)
def test_other_grids_are_refused_with_what_would_fit(tmp_path, patch, stride, mpp):
    slide = WRITERS["svs"](tmp_path)
    with open_reader(slide) as reader, pytest.raises(UsageError) as caught:
        on_stored_tiles(reader, GridSettings(patch=patch, stride=stride, mpp=mpp), reader.mpp)
    assert "--patch 128 --stride 128 --target-mpp 0.5 (or: native)" in str(caught.value)
    assert "--target-mpp 2" in str(caught.value)


def test_slides_without_pictures_as_tiles_are_refused(tmp_path):
    deflated = write_tiff(tmp_path / "a.tif", PICTURE, tile=(128, 128), compression="deflate")
    oblong = write_tiff(tmp_path / "b.tif", PICTURE, tile=(128, 64))
    for reader in (ArrayReader(np.zeros((256, 256, 3), np.uint8)), open_reader(deflated)):
        with reader, pytest.raises(UsageError, match="cannot be kept"):
            on_stored_tiles(reader, GridSettings(patch=128, stride=128, mpp=0.5), 0.5)
    with open_reader(oblong) as reader, pytest.raises(UsageError, match="not square"):
        on_stored_tiles(reader, GridSettings(patch=128, stride=128, mpp=0.5), 0.5)

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pathology.errors import UsageError
from pathology.settings import GridSettings
from pathology.testing.array_reader import ArrayReader
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles
from pathology.tiling.store import PatchStore
from pathology.tiling.torch_dataset import ShuffledPatches


def make(path, seed, damaged=()):
    picture = np.random.default_rng(seed).integers(0, 255, (512, 640, 3)).astype(np.uint8)
    reader = ArrayReader(picture, damaged=damaged)
    grid = Grid(GridSettings(patch=32, mpp=0.5, stride=32, block=256), reader.dimensions, 0.5)
    plan = plan_tiles(grid, TissueShare(np.ones((2, 2), bool), reader.dimensions))
    store = PatchStore.create(path, plan, "decoded", slide=reader.path, fingerprint="f", description={})
    blocks = BlockReader(reader, grid)
    for k in range(len(plan.blocks)):
        store.write_block(k, blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)]))
    store.finish()
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [make(folder / "a.zarr", 0), make(folder / "b.zarr", 1, damaged=[(0, 1, 1)])]


def places(patches):
    return [target for _, target in patches]


def test_every_readable_patch_comes_once_with_its_pixels(stores):
    patches = ShuffledPatches(stores, open_blocks=3)
    opened = [PatchStore.open(path) for path in stores]
    seen = set()
    for pixels, (store, patch) in patches:
        assert pixels.shape == (3, 32, 32)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), opened[store][patch])
        seen.add((store, patch))
    assert seen == {(s, int(i)) for s, store in enumerate(opened) for i in np.flatnonzero(store.readable)}
    assert len(seen) == len(patches) == 2 * 16 * 20 - 4


def test_seed_and_epoch_decide_the_order(stores):
    patches = ShuffledPatches(stores, seed=1)
    first = places(patches)
    assert places(patches) == first
    patches.set_epoch(1)
    second = places(patches)
    assert second != first
    assert sorted(second) == sorted(first)
    assert places(ShuffledPatches(stores, seed=2)) != first
    patches.set_epoch(0)
    assert places(patches) == first


def test_without_shuffling_they_come_in_order(stores):
    assert places(ShuffledPatches(stores[:1], shuffle=False)) == [(0, i) for i in range(320)]


def test_neighbours_in_the_order_are_far_apart_on_the_slide(stores):
    order = np.array([patch for store, patch in places(ShuffledPatches(stores, open_blocks=6))])
    # In random order the mean distance of neighbours is a third of the range, in block order it would be 1.
    assert np.abs(np.diff(order)).mean() > 320 / 3 * 0.8


def test_memory_is_bounded_by_the_open_blocks(stores, monkeypatch):
    patches = ShuffledPatches(stores, open_blocks=2)
    left = []
    read = ShuffledPatches._read

    def counting(self, *arguments):
        block = read(self, *arguments)
        left.append(block)
        assert sum(bool(b.left) for b in left) <= 2
        return block

    monkeypatch.setattr(ShuffledPatches, "_read", counting)
    assert len(places(patches)) == len(patches)
    assert len(left) == len(patches._blocks)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_share_the_work_and_see_new_epochs(stores, context):
    patches = ShuffledPatches(stores)
    loader = DataLoader(patches, batch_size=32, num_workers=2, persistent_workers=True, multiprocessing_context=context)

    def epoch(number):
        patches.set_epoch(number)
        return [tuple(pair) for _, (s, p) in loader for pair in zip(s.tolist(), p.tolist(), strict=True)]

    first, second = epoch(0), epoch(1)
    assert sorted(first) == sorted(second) == sorted(places(patches))
    assert first != second
    assert epoch(0) == first


def test_parts_are_disjoint_and_complete(stores):
    parts = [places(ShuffledPatches(stores, part=(i, 3))) for i in range(3)]
    joined = [place for part in parts for place in part]
    assert len(set(joined)) == len(joined)
    assert sorted(joined) == sorted(places(ShuffledPatches(stores)))


def test_targets_and_transforms(stores):
    patches = ShuffledPatches(
        stores[:1], target=lambda store, patch: patch % 2, transform=lambda pixels: torch.tensor(float(pixels.mean()))
    )
    pixels, targets = next(iter(DataLoader(patches, batch_size=16)))
    assert pixels.shape == targets.shape == (16,)


def test_it_crosses_process_borders(stores):
    patches = ShuffledPatches(stores, seed=5)
    assert places(pickle.loads(pickle.dumps(patches))) == places(patches)


@pytest.mark.parametrize("wrong", [{"stores": []}, {"open_blocks": 0}, {"part": (2, 2)}])
def test_wrong_parameters_are_refused(stores, wrong):
    with pytest.raises(UsageError):
        ShuffledPatches(**{"stores": stores, **wrong})


def test_only_patches_to_keep_are_taken(stores):
    opened = [PatchStore.open(path) for path in stores]
    random = np.random.default_rng(2)
    keep = [random.random(len(store)) < 0.1 for store in opened]
    keep[0][: len(opened[0]) // 2] = False
    patches = ShuffledPatches(stores, keep=keep)
    expected = {(s, int(i)) for s, store in enumerate(opened) for i in np.flatnonzero(store.readable & keep[s])}
    assert len(patches) == len(expected)
    seen = set()
    for pixels, (store, patch) in patches:
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), opened[store][patch])
        seen.add((store, patch))
    assert seen == expected


def test_patches_to_keep_must_fit_the_stores(stores):
    with pytest.raises(UsageError, match="masks for 3 stores"):
        ShuffledPatches(stores, keep=[np.ones(1, bool)] * 3)
    with pytest.raises(UsageError, match="7 entries"):
        ShuffledPatches(stores, keep=[np.ones(7, bool), np.ones(320, bool)])

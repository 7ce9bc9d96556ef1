import numpy as np
import pytest

from pathology.errors import CorruptSlideError
from pathology.inference.pipeline import predict_blocks
from pathology.settings import GridSettings
from pathology.testing.array_reader import ArrayReader
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles


@pytest.fixture
def slide():
    picture = np.random.default_rng(1).integers(0, 255, (900, 1100, 3)).astype(np.uint8)
    reader = ArrayReader(picture, damaged=[(0, 3, 3)])
    grid = Grid(GridSettings(patch=64, mpp=0.5, stride=64, block=256), reader.dimensions, 0.5)
    return BlockReader(reader, grid), plan_tiles(grid, TissueShare(np.ones((9, 11), bool), reader.dimensions))


def fake(sizes):
    def predict(patches):
        sizes.append(len(patches))
        means = patches.reshape(len(patches), -1).mean(1)
        return np.stack([means, 255 - means], 1).astype(np.float32)

    return predict


@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
@pytest.mark.parametrize("readers", [1, 3])
def test_every_patch_gets_its_own_prediction(slide, batch_size, readers):
    blocks, plan = slide
    sizes = []
    ks = list(range(len(plan.blocks)))
    got = list(predict_blocks(fake(sizes), 2, batch_size, blocks, plan, ks, readers=readers))
    assert [block.k for block in got] == ks
    probabilities = np.concatenate([block.probabilities for block in got])
    damaged = np.isnan(probabilities).any(axis=1)
    assert damaged.sum() == 1
    for k in ks:
        patches = blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)])
        expected = fake([])(patches.pixels)
        expected[~patches.readable] = np.nan
        np.testing.assert_array_equal(probabilities[plan.of_block(k)], expected)
    # Only the last batch is short.
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(sizes) == len(plan) - 1


def test_some_blocks_only(slide):
    blocks, plan = slide
    got = list(predict_blocks(fake([]), 2, 16, blocks, plan, [4, 1]))
    assert [block.k for block in got] == [4, 1]
    assert list(predict_blocks(fake([]), 2, 16, blocks, plan, [])) == []


def test_an_error_while_reading_reaches_the_caller(slide):
    blocks, plan = slide

    class Broken:
        def read(self, index, positions):
            if index == plan.blocks[2]:
                raise CorruptSlideError("the file ends too early")
            return blocks.read(index, positions)

    stream = predict_blocks(fake([]), 2, 16, Broken(), plan, list(range(len(plan.blocks))))
    assert next(stream).k == 0
    with pytest.raises(CorruptSlideError):
        list(stream)


def test_blocks_are_handed_out_as_soon_as_they_are_done(slide):
    blocks, plan = slide
    read = []

    class Watched:
        def read(self, index, positions):
            read.append(index)
            return blocks.read(index, positions)

    stream = predict_blocks(fake([]), 2, 4, Watched(), plan, list(range(len(plan.blocks))), readers=2)
    next(stream)
    assert len(read) <= 4
    stream.close()

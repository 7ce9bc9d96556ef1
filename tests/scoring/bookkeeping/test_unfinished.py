"""What a power cut leaves of an unfinished slide is dropped, and only that is computed again."""

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pathology.errors import OutputError
from pathology.scoring.bookkeeping.unfinished import UnfinishedSlide
from pathology.settings import GridSettings
from pathology.tiling.grid import Grid
from pathology.tiling.plan import TilePlan
from pathology.tiling.shard import shard_is_whole, write_shard

GRID = GridSettings(patch=64, stride=64, mpp=1.0)
ABOUT = {"grid": GRID.model_dump(mode="json"), "dimensions": [128, 64], "mpp": 1.0}


@pytest.fixture
def unfinished(tmp_path):
    slide = UnfinishedSlide(tmp_path)
    grid = Grid(GRID, (128, 64), 1.0)
    plan = TilePlan(
        grid,
        np.array([[0, 0], [64, 0]], np.int32),
        np.ones(2, np.float32),
        np.array([0, 1], np.int32),
        np.array([0], np.int32),
        np.array([0, 2], np.int64),
    )
    pixels = np.zeros((4, 4, 3), np.uint8)
    slide.save_plan(plan, overview=pixels, tissue=np.ones((4, 4), bool), artefacts={})
    slide.save_block(0, np.ones((2, 3), np.float32), frozenset(), "torch")
    return slide


@pytest.mark.parametrize("left", [0, 10, 0.5, 0.99])
def test_a_truncated_block_is_dropped(unfinished, tmp_path, left):
    assert unfinished.has_block(0, 2)
    (block,) = tmp_path.glob("block-*.npz")
    data = block.read_bytes()
    block.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    with pytest.raises(OutputError, match="cannot be read back"):
        unfinished.outputs(1)
    assert not unfinished.has_block(0, 2)
    assert not block.exists()


def test_a_block_of_another_plan_is_dropped(unfinished):
    assert not unfinished.has_block(0, 5)


@pytest.mark.parametrize("left", [0, 30, 0.5])
def test_a_truncated_plan_is_made_again(unfinished, tmp_path, left):
    assert len(unfinished.saved_plan(ABOUT).coords) == 2
    data = (tmp_path / "plan.npz").read_bytes()
    (tmp_path / "plan.npz").write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    assert unfinished.saved_plan(ABOUT) is None


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 5000])
def test_facts_that_cannot_be_read_are_none(unfinished, tmp_path, text):
    (tmp_path / "about.json").write_text(text)
    assert unfinished.about() == {}


def test_a_truncated_shard_is_not_whole(tmp_path):
    path = tmp_path / "c.0"
    write_shard(path, [b"one", b"", b"three"], 4)
    assert shard_is_whole(path, 4)
    data = path.read_bytes()
    for torn in (b"", data[:20], data[:-1], data[3:], bytes(len(data))):
        path.write_bytes(torn)
        assert not shard_is_whole(path, 4)
    path.unlink()
    assert not shard_is_whole(path, 4)


class Yielding:
    """Lets other threads run when it is collected, as files and sockets do."""

    def __del__(self):
        time.sleep(0)


def test_blocks_are_read_by_several_threads_at_once(tmp_path):
    # CPython 3.11 counts the depth of the parser that NumPy uses for headers for all threads together.
    work = UnfinishedSlide(tmp_path)
    work.save_block(0, np.zeros((5, 2), np.float32), frozenset(), "engine")

    def waste():
        while not over.is_set():
            thing = Yielding()
            thing.itself = thing
            time.sleep(0)

    over = threading.Event()
    wasting = threading.Thread(target=waste)
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(20, 2, 2)
    sys.setswitchinterval(1e-6)
    try:
        wasting.start()
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(lambda _: work.has_block(0, 5), range(2400)))
    finally:
        over.set()
        wasting.join()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)

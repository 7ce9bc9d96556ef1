import os
import signal
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from pathology.errors import CorruptSlideError, SlideError
from pathology.inference.reading.pipeline import predict_blocks
from pathology.inference.reading.processes import ReadingProcesses
from pathology.inference.reading.threads import ReadingThreads
from pathology.settings import GridSettings
from pathology.slide.open import open_reader
from pathology.slide.stain.normalise import StainNormaliser, fit_stain
from pathology.testing.array_reader import ArrayReader
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles


def planned(reader, mpp=0.5, **settings):
    grid = Grid(
        GridSettings(**{"patch": 64, "mpp": mpp, "stride": 64, "block": 256} | settings), reader.dimensions, 0.5
    )
    return plan_tiles(grid, TissueShare(np.ones((9, 11), bool), reader.dimensions))


@pytest.fixture
def slide():
    picture = np.random.default_rng(1).integers(0, 255, (900, 1100, 3)).astype(np.uint8)
    reader = ArrayReader(picture, damaged=[(0, 3, 3)])
    plan = planned(reader)
    return BlockReader(reader, plan.grid), plan


def fake(sizes):
    def predict(patches):
        sizes.append(len(patches))
        means = patches.reshape(len(patches), -1).mean(1)
        return np.stack([means, 255 - means], 1).astype(np.float32)

    return predict


def one_by_one(blocks, plan):
    """What must come out, read and predicted block by block."""
    expected = []
    for k in range(len(plan.blocks)):
        patches = blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)])
        values = fake([])(patches.pixels)
        values[~patches.readable] = np.nan
        expected.append(values)
    return np.concatenate(expected)


def run(source, plan, batch_size=16, ks=None, sizes=None):
    ks = list(range(len(plan.blocks))) if ks is None else ks
    got = list(predict_blocks(fake([] if sizes is None else sizes), 2, batch_size, source, plan, ks))
    assert [block.k for block in got] == ks
    return np.concatenate([block.probabilities for block in got]) if got else None


@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
@pytest.mark.parametrize("readers", [1, 3])
def test_every_patch_gets_its_own_prediction(slide, batch_size, readers):
    blocks, plan = slide
    sizes = []
    with ReadingThreads(blocks, plan, readers) as source:
        probabilities = run(source, plan, batch_size, sizes=sizes)
    assert np.isnan(probabilities).any(axis=1).sum() == 1
    np.testing.assert_array_equal(probabilities, one_by_one(blocks, plan))
    # Only the last batch is short.
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(sizes) == len(plan)


def test_some_blocks_only(slide):
    blocks, plan = slide
    with ReadingThreads(blocks, plan) as source:
        got = list(predict_blocks(fake([]), 2, 16, source, plan, [4, 1]))
        assert [block.k for block in got] == [4, 1]
        assert list(predict_blocks(fake([]), 2, 16, source, plan, [])) == []


def test_an_error_while_reading_reaches_the_caller(slide):
    blocks, plan = slide

    class Broken:
        def read_into(self, out, index, positions):
            if index == plan.blocks[2]:
                raise CorruptSlideError("the file ends too early")
            return blocks.read_into(out, index, positions)

    with ReadingThreads(Broken(), plan) as source:
        stream = predict_blocks(fake([]), 2, 16, source, plan, list(range(len(plan.blocks))))
        assert next(stream).k == 0
        with pytest.raises(CorruptSlideError):
            list(stream)


def test_blocks_are_handed_out_as_soon_as_they_are_done(slide):
    blocks, plan = slide
    read = []

    class Watched:
        def read_into(self, out, index, positions):
            read.append(index)
            return blocks.read_into(out, index, positions)

    with ReadingThreads(Watched(), plan, 2) as source:
        stream = predict_blocks(fake([]), 2, 4, source, plan, list(range(len(plan.blocks))))
        next(stream)
        assert len(read) <= 4
        stream.close()


def test_memory_does_not_grow_with_the_slide(slide):
    blocks, plan = slide
    capacities = []

    class Measured(ReadingThreads):
        @contextmanager
        def ring(self, capacity):
            capacities.append(capacity)
            with super().ring(capacity) as ring:
                yield ring

    ks = list(range(len(plan.blocks)))
    for many in (ks, ks * 5):
        with Measured(blocks, plan, 1) as source:
            assert len(list(predict_blocks(fake([]), 2, 7, source, plan, many))) == len(many)
    assert capacities[0] == capacities[1]
    assert capacities[0] < len(plan) / 2


# -- processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_svs(
        tmp_path_factory.mktemp("slides") / "slide.svs", TissuePicture(1500, 1300, tissue=0.8), factors=(1,)
    )


@pytest.fixture(scope="module")
def processes():
    with ReadingProcesses(2) as started:
        yield started


@pytest.mark.parametrize("mpp", [0.5, 0.8])
@pytest.mark.parametrize("batch_size", [16, 100])
def test_processes_read_what_threads_read(file, processes, mpp, batch_size):
    with open_reader(file) as reader:
        plan = planned(reader, mpp, stride=48)
        blocks = BlockReader(reader, plan.grid)
        with ReadingThreads(blocks, plan) as threads:
            expected = run(threads, plan, batch_size)
        tiles = reader.tile_counts
    with processes.slide(file, plan, state=f"{mpp} {batch_size}") as source:
        np.testing.assert_array_equal(run(source, plan, batch_size), expected)
        assert source.take_work().decoded >= tiles.decoded
        assert not source.unreadable_tiles


def test_processes_normalise_stain(file, processes):
    with open_reader(file) as reader:
        plan = planned(reader)
        stain = StainNormaliser(fit_stain(reader.read(0, 300, 300, 400, 400).reshape(-1, 3), "reinhard", source="test"))
        expected = one_by_one(BlockReader(reader, plan.grid, stain.apply), plan)
        plain = one_by_one(BlockReader(reader, plan.grid), plan)
    with processes.slide(file, plan, stain) as source:
        found = run(source, plan)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, plain)


def test_two_slides_at_once(file, processes, tmp_path):
    other = write_svs(tmp_path / "other.svs", TissuePicture(900, 800, tissue=0.8, seed=5), factors=(1,))
    plans, expected = [], []
    for path in (file, other):
        with open_reader(path) as reader:
            plans.append(planned(reader))
            expected.append(one_by_one(BlockReader(reader, plans[-1].grid), plans[-1]))
    with processes.slide(file, plans[0]) as first, processes.slide(other, plans[1]) as second:
        streams = [
            predict_blocks(fake([]), 2, 16, source, plan, list(range(len(plan.blocks))))
            for source, plan in zip((first, second), plans, strict=True)
        ]
        found = [[], []]
        for number in (0, 1, 0, 1, 0, 1):
            found[number].append(next(streams[number]).probabilities)
        for number in (0, 1):
            found[number] += [block.probabilities for block in streams[number]]
            np.testing.assert_array_equal(np.concatenate(found[number]), expected[number])


def children():
    return [
        child for child in psutil.Process().children() if "pathology.inference.reading.process_main" in child.cmdline()
    ]


def test_a_killed_process_is_replaced(file):
    with open_reader(file) as reader:
        plan = planned(reader)
        expected = one_by_one(BlockReader(reader, plan.grid), plan)
    before = {child.pid for child in children()}
    with ReadingProcesses(2) as mine, mine.slide(file, plan) as source:
        stream = predict_blocks(fake([]), 2, 4, source, plan, list(range(len(plan.blocks))))
        found = [next(stream)]
        for child in children():
            if child.pid not in before:
                os.kill(child.pid, signal.SIGKILL)
        found += list(stream)
        np.testing.assert_array_equal(np.concatenate([block.probabilities for block in found]), expected)
    assert {child.pid for child in children()} <= before


def test_a_block_that_kills_is_an_error_of_its_slide(file, monkeypatch, tmp_path):
    # A decoder that crashes the process, as damaged files have made real ones do.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Finder(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pathology.tiling.blocks':\n"
        "            import ctypes\n"
        "            os.abort()\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with open_reader(file) as reader:
        plan = planned(reader)
    with (
        ReadingProcesses(1) as mine,
        mine.slide(file, plan) as source,
        pytest.raises(SlideError, match="crashed twice"),
    ):
        run(source, plan)


def test_a_slide_that_cannot_be_opened(file, processes, tmp_path):
    with open_reader(file) as reader:
        plan = planned(reader)
    damaged = tmp_path / "damaged.svs"
    damaged.write_bytes(file.read_bytes()[:5000])
    with processes.slide(damaged, plan) as source, pytest.raises(SlideError):
        run(source, plan)
    with processes.slide(file, plan) as source:  # the processes go on
        assert run(source, plan) is not None


def test_slides_are_closed_again(file, processes, tmp_path):
    with open_reader(file) as reader:
        plan = planned(reader, block=1024)
    for state in range(12):
        with processes.slide(file, plan, state=str(state)) as source:
            run(source, plan)
    for child in children():
        assert sum(entry.path.endswith("slide.svs") for entry in child.open_files()) <= 5


def test_the_processes_end_with_their_owner(file):
    before = {child.pid for child in children()}
    mine = ReadingProcesses(2)
    with open_reader(file) as reader:
        plan = planned(reader)
    with mine.slide(file, plan) as source:
        run(source, plan)
    assert len({child.pid for child in children()} - before) == 2
    mine.close()
    mine.close()
    assert {child.pid for child in children()} <= before

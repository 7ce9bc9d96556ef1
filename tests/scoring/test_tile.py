"""Tiling whole batches, with real worker processes."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from pathology.errors import UsageError
from pathology.scoring.tile import TileJob, _failed, _prepare, tile
from pathology.settings import GridSettings, QualitySettings, TissueSettings
from pathology.slide.open import open_reader
from pathology.slide.stain.normalise import StainNormaliser
from pathology.slide.tissue.quality import ARTEFACTS
from pathology.testing.synthetic_slides import TissuePicture, write_svs
from pathology.tiling.blocks import BlockReader
from pathology.tiling.store import PatchStore

GRID = GridSettings(patch=60, mpp=1.0, stride=60, block=256)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    picture = TissuePicture(2000, 1500, seed=3, tissue=0.7)
    return write_svs(tmp_path_factory.mktemp("slides") / "a.svs", picture, tile=128, factors=(1,))


@pytest.fixture(scope="module")
def decoded(slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("decoded")
    (result,) = tile([slide], out, GRID, mode="decoded", workers=1)
    return result


def shards(store):
    return {path.name: path for path in (store / "pixels").glob("c.*")}


def test_hardly_a_tile_is_decoded_twice(decoded):
    """Blocks do not end where stored tiles do, so that the tiles between two are needed by both.

    Two tasks at a time may come upon the same tile at the same moment; nothing else makes work twice.
    """
    assert decoded.tiles.needed > 50
    assert decoded.tiles.needed <= decoded.tiles.decoded <= 1.1 * decoded.tiles.needed
    assert decoded.tiles.reused > 0


def test_the_patches_are_what_the_slide_gives(decoded, slide):
    with open_reader(slide) as reader, PatchStore.open(decoded.store) as store:
        plan = store.plan
        blocks = BlockReader(reader, plan.grid)
        assert len(plan.blocks) > 4
        for k in range(len(plan.blocks)):
            expected = blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)])
            np.testing.assert_array_equal(store[plan.of_block(k)], expected.pixels)


@pytest.mark.parametrize("workers", [2, 4])
def test_results_do_not_depend_on_the_number_of_workers(decoded, slide, tmp_path, workers):
    (result,) = tile([slide], tmp_path, GRID, mode="decoded", workers=workers)
    ours, theirs = shards(result.store), shards(decoded.store)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].read_bytes() == theirs[name].read_bytes() for name in ours)


def test_a_finished_store_is_left_alone(decoded, slide):
    (again,) = tile([slide], decoded.store.parent, GRID, mode="decoded")
    assert again.unchanged
    assert again.patches == decoded.patches


def test_the_slides_own_tiles_at_its_own_scale(slide, tmp_path):
    grid = GridSettings(patch=128, stride=128, block=512)
    (result,) = tile([slide], tmp_path, grid, mode="encoded", native=True, workers=1)
    assert not result.error
    assert result.tiles.decoded == 0
    with PatchStore.open(result.store) as store, open_reader(slide) as reader:
        assert store.mode == "encoded"
        assert store.grid.settings.mpp == reader.mpp
        for i in range(0, len(store), 7):
            np.testing.assert_array_equal(store[i], reader.read(0, *store.coords[i].tolist(), 128, 128))


def test_a_grid_that_is_not_the_tiles_ends_in_a_reason(slide, tmp_path):
    job = TileJob("a", slide, None, None, GRID, False, TissueSettings(), None, "none", "encoded", tmp_path / "a.zarr")
    result = _failed(job, _prepare(job))
    assert "--patch 128 --stride 128 --target-mpp 0.5" in result.error
    assert not result.store.exists()


def test_stain_and_quality_are_recorded_and_stain_is_applied_everywhere(decoded, slide, tmp_path):
    quality = QualitySettings(**dict.fromkeys((f"max_{name}" for name in ARTEFACTS), 1.0))
    results = {
        mode: tile([slide], tmp_path / mode, GRID, mode=mode, stain="macenko", quality=quality, workers=1)[0]
        for mode in ("decoded", "reference")
    }
    assert (tmp_path / "decoded" / "a.quality.png").exists()
    with (
        PatchStore.open(results["decoded"].store) as stored,
        PatchStore.open(results["reference"].store) as referring,
        PatchStore.open(decoded.store) as plain,
    ):
        normaliser = StainNormaliser.from_record(stored.attributes["stain"])
        assert normaliser.slide.method == "macenko"
        assert normaliser.slide.source == stored.fingerprint
        everything = np.arange(len(plain))
        expected = normaliser.apply(plain[everything])
        assert np.abs(expected.astype(int) - plain[everything]).mean() > 2
        np.testing.assert_array_equal(stored[everything], expected)
        np.testing.assert_array_equal(referring[everything], expected)
        assert stored.attributes["artefacts"] == list(ARTEFACTS)
        assert stored.quality.shape == (len(stored), 5)
        assert len(stored.excluded) == 0
        assert plain.quality is None


def test_stain_and_the_slides_own_tiles_exclude_each_other(slide, tmp_path):
    with pytest.raises(UsageError, match="stain"):
        tile([slide], tmp_path, GRID, mode="encoded", stain="macenko")


KILLED = """
import os, signal, sys
from pathlib import Path
from pathology.scoring.tile import TileJob, _chunk, _prepare
from pathology.settings import GridSettings, TissueSettings

slide, store, grid = Path(sys.argv[1]), Path(sys.argv[2]), GridSettings.model_validate_json(sys.argv[3])
job = TileJob("a", slide, None, None, grid, False, TissueSettings(), None, "none", "decoded", store)
done = []

def report(patches):
    done.append(patches)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

_chunk(job, _prepare(job).blocks, report)
"""


def test_a_killed_run_goes_on_without_redoing_blocks(decoded, slide, tmp_path):
    store = tmp_path / "a.zarr"
    killed = subprocess.run([sys.executable, "-c", KILLED, slide, store, GRID.model_dump_json()])
    assert killed.returncode == -signal.SIGKILL
    done = {name: path.stat().st_mtime_ns for name, path in shards(store).items()}
    assert len(done) == 3
    half_written = store / "pixels" / ".c.9.0.0.0.1234.writing"
    half_written.write_bytes(b"torn")
    (result,) = tile([slide], tmp_path, GRID, mode="decoded", workers=1)
    assert not result.error
    assert not result.unchanged
    assert result.patches == decoded.patches
    assert result.tiles.needed < decoded.tiles.needed
    finished = shards(store)
    assert {name: finished[name].stat().st_mtime_ns for name in done} == done
    for name, path in shards(decoded.store).items():
        assert finished[name].read_bytes() == path.read_bytes()
    assert not half_written.exists()

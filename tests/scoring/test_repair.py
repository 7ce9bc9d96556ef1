"""The same command finds what was damaged in a results folder and makes it again, the rest untouched."""

import json
import os

import numpy as np
import pytest
import zarr

from pathology.outputs.results.run import batch_files_whole
from pathology.scoring.batch import score
from pathology.testing import synthetic_slides
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.synthetic_tissue import TissuePicture


def arrays(folder):
    group = zarr.open_group(folder / "predictions.zarr", mode="r")
    return {name: np.asarray(group[name][...]) for name in sorted(group.array_keys())}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    root = tmp_path_factory.mktemp("repair")
    (root / "slides").mkdir()
    for name, seed in (("one", 1), ("two", 2)):
        picture = TissuePicture(700, 600, seed=seed, tissue=0.6)
        synthetic_slides.write_svs(root / "slides" / f"{name}.svs", picture, factors=(1,), mpp=0.5, objective_power=20)
    model = write_random_bundle(root / "model")

    def run(**options):
        return score(root / "slides", model, root / "out", engine="torch", device="cpu", workers=1, **options)

    run()
    return root / "out", run


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "rescored"),
    [
        (lambda out: flip(out / "slides" / "one" / "overlay.png"), 1),
        (lambda out: (out / "slides" / "one" / "predictions.zarr" / "coords" / "zarr.json").unlink(), 1),
        (lambda out: flip(out / "slides" / "one" / "slide.json"), 1),
        (lambda out: flip(out / "results.csv"), 0),
        (lambda out: (out / "run.json").write_text("{"), 0),
    ],
)
def test_damage_is_repaired(batch, damage, rescored):
    out, run = batch
    before = {name: arrays(out / "slides" / name) for name in ("one", "two")}
    engine = json.loads((out / "slides" / "two" / "slide.json").read_text())["engine"]
    untouched = (out / "slides" / "two" / "slide.json").stat().st_mtime_ns
    table = (out / "results.parquet").read_bytes()
    damage(out)
    again = run()
    assert again.unchanged == 2 - rescored
    assert (out / "slides" / "two" / "slide.json").stat().st_mtime_ns == untouched
    for name, kept in before.items():
        found = arrays(out / "slides" / name)
        for array, values in kept.items():
            np.testing.assert_array_equal(found[array], values)
    assert {slide.engine for slide in again} == {engine}
    assert batch_files_whole(out)
    if not rescored:
        assert (out / "results.parquet").read_bytes() == table
    assert run().unchanged == 2


def test_a_bit_that_flips_without_a_trace_is_found_when_all_is_verified(batch):
    out, run = batch
    path = out / "slides" / "one" / "predictions.zarr" / "coords" / "c" / "0" / "0"
    times = path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run().unchanged == 2
    assert run(verify=True).unchanged == 1
    assert run(verify=True).unchanged == 2


def test_a_slide_replaced_while_it_is_scored_fails_as_such(tmp_path):
    from pathology.bundle.catalogue import load_bundle
    from pathology.inference.workers.schedule import Failure
    from pathology.scoring.jobs import SlideJob
    from pathology.scoring.tasks import finish_slide, prepare_slide, score_chunk
    from pathology.settings import ScoreSettings

    def write(seed):
        picture = TissuePicture(700, 600, seed=seed, tissue=0.6)
        synthetic_slides.write_svs(tmp_path / "s.svs", picture, factors=(1,), mpp=0.5, objective_power=20)

    write(1)
    bundle = load_bundle(write_random_bundle(tmp_path / "model"))
    job = SlideJob(
        slide_id="s",
        patient_id=None,
        path=tmp_path / "s.svs",
        option_mpp=None,
        manifest_mpp=None,
        bundle=bundle.directory,
        weights_sha256=bundle.card.weights_sha256,
        model="m 1",
        settings=ScoreSettings(precision="exact"),
        engine="torch",
        device="cpu",
        out=tmp_path / "out",
    )
    prepared = prepare_slide(job)
    write(2)
    found = score_chunk(job, prepared.blocks, lambda _: None)
    assert isinstance(found, Failure)
    assert "replaced while it was being scored" in found.reason
    write(1)  # the same content again is no change, whatever its time
    assert not isinstance(score_chunk(job, prepared.blocks, lambda _: None), Failure)
    write(3)
    assert "replaced while it was being scored" in finish_slide(job, 1.0).reason

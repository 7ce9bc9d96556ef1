"""A worker process loads and hashes a model once, however many slides it scores."""

import pytest

from pathology.bundle import catalogue, weights
from pathology.bundle.catalogue import load_bundle
from pathology.inference.workers.schedule import Failure
from pathology.scoring import worker
from pathology.scoring.jobs import SlideJob
from pathology.scoring.tasks import finish_slide, prepare_slide, score_chunk
from pathology.settings import ScoreSettings
from pathology.testing.constructed_slides import construct_slide, drawn_tiles
from pathology.testing.random_bundle import write_random_bundle


@pytest.fixture
def fresh(monkeypatch):
    """This process as a worker that has just started."""
    monkeypatch.setattr(worker, "_bundles", {})
    monkeypatch.setattr(worker, "_engines", {})
    monkeypatch.setattr(weights, "_checked", {})


def test_three_slides_take_one_load_and_one_hash(tmp_path, monkeypatch, fresh):
    tiles = drawn_tiles(("a", "b"), 1, side=128)
    slides = [
        construct_slide(
            tmp_path / f"{i}.tiff", tiles, patient="patient-01", shares={"a": 1}, rows=3, columns=3, cell=128, margin=64
        )
        for i in range(3)
    ]
    bundle = load_bundle(write_random_bundle(tmp_path / "model"))
    monkeypatch.setattr(weights, "_checked", {})
    loads, hashes = [], []
    load, digest = catalogue.load_bundle, weights.file_sha256
    monkeypatch.setattr(catalogue, "load_bundle", lambda model: loads.append(model) or load(model))
    monkeypatch.setattr(weights, "file_sha256", lambda path: hashes.append(path) or digest(path))
    for number, slide in enumerate(slides):
        job = SlideJob(
            slide_id=str(number),
            patient_id=None,
            path=slide.path,
            option_mpp=None,
            manifest_mpp=None,
            bundle=bundle.directory,
            weights_sha256=bundle.card.weights_sha256,
            card_digest=bundle.card.digest(),
            model="m 1",
            settings=ScoreSettings(precision="exact"),
            engine="torch",
            device="cpu",
            out=tmp_path / "out" / str(number),
        )
        prepared = prepare_slide(job)
        assert not isinstance(prepared, Failure), prepared
        assert not isinstance(score_chunk(job, prepared.blocks, lambda _: None), Failure)
        assert finish_slide(job, 1.0).status == "scored"
    assert loads == [bundle.directory]
    assert hashes == [bundle.weights]


def test_a_changed_weights_file_is_hashed_again(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    weights.check_weights(path, weights.file_sha256(path))
    path.write_bytes(b"two")
    with pytest.raises(weights.WeightsHashError):
        weights.check_weights(path, "0" * 64)

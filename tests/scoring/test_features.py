"""``pathology features``: vectors equal to the encoder's own, resumed, in every layout, one bad slide aside."""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pathology.cli.app import app
from pathology.encoders.installed import load_encoder
from pathology.errors import UsageError
from pathology.features import find_features, open_features
from pathology.scoring import features
from pathology.scoring.features import encode_slides
from pathology.slide.open import open_reader
from pathology.testing.constructed_slides import construct_slide, drawn_tiles
from pathology.testing.random_bundle import write_random_bundle

pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """One slide, and a file that is none."""
    folder = tmp_path_factory.mktemp("slides")
    construct_slide(
        folder / "s.tiff",
        drawn_tiles(("a",), 1, side=128),
        patient="patient-01",
        shares={"a": 1},
        rows=2,
        columns=3,
        cell=128,
        margin=64,
    )
    (folder / "broken.tiff").write_bytes(b"II*\0text")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(write_random_bundle(folder / name, mpp=1.0, seed=seed)) for seed, name in enumerate(("one", "two"))]


def test_vectors_layouts_and_resuming(slides, models, tmp_path):
    good, bad = None, None
    for slide in encode_slides(slides, models, tmp_path / "out", engine="torch", device="cpu", precision="exact"):
        good, bad = (good, slide) if slide.error else (slide, bad)
    assert bad.slide_id == "broken"
    assert good.patches > 10
    assert [path.parent.name for path in good.files] == [load_encoder(m).name for m in models]
    for path, model in zip(good.files, models, strict=True):
        found = open_features(path)
        encoder = load_encoder(model)
        assert (found.encoder, found.weights_sha256) == (encoder.name, encoder.weights_sha256)
        with open_reader(slides / "s.tiff") as reader:
            patches = np.stack([reader.read(0, int(x), int(y), 64, 64) for x, y in found.coords[:6]])
        with torch.no_grad():
            expected = encoder.network()(torch.from_numpy(patches)).numpy()
        np.testing.assert_allclose(found.read()[:6], expected, atol=2e-3 * np.abs(expected).max())
    # The same again touches nothing; other settings compute anew.
    before = [(path / "zarr.json").stat().st_mtime_ns for path in good.files]
    again = {
        s.slide_id: s
        for s in encode_slides(slides, models, tmp_path / "out", engine="torch", device="cpu", precision="exact")
    }
    assert again["s"].unchanged
    assert again["broken"].error == bad.error
    assert [(path / "zarr.json").stat().st_mtime_ns for path in good.files] == before


def test_what_other_programs_read(slides, models, tmp_path):
    layout = "trident"
    run = ["features", str(slides / "s.tiff"), "--encoder", models[0], "--out", str(tmp_path), "--format", layout]
    options = ["--engine", "torch", "--device", "cpu", "--stride", "32"]
    done = CliRunner().invoke(app, [*run, *options])
    assert done.exit_code == 0, done.output
    (found,) = find_features(tmp_path)
    assert found.made_by == layout
    assert (found.mpp, found.vector) == (pytest.approx(1.0), 1024)
    written = found.path.stat().st_mtime_ns
    assert "already done" in CliRunner().invoke(app, [*run, *options]).output
    assert found.path.stat().st_mtime_ns == written


def test_an_interrupted_slide_goes_on_with_the_next_block(slides, models, tmp_path):
    """In this process, block by block, as a worker would."""
    encoder = load_encoder(models[0])
    grid = features._grid([encoder], None, None, 16, 0.5).model_copy(update={"block": 256})
    job = features.EncodeJob(
        "s", slides / "s.tiff", None, None, grid, None, (models[0],), (encoder.key(),), "zarr", "torch", "cpu", "exact",
        tmp_path,
    )  # fmt: skip
    prepared = features._prepare(job)
    assert len(prepared.blocks) > 2
    features._chunk(job, prepared.blocks[:2], lambda _: None)
    resumed = features._prepare(job)
    assert resumed.blocks == prepared.blocks[2:]
    features._chunk(job, resumed.blocks, lambda _: None)
    done = features._finish(job, 0.0)
    assert done.patches == prepared.patches
    assert not job.work.exists()
    assert features._earlier(job).unchanged
    time.sleep(0.01)
    (slides / "s.tiff").touch()
    assert features._earlier(job) is None


def test_encoders_for_different_patches(models, tmp_path):
    other = str(write_random_bundle(tmp_path / "other", mpp=0.5))
    loaded = [load_encoder(models[0]), load_encoder(other)]
    with pytest.raises(UsageError, match=r"one 64 px at 1 µm/px, other 64 px at 0\.5 µm/px.*--target-mpp"):
        features._grid(loaded, None, None, None, 0.5)
    assert features._grid(loaded, 64, 1.0, None, 0.5).mpp == 1.0
    with pytest.raises(UsageError, match="given twice"):
        features._grid([loaded[0]] * 2, None, None, None, 0.5)


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_fast_vectors_point_where_exact_ones_do(kind, tmp_path, monkeypatch):
    """Cosine similarity of ViT-S/16 in few bits with fp32."""
    timm = pytest.importorskip("timm")
    if kind == "openvino":
        pytest.importorskip("openvino")
    from safetensors.torch import save_file

    from pathology.encoders.installed import add_encoder
    from pathology.inference.engines.encoder import EncoderEngine, make_encoder_engine
    from pathology.inference.engines.torch import TorchEngine

    monkeypatch.setenv("PATHOLOGY_ENCODERS", str(tmp_path / "encoders"))
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    save_file(timm.create_model("vit_small_patch16_224", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    encoder = add_encoder("kaiko-vits16", source=tmp_path / "w.safetensors")
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 240, (3, 16, 16, 3), dtype=np.uint8)
    patches = np.stack([np.asarray(Image.fromarray(c).resize((256, 256))) for c in coarse])
    with torch.no_grad():
        small = np.stack(
            [np.asarray(Image.fromarray(p).resize((224, 224), Image.Resampling.BILINEAR)) for p in patches]
        )
        expected = encoder.network()(torch.from_numpy(small)).numpy()
    if kind == "torch":  # bf16 also where the CPU emulates it and "fast" would therefore not choose it
        inner = TorchEngine.of_network(
            encoder.network, patch=224, outputs=384, device="cpu", precision="bf16", batch_size=4
        )
    else:
        inner = make_encoder_engine(encoder, kind=kind, device="cpu")
    engine = EncoderEngine([(encoder, inner)], patch=256)
    found = engine.predict(patches)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() >= 0.999
    if kind == "torch":
        assert np.abs(found - expected).max() > 1e-5  # it was another precision
    np.testing.assert_array_equal(engine.predict(patches[2:]), found[2:])
    assert f"{kind} cpu" in engine.description
    engine.close()

"""Adding encoders: from the hub, from files, refused; and loading them again."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from typer.testing import CliRunner

from pathology.bundle.weights import file_sha256
from pathology.cli.app import app
from pathology.encoders.installed import add_encoder, list_encoders, load_encoder
from pathology.encoders.network import build_body
from pathology.encoders.published import find_published
from pathology.errors import BundleError, PathologyError, UnsafeWeightsError, UsageError, WeightsHashError
from pathology.networks.penultimate import split_classifier
from pathology.testing.random_bundle import write_random_bundle

timm = pytest.importorskip("timm")

KAIKO = "kaiko-vits16"
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def weights():
    """Random weights of exactly the published names and shapes."""
    torch.manual_seed(1)
    return build_body(find_published(KAIKO)).state_dict()


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def as_checkpoint(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_first_use_fetches_converts_and_pins(hub, weights, patches, own_encoders):
    repository = find_published(KAIKO).hub
    hub.put(repository, "config.json", b'{"architecture": "vit_small_patch16_224"}', OLD)
    hub.put(repository, "model.safetensors", save(weights), OLD)
    encoder = load_encoder(KAIKO)
    assert encoder.revision == OLD
    assert encoder.weights_sha256 == file_sha256(own_encoders / KAIKO / "weights.safetensors")
    # As published, to the byte.
    assert (own_encoders / KAIKO / "weights.safetensors").read_bytes() == save(weights)
    direct = timm.create_model("vit_small_patch16_224", num_classes=0, dynamic_img_size=True)
    direct.load_state_dict(weights)
    scaled = torch.from_numpy(patches).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        found = encoder.network()(torch.from_numpy(patches))
        assert torch.equal(found, direct.eval()((scaled - 0.5) / 0.5))
    # A newer commit on the hub changes nothing: what was added stays, and the hub is not asked.
    other = {name: tensor + 1 for name, tensor in weights.items()}
    hub.put(repository, "model.safetensors", save(other), NEW)
    asked = len(hub.requests)
    assert load_encoder(KAIKO) == encoder
    assert len(hub.requests) == asked
    assert add_encoder(KAIKO, revision=NEW, replace=True).revision == NEW
    assert add_encoder(KAIKO, revision=OLD, replace=True).weights_sha256 == encoder.weights_sha256


def test_checkpoints_become_safetensors(hub, weights, tmp_path, own_encoders):
    repository = find_published(KAIKO).hub
    wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
    hub.put(repository, "pytorch_model.bin", as_checkpoint({"state_dict": wrapped, "epoch": 3}), OLD)
    encoder = load_encoder(KAIKO)
    stored = load_file(own_encoders / KAIKO / "weights.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weights[name]) for name in weights)
    assert encoder.network() is not None


def test_mean_and_deviation_come_from_the_publisher(weights, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(save(weights))
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.2] * 3}}))
    encoder = add_encoder(KAIKO, source=folder)
    assert encoder.specification.mean == (0.7, 0.6, 0.7)
    assert encoder.specification.std == (0.2, 0.2, 0.2)
    assert load_encoder(KAIKO) == encoder
    with pytest.raises(UsageError, match="added before"):
        add_encoder(KAIKO, source=folder)


def test_gated(hub):
    hub.put("MahmoodLab/UNI", "pytorch_model.bin", b"")
    hub.gated.add("MahmoodLab/UNI")
    with pytest.raises(BundleError, match=r"is gated.*CC BY-NC-ND.*HF_TOKEN.*--from FILE"):
        load_encoder("uni")
    done = CliRunner().invoke(app, ["encoders", "add", "uni"])
    assert isinstance(done.exception, PathologyError)


def test_offline_and_unreachable(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BundleError, match=r"not in the hub's cache.*HF_HUB_OFFLINE"):
        load_encoder(KAIKO)
    assert not hub.requests


def test_missing_repository_revision_and_file(hub):
    repository = find_published(KAIKO).hub
    with pytest.raises(BundleError, match="shows no repository"):
        load_encoder(KAIKO)
    hub.put(repository, "README.md", b"")
    with pytest.raises(BundleError, match=r"none of model\.safetensors, pytorch_model\.bin"):
        load_encoder(KAIKO)
    with pytest.raises(BundleError, match="no revision"):
        add_encoder(KAIKO, revision="c" * 40)


def test_pickles_with_code_are_refused(tmp_path, own_encoders):
    class Evil:
        def __reduce__(self):
            return print, ("code ran",)

    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(UnsafeWeightsError):
        add_encoder(KAIKO, source=path)
    torch.save({"a": "text"}, path)
    with pytest.raises(UnsafeWeightsError, match="mapping of named tensors"):
        add_encoder(KAIKO, source=path)
    assert not list(own_encoders.iterdir())


def test_weights_of_another_network(weights, tmp_path, own_encoders):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({name: tensor for name, tensor in weights.items() if name != "pos_embed"}))
    with pytest.raises(BundleError, match="pos_embed is missing"):
        add_encoder(KAIKO, source=path)
    path.write_bytes(save(weights))
    with pytest.raises(BundleError, match="do not match the network"):
        add_encoder("kaiko-vitb16", source=path)
    assert not list(own_encoders.iterdir())


def test_changed_weights_are_noticed(weights, tmp_path, own_encoders):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(weights))
    encoder = add_encoder(KAIKO, source=path)
    (own_encoders / KAIKO / "weights.safetensors").write_bytes(save({**weights, "norm.bias": torch.ones(384)}))
    with pytest.raises(WeightsHashError):
        encoder.network()


@pytest.mark.parametrize(
    ("name", "vector"), [("timm:resnet10t", 512), ("timm:vit_tiny_patch16_224", 192), ("torchvision:resnet18", 512)]
)
def test_networks_of_the_libraries(name, vector, tmp_path, patches):
    library, _, network = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        direct = timm.create_model(network, num_classes=10).eval()
    else:
        from torchvision.models import get_model

        direct = get_model(network, weights=None).eval()
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(direct.state_dict()))
    encoder = add_encoder(name, source=path)
    assert encoder.specification.vector == vector
    if library == "timm":
        direct.reset_classifier(0)
    else:
        direct = split_classifier(direct)[0]
    side = encoder.specification.input
    small = torch.from_numpy(patches[:, :side, :side].copy())
    with torch.no_grad():
        body = encoder.network()
        assert torch.equal(body(small), direct(body.normalised(small)))
    with pytest.raises(UsageError, match="no network called"):
        add_encoder(f"{library}:resnet1888", source=path)


def test_the_body_of_a_bundle_encodes(tmp_path, patches):
    folder = write_random_bundle(tmp_path / "model", mpp=1.0)
    encoder = load_encoder(str(folder))
    assert encoder.specification.vector == 1024
    assert encoder.specification.mpp == 1.0
    with torch.no_grad():
        assert encoder.network()(torch.from_numpy(patches[:, :64, :64].copy())).shape == (2, 1024)


def test_commands(weights, tmp_path, own_encoders):
    runner = CliRunner()
    listed = runner.invoke(app, ["encoders", "list"]).output
    assert "uni2-h: 1536 numbers per patch of 256 px at 0.5 µm/px; not added (gated); licence: CC BY-NC-ND" in listed
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(weights))
    added = runner.invoke(app, ["encoders", "add", KAIKO, "--from", str(path)]).output
    assert file_sha256(own_encoders / KAIKO / "weights.safetensors") in added
    assert "Research use only" in added
    shown = runner.invoke(app, ["encoders", "show", KAIKO]).output
    assert "interpolation: bilinear" in shown
    assert str(own_encoders) in shown
    rows = json.loads(runner.invoke(app, ["encoders", "list", "--json"]).output)
    assert [row["name"] for row in rows if row["added"]] == [KAIKO]
    assert [s.name for s, encoder in list_encoders() if encoder is not None] == [KAIKO]
    assert "added: null" in runner.invoke(app, ["encoders", "show", "virchow2"]).output

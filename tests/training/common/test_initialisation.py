from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model_weights

from pathology.errors import BundleError, MissingDependencyError, PathologyError
from pathology.networks.registry import build_network
from pathology.testing.random_bundle import write_random_bundle
from pathology.training.common import initialisation
from pathology.training.common.initialisation import imagenet_state, resolve_start


class Harm:
    """What a pickle may do when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("harm-was-done"),)


def test_published_weights_are_read_as_tensors_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    url = get_model_weights("densenet121").DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    torch.save({"features.conv0.weight": torch.ones(2)}, cached)
    assert torch.equal(imagenet_state("densenet121")[1]["features.conv0.weight"], torch.ones(2))
    torch.save({"features.conv0.weight": Harm()}, cached)
    with pytest.raises(PathologyError, match="are not available"):
        imagenet_state("densenet121")
    assert not (tmp_path / "harm-was-done").exists()


def test_random_changes_nothing():
    network = build_network("densenet121", 3)
    before = network.classifier.weight.clone()
    start = resolve_start("random", "densenet121")
    assert start.load(network) == "random weights"
    assert torch.equal(before, network.classifier.weight)


def test_a_file_gives_what_fits(tmp_path):
    torch.manual_seed(1)
    source = build_network("densenet121-foersch", 5)
    save_file(source.state_dict(), tmp_path / "five.safetensors")
    start = resolve_start(str(tmp_path / "five.safetensors"), "densenet121-foersch")
    network = build_network("densenet121-foersch", 2)
    said = start.load(network)
    assert "five.safetensors" in said
    assert "2 at random" in said
    assert torch.equal(network[0][0].conv0.weight, source[0][0].conv0.weight)
    assert network[1][8].weight.shape == (2, 512)
    with pytest.raises(BundleError, match="no layer"):
        start.load(build_network("inception-v3", 2))


def test_a_bundle_is_a_start(tmp_path):
    folder = write_random_bundle(tmp_path / "before", architecture="densenet121")
    start = resolve_start(str(folder), "densenet121")
    network = build_network("densenet121", 7)
    assert "bundle before 1.0.0" in start.load(network)
    with pytest.raises(PathologyError, match="Use random, imagenet"):
        resolve_start(str(tmp_path / "nothing"), "densenet121")


def test_published_weights_fit_by_name(monkeypatch):
    """Torchvision's names reach the networks here; without a network the error says what to do."""
    torch.manual_seed(2)
    published = build_network("densenet121", 1000)
    monkeypatch.setattr(initialisation, "imagenet_state", lambda _: ("published", published.state_dict()))
    network = build_network("densenet121-foersch", 5)
    said = resolve_start("imagenet", "densenet121-foersch").load(network)
    assert torch.equal(
        network[0][0].denseblock4.denselayer16.conv2.weight, published.features.denseblock4.denselayer16.conv2.weight
    )
    body = len(network[0].state_dict())
    assert f"published: {body} of {len(network.state_dict())}" in said


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(MissingDependencyError, match=r"are not available \(no route to host\).*random initialisation"):
        resolve_start("imagenet", "inception-v3")

import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.models import get_model_weights

from pathology.errors import BundleError, MissingDependencyError, PathologyError
from pathology.networks.registry import build_network
from pathology.networks.torchvision_classifiers import CLASSIFIERS
from pathology.testing.random_bundle import write_random_bundle
from pathology.training.common import initialisation
from pathology.training.common.body_weights import head_of, load_body
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
    assert said.endswith("fresh: the head (2)")
    assert torch.equal(network[0][0].conv0.weight, source[0][0].conv0.weight)
    assert network[1][8].weight.shape == (2, 512)
    with pytest.raises(BundleError, match="hold 0 of the"):
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
    body, head = len(network[0].state_dict()), network[1].state_dict()
    counters = sum(name.endswith("num_batches_tracked") for name in head)
    assert said == (
        f"published: {body} of {len(network.state_dict())} tensors; "
        f"fresh: the head ({len(head) - counters}), batch counters ({counters})"
    )


def as_published(architecture):
    """Weights as torchvision's published files name them: ``norm.1``, and no counters of batches."""
    network = (
        models.get_model(architecture, weights=None, init_weights=False)
        if "incep" in architecture
        else (models.get_model(architecture, weights=None))
    )
    state = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): t for name, t in state.items()}


PUBLISHED = {
    "densenet121": (lambda: build_network("densenet121", 3), 2),
    "densenet121-foersch": (lambda: build_network("densenet121-foersch", 3), 0),
    "inception-v3": (lambda: build_network("inception-v3", 3), 4),
    "densenet161": (lambda: CLASSIFIERS["densenet161"](2), 2),
    "resnet18": (lambda: CLASSIFIERS["resnet18"](2), 2),
    "resnet50": (lambda: CLASSIFIERS["resnet50"](2), 2),
    "alexnet": (lambda: CLASSIFIERS["alexnet"](2), 2),
    "vgg19": (lambda: CLASSIFIERS["vgg19"](2), 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_cached_file_with_the_published_names_loads_whole(name, tmp_path, monkeypatch):
    torchvision_name = {"densenet121-foersch": "densenet121", "inception-v3": "inception_v3"}.get(name, name)
    state = as_published(torchvision_name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = get_model_weights(torchvision_name).DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    torch.save(state, cached)
    description, read = imagenet_state(torchvision_name)
    build, of_head = PUBLISHED[name]
    network = build()
    said = load_body(network, read, description)
    own = network.state_dict()
    held = len(state) - (of_head if name != "densenet121-foersch" else 2)
    assert f"{held} of {len(own)} tensors; fresh: the head" in said
    # Every tensor that the file holds is in the network, but for its head of 1,000 classes.
    for key, tensor in own.items():
        if key.startswith(head_of(network)) or key.endswith("num_batches_tracked"):
            continue
        there = key.replace("0.0.", "features.", 1) if name == "densenet121-foersch" else key
        there = re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", there)
        assert torch.equal(tensor, state[there]), key


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_with_a_tenth_missing_is_refused_and_changes_nothing(name):
    torchvision_name = {"densenet121-foersch": "densenet121", "inception-v3": "inception_v3"}.get(name, name)
    names = sorted(as_published(torchvision_name))
    gone = set(random.Random(0).sample(names, max(1, len(names) // 10)))
    head = ("classifier.6", "classifier.weight", "classifier.bias", "fc.", "AuxLogits.fc")
    if all(n.startswith(head) for n in gone):
        gone.add(next(n for n in names if not n.startswith(head)))
    state = {n: t for n, t in as_published(torchvision_name).items() if n not in gone}
    network = PUBLISHED[name][0]()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    with pytest.raises(BundleError, match=r"hold \d+ of the \d+ tensors that the body of this network needs"):
        load_body(network, state, "these weights")
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("spelt", ["norm-1", "norm.1", "norm1", "module."])
@pytest.mark.parametrize("architecture", ["densenet121", "densenet121-foersch"])
def test_other_spellings_of_a_safetensors_file(tmp_path, spelt, architecture):
    source = models.densenet121(weights=None)
    state = source.state_dict()
    if spelt == "module.":
        state = {f"module.{n}": t for n, t in state.items()}
    else:
        between = spelt.removeprefix("norm").removesuffix("1")
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", rf"\1{between}\2", n): t for n, t in state.items()}
    save_file(state, tmp_path / "w.safetensors")
    network = build_network(architecture, 3)
    said = resolve_start(str(tmp_path / "w.safetensors"), architecture).load(network)
    body = network.features if architecture == "densenet121" else network[0][0]
    assert torch.equal(
        body.denseblock2.denselayer12.norm1.weight, source.features.denseblock2.denselayer12.norm1.weight
    )
    assert "fresh: the head" in said


def test_other_channels_are_said():
    network = CLASSIFIERS["resnet18"](2, channels=2)
    said = load_body(network, as_published("resnet18"), "published")
    assert "the first convolution, for 2 channels" in said


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(MissingDependencyError, match=r"are not available \(no route to host\).*random initialisation"):
        resolve_start("imagenet", "inception-v3")

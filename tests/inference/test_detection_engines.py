"""Detectors through the engines' contract."""

import hashlib

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from pathology.bundle.catalogue import load_bundle, verify_bundle
from pathology.findings.detections import Detections, suppress
from pathology.inference.detection import PatchDetector, WindowDetector
from pathology.inference.engine import BOXES_PER_PATCH
from pathology.inference.select import make_engine
from pathology.networks.registry import build_network
from pathology.testing.random_bundle import write_random_bundle

OPTIONS = {"width": 0.125, "anchors": [[20, 20], [25, 25], [30, 30]] * 3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A detector with random weights, scaled so that some boxes pass the floor."""
    folder = write_random_bundle(tmp_path_factory.mktemp("models") / "random-detector")
    torch.manual_seed(1)
    network = build_network("yolov4-csp", 1, **OPTIONS).eval()
    with torch.no_grad():
        maps = network(torch.rand(1, 3, 128, 128))
        linear = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
        for convolution, raw in zip(linear, maps, strict=True):
            convolution.weight /= raw.std()
    save_file(network.state_dict(), folder / "weights.safetensors")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card |= {
        "task": "detection",
        "architecture": "yolov4-csp",
        "architecture_options": OPTIONS,
        "parameters": sum(p.numel() for p in network.parameters()),
        "classes": ["mitosis"],
        "colours": [],
        "patch": 128,
        "stride": 96,
        "mpp": 0.25,
        "detection": {"threshold": 0.5, "floor": 0.3},
        "weights_sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)


def test_the_bundle_verifies(bundle):
    assert not [check for check in verify_bundle(bundle.directory) if check.error]


def test_engines_agree(bundle, patches):
    pytest.importorskip("openvino")
    results = []
    for kind in ("torch", "openvino"):
        engine = make_engine(bundle, kind=kind, device="cpu", threads=1)
        assert engine.classes == 5 * BOXES_PER_PATCH
        assert engine.precision == "fp32"
        results.append(engine.predict(patches).reshape(5, -1, 5))
        engine.close()
    for one, other in zip(*results, strict=True):
        assert (one[:, 4] > 0).sum() == (other[:, 4] > 0).sum() > 3
        np.testing.assert_allclose(one[:, 4], other[:, 4], atol=1e-4)
        np.testing.assert_allclose(one[:10], other[:10], atol=0.05)


def test_batches_change_nothing(bundle, patches):
    engine = make_engine(bundle, kind="torch", device="cpu", threads=1)
    together = engine.predict(patches)
    alone = np.concatenate([engine.predict(patches[i : i + 1]) for i in range(len(patches))])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_joined_boxes_are_those_of_plain_suppression(bundle, patches):
    network = bundle.network()
    card = bundle.card
    few = PatchDetector(network, (0, 0, 0), (1, 1, 1), card.detection.floor).eval()
    with torch.inference_mode():
        outputs = few(torch.from_numpy(patches)).numpy()
    every = WindowDetector(network, device=torch.device("cpu"), floor=card.detection.floor).detect(patches)
    for patch in range(len(patches)):
        ours = suppress(Detections.of_patches(outputs[patch : patch + 1], np.zeros((1, 2), int), 1.0), iou=0.4)
        theirs = every[patch][every[patch, :, 4] > 0]
        # Both keep the surest box of every place; of weaker ones that overlap little either may keep more.
        assert ours.scores[0] == pytest.approx(theirs[0, 4], abs=1e-5)
        np.testing.assert_allclose(ours.boxes[0], theirs[0, :4], atol=0.01)


def test_boxes_become_level_0_pixels():
    outputs = np.zeros((3, 2 * 5), np.float32)
    outputs[0, :5] = (10, 20, 30, 40, 0.9)
    outputs[1, 5:] = (0, 0, 8, 8, 0.5)
    outputs[2] = np.nan
    found = Detections.of_patches(outputs, np.array([[100, 200], [1000, 0], [5, 5]], np.int32), 2.0)
    np.testing.assert_allclose(found.boxes, [[120, 240, 160, 280], [1000, 0, 1016, 16]])
    np.testing.assert_allclose(found.scores, [0.9, 0.5])

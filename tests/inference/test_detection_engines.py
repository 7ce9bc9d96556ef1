"""Detectors through the engines' contract."""

import numpy as np
import pytest
import torch

from pathology.bundle.catalogue import load_bundle, verify_bundle
from pathology.findings.detections import Detections, suppress
from pathology.inference.detection import PatchDetector, WindowDetector
from pathology.inference.engine import BOXES_PER_PATCH
from pathology.inference.select import make_engine
from pathology.testing.random_detector import write_random_detector


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(write_random_detector(tmp_path_factory.mktemp("models") / "random-detector"))


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

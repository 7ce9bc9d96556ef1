"""Detectors through the engines' contract."""

import dataclasses

import numpy as np
import pytest
import torch

from pathology.bundle.catalogue import load_bundle, verify_bundle
from pathology.findings.detections import Detections, suppress
from pathology.inference.detection import PatchDetector, WindowDetector
from pathology.inference.engine import BOXES_PER_PATCH, Engine
from pathology.inference.near_candidates import CandidatesExact, easier
from pathology.inference.select import make_engine
from pathology.inference.torch_engine import TorchEngine, has_bf16
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
        engine = make_engine(bundle, kind=kind, device="cpu", precision="exact", threads=1)
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


class Looking(Engine):
    """Stands in for an engine of low precision: finds candidates where it is told to."""

    name = "looking"

    def __init__(self, exact, scores):
        self.device, self.precision, self.batch_size, self.appetite = "cpu", "bf16", exact.batch_size, exact.appetite
        self.patch, self.classes, self.scores = exact.patch, exact.classes, scores

    def predict(self, patches):
        result = np.zeros((len(patches), self.classes), np.float32)
        result[:, 4] = self.scores[: len(patches)]
        return result

    def _predict(self, patches):
        return self.predict(patches)

    def close(self):
        pass


def test_patches_with_candidates_are_computed_again_in_full_precision(bundle, patches):
    exact = make_engine(bundle, kind="torch", device="cpu", precision="exact", threads=1)
    whole = exact.predict(patches)
    engine = CandidatesExact(Looking(exact, [0.2, 0, np.nan, 0, 0.9]), exact)
    found = engine.predict(patches)
    for patch in (0, 2, 4):  # what is no number counts as a candidate
        np.testing.assert_allclose(found[patch], whole[patch], atol=1e-3)
    assert not found[[1, 3]].any()
    assert (engine.rescored, engine.seen) == (3, 5)
    assert engine.predict(patches[:0]).shape == (0, engine.classes)


def test_low_precision_looks_and_full_precision_decides(bundle, patches):
    exact = make_engine(bundle, kind="torch", device="cpu", precision="exact", threads=1)
    if not has_bf16():
        pytest.skip("this processor does not compute in bf16")
    looking = TorchEngine(easier(bundle), device="cpu", precision="bf16", threads=1)
    engine = CandidatesExact(looking, exact)
    np.testing.assert_allclose(engine.predict(patches), exact.predict(patches), atol=1e-3)
    assert engine.description == "torch cpu bf16, candidates fp32"
    engine.close()


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_a_processor_computes_detectors_in_full_precision(bundle, kind):
    if kind == "openvino":
        pytest.importorskip("openvino")
    engine = make_engine(bundle, kind=kind, device="cpu", precision="fast", threads=1)
    assert engine.precision == "fp32"
    engine.close()


def test_a_quarter_of_the_score_is_enough_to_be_looked_at_again(bundle):
    assert easier(bundle).card.detection.floor == bundle.card.detection.floor / 4
    assert easier(bundle).card.detection.threshold == bundle.card.detection.threshold


def test_calibration_changes_scores_and_not_boxes(bundle, patches):
    plain = PatchDetector(bundle.network(), (0, 0, 0), (1, 1, 1), 0.0).eval()
    steep = PatchDetector(bundle.network(), (0, 0, 0), (1, 1, 1), 0.0, (2.0, -0.5)).eval()
    with torch.inference_mode():
        one, other = (m(torch.from_numpy(patches)).view(5, -1, 5) for m in (plain, steep))
    np.testing.assert_array_equal(one[..., :4], other[..., :4])
    claimed = one[..., 4] > 1e-5  # the logit of less is cut off
    expected = torch.sigmoid(2 * torch.logit(one[..., 4][claimed]) - 0.5)
    np.testing.assert_allclose(other[..., 4][claimed], expected, rtol=1e-4)
    assert not other[..., 4][one[..., 4] == 0].any(), "no box stays no box"


def test_a_cards_calibration_is_in_every_engine(bundle, patches):
    pytest.importorskip("openvino")
    card = bundle.card.model_copy(update={"calibration": {"slope": 0.7, "intercept": 0.4}})
    scores = []
    for kind in ("torch", "openvino"):
        for model in (bundle, dataclasses.replace(bundle, card=card)):
            engine = make_engine(model, kind=kind, device="cpu", precision="exact", threads=1)
            scores.append(engine.predict(patches).reshape(5, -1, 5)[:, 0, 4])
            engine.close()
    expected = 1 / (1 + np.exp(-(0.7 * np.log(scores[0] / (1 - scores[0])) + 0.4)))
    np.testing.assert_allclose(scores[1], expected, rtol=1e-3)
    np.testing.assert_allclose(scores[3], expected, rtol=1e-3)
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-3)

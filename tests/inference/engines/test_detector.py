"""Detectors through the engines' contract."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import file_sha256
from pathology.errors import BundleError
from pathology.evaluation.detector import Image, rates
from pathology.findings.detections import Detections, suppress
from pathology.inference.engines.base import BOXES_PER_PATCH, Engine
from pathology.inference.engines.detector import PatchDetector, WindowDetector
from pathology.inference.engines.recheck import RecheckCandidates, with_lower_floor
from pathology.inference.engines.select import make_engine
from pathology.inference.engines.torch import TorchEngine, has_bf16
from pathology.networks.stem import StemFeatures
from pathology.testing.random_detector import write_random_detector
from pathology.training.detector.data import read_folder
from pathology.training.detector.fit import MATCH_PIXELS, to_detections


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load_bundle(write_random_detector(tmp_path_factory.mktemp("models") / "random-detector"))


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)


def verdict_of(folder) -> str:
    return str(verify_bundle(folder)[-1].error or "")


def test_a_bundle_verifies_unless_it_counts_on_glass(tmp_path):
    # Random weights find something everywhere.
    strict = write_random_detector(tmp_path / "strict", detection={"threshold": 0.95, "floor": 0.3})
    assert verdict_of(strict) == ""
    loose = write_random_detector(tmp_path / "loose")
    assert "on empty glass it has a counted detection" in verdict_of(loose)
    upside_down = write_random_detector(tmp_path / "upside-down", detection={"threshold": 0.2, "floor": 0.3})
    assert "0.2 is below the smallest score kept" in verdict_of(upside_down)


def rewritten(source, folder, change, **card):
    """Copy a bundle with its weights changed and a card that states them, so that no hash gives them away."""
    shutil.copytree(source, folder)
    weights = folder / "weights.safetensors"
    save_file({name: change(value) for name, value in load_file(weights).items()}, weights)
    content = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    content |= {"name": folder.name, "weights_sha256": file_sha256(weights), **card}
    (folder / "card.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def test_the_shipped_detector_verifies_and_spoilt_ones_do_not(tmp_path):
    shipped = load_bundle("mitosis-yolov4").directory
    assert verdict_of(shipped) == ""

    swapped = tmp_path / "mitosis-yolov4"
    shutil.copytree(shipped, swapped)
    weights = swapped / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "not those the card was written for" in verdict_of(swapped)

    dead = rewritten(shipped, tmp_path / "dead", torch.zeros_like)
    assert "they ignore the image" in verdict_of(dead)

    everything = {"threshold": 1e-9, "floor": 0.0}
    assert "on empty glass" in verdict_of(rewritten(shipped, tmp_path / "loose", lambda v: v, detection=everything))


def test_on_held_out_crops_the_shipped_detector_finds_mitoses_and_shuffled_weights_do_not(data_dir):
    shipped = load_bundle("mitosis-yolov4")
    test = read_folder(data_dir / "mitosis").of("test")
    chosen = np.linspace(0, len(test.crops) - 1, 60).astype(int)
    fields = ("crops", "objects", "slides", "parts", "complete")
    some = dataclasses.replace(test, **{name: getattr(test, name)[chosen] for name in fields})
    platt = shipped.card.calibration["slope"], shipped.card.calibration["intercept"]

    def recall(network):
        found = WindowDetector(network, device=torch.device("cpu"), calibration=platt).detect(some.crops)
        images = [
            Image(str(slide), to_detections(boxes), objects[objects[:, 2] == 1, :2], 1.0)
            for slide, objects, boxes in zip(some.slides, some.objects, found, strict=True)
        ]
        return rates(images, shipped.card.detection.threshold, MATCH_PIXELS).recall

    network = shipped.network()
    # The card: 0.94 (0.92 to 0.96) of all 724.
    assert recall(network) > 0.85
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(value.flatten()[torch.randperm(value.numel(), generator=generator)].view(value.shape))
    assert recall(network) < 0.1


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
        self.device, self.precision, self.batch_size, self.preferred_batch = (
            "cpu",
            "bf16",
            exact.batch_size,
            exact.preferred_batch,
        )
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
    engine = RecheckCandidates(Looking(exact, [0.2, 0, np.nan, 0, 0.9]), exact)
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
    looking = TorchEngine(with_lower_floor(bundle), device="cpu", precision="bf16", threads=1)
    engine = RecheckCandidates(looking, exact)
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
    assert with_lower_floor(bundle).card.detection.floor == bundle.card.detection.floor / 4
    assert with_lower_floor(bundle).card.detection.threshold == bundle.card.detection.threshold


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


def test_a_domain_score_follows_the_boxes_and_changes_none(tmp_path, patches):
    """The column equals a computation of its own, square by square, and boxes are those without it, to the bit."""
    plain = load_bundle(write_random_detector(tmp_path / "plain" / "d"))
    limited = load_bundle(write_random_detector(tmp_path / "limited" / "d", domain_limit=1.0))
    patches = patches.copy()
    patches[0, :64, :64] = 240  # glass
    patches[1] = 240  # nothing but glass
    results = {}
    for kind in ("torch", "openvino"):
        for name, one in (("plain", plain), ("limited", limited)):
            engine = make_engine(one, kind=kind, device="cpu", precision="exact")
            results[kind, name] = engine.predict(patches)
            engine.close()
        np.testing.assert_array_equal(results[kind, "limited"][:, :-1], results[kind, "plain"])
    domain, stem = limited.domain(), StemFeatures(limited.network()).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in limited.card.normalisation.model_dump().values())
    for patch, score in zip(patches, results["torch", "limited"][:, -1], strict=True):
        with torch.inference_mode():
            maps = stem.layers(((torch.from_numpy(patch).permute(2, 0, 1)[None] / 255) - mean) / std)
        squares = [maps[..., y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]
        scores = np.concatenate([domain.scores(stem.describe(s).numpy()) for s in squares])
        parts = [patch[y : y + 64, x : x + 64].astype(int) for y in (0, 64) for x in (0, 64)]
        coloured = np.array([(part.max(-1) - part.min(-1)).mean() >= 15 for part in parts])
        chosen = np.sort(scores[coloured] if coloured.any() else scores)
        assert score == pytest.approx(chosen[(len(chosen) - 1) // 2], rel=1e-3)
    np.testing.assert_allclose(results["openvino", "limited"][:, -1], results["torch", "limited"][:, -1], rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": "penultimate"}, "must be stem for a detector"),
        ({"cell": 100}, "100 does not divide the patch, 128 px"),
    ],
)
def test_a_rule_that_a_detector_cannot_apply_is_refused(tmp_path, change, said):
    folder = write_random_detector(tmp_path / "d", domain_limit=1.0)
    card = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    card["trust"]["out_of_domain"] |= change
    (folder / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    with pytest.raises(BundleError, match=said):
        load_bundle(folder)

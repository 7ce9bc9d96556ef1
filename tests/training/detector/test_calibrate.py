"""Confidences of a detector as chances."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pathology.errors import UsageError
from pathology.evaluation.detector import Image
from pathology.findings.detections import Detections
from pathology.inference.engines.detector import calibrated
from pathology.training.detector.calibrate import Candidates, calibrate, candidates_of, fit_platt


def drawn(count=20_000, slope=0.6, intercept=-1.2, seed=0):
    generator = np.random.default_rng(seed)
    scores = generator.beta(1.5, 1.5, count)
    hits = generator.random(count) < calibrate(scores, (slope, intercept))
    return Candidates(scores, hits, np.array([f"slide {i % 40}" for i in range(count)]))


def test_the_fit_finds_what_was_put_in_and_is_the_most_likely():
    candidates = drawn()
    slope, intercept = fit_platt(candidates)
    assert slope == pytest.approx(0.6, abs=0.05)
    assert intercept == pytest.approx(-1.2, abs=0.05)

    def unlikely(parameters):
        chance = np.clip(calibrate(candidates.scores, tuple(parameters)), 1e-12, 1 - 1e-12)
        return -np.mean(np.where(candidates.hits, np.log(chance), np.log(1 - chance)))

    best = minimize(unlikely, (1.0, 0.0)).x
    np.testing.assert_allclose((slope, intercept), best, atol=2e-3)


def test_calibration_brings_scores_to_the_truth():
    fitted, other = drawn(seed=0), drawn(seed=1)
    after = Candidates(calibrate(other.scores, fit_platt(fitted)), other.hits, other.slides)
    assert other.calibration_error() > 0.1
    assert after.calibration_error() < 0.03
    assert after.brier() < other.brier()
    low, high = after.interval("brier", repeats=200)
    assert low < after.brier() < high
    assert high - low < 0.05


def test_the_same_formula_as_in_the_engines():
    scores = np.linspace(0.01, 0.99, 50).astype(np.float32)
    np.testing.assert_allclose(
        calibrate(scores, (1.7, 0.3)), calibrated(torch.from_numpy(scores), (1.7, 0.3)).numpy(), rtol=1e-4
    )
    np.testing.assert_allclose(calibrate(scores, (1.0, 0.0)), scores, rtol=1e-5)


def test_candidates_are_matched_one_to_one():
    boxes = np.array([[0, 0, 10, 10], [2, 2, 12, 12], [100, 100, 110, 110]], np.float32)
    image = Image("s", Detections(boxes, np.array([0.6, 0.9, 0.8], np.float32)), np.array([[6.0, 6.0]]), 1.0)
    found = candidates_of([image, Image("t", Detections.none(), np.empty((0, 2)), 1.0)], 5)
    assert found.hits.tolist() == [False, True, False]
    assert found.slides.tolist() == ["s"] * 3


def test_nothing_to_fit_is_refused():
    with pytest.raises(UsageError, match="requires both"):
        fit_platt(Candidates(np.array([0.2, 0.9]), np.array([True, True]), np.array(["a", "b"])))

"""Suppression and matching against torchvision and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from pathology.errors import UsageError
from pathology.findings.detections import (
    Detections,
    box_iou,
    match_by_distance,
    match_by_iou,
    suppress,
)


def random_detections(seed: int, count: int, extent: float = 400) -> Detections:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, extent, (count, 2))
    size = generator.uniform(5, 80, (count, 2))
    # Distinct scores: torchvision leaves the order of ties open.
    scores = generator.permutation(np.linspace(0.01, 0.99, count))
    return Detections(np.concatenate([corner, corner + size], 1).astype(np.float32), scores.astype(np.float32))


@given(st.integers(0, 10_000), st.integers(1, 200), st.sampled_from([0.1, 0.4, 0.7]))
@settings(max_examples=60, deadline=None)
def test_suppression_equals_torchvision(seed, count, iou):
    detections = random_detections(seed, count)
    kept = suppress(detections, iou=iou)
    expected = ops.nms(torch.from_numpy(detections.boxes), torch.from_numpy(detections.scores), iou).numpy()
    np.testing.assert_array_equal(kept.boxes, detections.boxes[expected])


def test_iou_equals_torchvision():
    a, b = random_detections(0, 50).boxes, random_detections(1, 70).boxes
    expected = ops.box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-6)
    point = np.array([[3.0, 3, 3, 3]])
    assert box_iou(point, point) == [[0]]


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_order_of_windows_changes_nothing(seed):
    generator = np.random.default_rng(seed)
    detections = random_detections(seed, 100, extent=200)
    detections = Detections(detections.boxes, np.round(detections.scores, 1))  # with ties
    shuffled = detections.take(generator.permutation(100))
    first, second = suppress(detections, distance=10), suppress(shuffled, distance=10)
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_a_cut_box_at_a_window_edge_is_the_same_mitosis():
    whole = [100, 100, 150, 150]
    cut = [100, 100, 118, 150]  # seen by the neighbouring window, which ends at x = 118
    both = Detections(np.array([whole, cut], np.float32), np.array([0.9, 0.6], np.float32))
    assert len(suppress(both, iou=0.4)) == 2
    assert suppress(both, iou=0.4, distance=20).scores.tolist() == pytest.approx([0.9])


def test_matching_is_one_to_one():
    reference = np.array([[50.0, 50], [300, 300]])
    boxes = np.array([[25, 25, 75, 75], [30, 25, 80, 75], [400, 400, 450, 450]], np.float32)
    detections = Detections(boxes, np.array([0.5, 0.9, 0.8], np.float32))
    matches = match_by_distance(detections, reference, 30)
    assert matches.reference_of.tolist() == [-1, 0, -1], "the surer detection takes the mitosis"
    assert (matches.true_positives, matches.false_positives, matches.false_negatives) == (1, 2, 1)


def test_matching_takes_the_nearest_free_reference():
    reference = np.array([[0.0, 0], [20, 0]])
    boxes = np.array([[-17, -25, 33, 25], [-10, -25, 40, 25]], np.float32)  # centres x = 8 and 15
    matches = match_by_distance(Detections(boxes, np.array([0.9, 0.8], np.float32)), reference, 30)
    assert matches.reference_of.tolist() == [0, 1]


def test_matching_by_overlap():
    reference = np.array([[0, 0, 50, 50]])
    near = Detections(np.array([[10, 0, 60, 50]], np.float32), np.array([0.5], np.float32))
    far = Detections(np.array([[30, 0, 80, 50]], np.float32), np.array([0.5], np.float32))
    assert match_by_iou(near, reference).true_positives == 1  # 40 / 60
    assert match_by_iou(far, reference).true_positives == 0  # 20 / 80


def test_empty_sets():
    nothing = Detections.none()
    assert len(suppress(nothing)) == 0
    assert match_by_distance(nothing, np.array([[1.0, 1]]), 30).false_negatives == 1
    assert match_by_iou(random_detections(0, 3), np.empty((0, 4))).false_positives == 3
    assert len(Detections.concatenate([])) == 0
    assert len(Detections.concatenate([random_detections(0, 3), random_detections(1, 4)]).at_least(0)) == 7
    with pytest.raises(UsageError):
        Detections(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))

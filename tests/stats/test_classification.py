"""Metrics equal scikit-learn and torchmetrics; intervals follow the patients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from pathology.errors import UsageError
from pathology.stats.classification import (
    area_under_precision_recall,
    area_under_roc,
    classification_report,
    expected_calibration_error,
    optimal_threshold,
    score_by_patient,
)
from pathology.stats.intervals import wilson


@pytest.fixture(scope="module")
def five_classes():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 120)
    logits = rng.normal(size=(120, 5)) + 1.5 * np.eye(5)[truth]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, p


def test_classification_report_equals_scikit_learn(five_classes):
    truth, p = five_classes
    called = p.argmax(axis=1)
    report = classification_report(truth, p, list("abcde"), resamples=200)
    assert report.accuracy.value == pytest.approx(sk.accuracy_score(truth, called))
    assert report.accuracy == wilson(int((truth == called).sum()), 120)
    assert report.balanced_accuracy.value == pytest.approx(sk.balanced_accuracy_score(truth, called))
    assert report.macro_f1.value == pytest.approx(sk.f1_score(truth, called, average="macro"))
    assert report.kappa.value == pytest.approx(sk.cohen_kappa_score(truth, called))
    assert report.macro_auc.value == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr"))
    for c, name in enumerate("abcde"):
        assert report.auc[name].value == pytest.approx(sk.roc_auc_score(truth == c, p[:, c]))
        assert report.recall[name].value == pytest.approx(sk.recall_score(truth == c, called == c))
        assert report.precision[name].value == pytest.approx(sk.precision_score(truth == c, called == c))
        assert report.recall[name].n == report.support[name] == int((truth == c).sum())
    assert np.array_equal(report.confusion, sk.confusion_matrix(truth, called))
    reference = multiclass_calibration_error(torch.tensor(p), torch.tensor(truth), num_classes=5, n_bins=15)
    assert report.calibration_error.value == pytest.approx(float(reference), abs=1e-6)


def test_rows_of_one_patient_widen_the_interval():
    rng = np.random.default_rng(2)
    truth = np.repeat(rng.integers(0, 2, 30), 20)
    scores = np.repeat(rng.normal(size=30) + truth[::20], 20)
    patients = np.repeat(np.arange(30), 20)
    by_patient = area_under_roc(truth, scores, patients=patients)
    by_row = area_under_roc(truth, scores)
    assert by_patient.value == pytest.approx(by_row.value)
    assert by_patient.high - by_patient.low > 3 * (by_row.high - by_row.low)
    assert by_patient.n == 30
    report = classification_report(
        truth, np.stack([1 - scores, scores], 1), ["a", "b"], patients=patients, resamples=100
    )
    assert report.patients == 30
    assert "bootstrap" in report.accuracy.method


def test_a_class_that_is_absent_is_said_not_hidden():
    p = np.tile([0.6, 0.3, 0.1], (6, 1))
    report = classification_report([0, 0, 0, 1, 1, 1], p, ["a", "b", "c"], resamples=100)
    assert report.support["c"] == 0
    assert np.isnan(report.auc["c"].value)
    assert report.recall["c"].n == 0
    assert np.isnan(report.recall["c"].value)
    assert np.isnan(area_under_precision_recall([0, 0], np.array([0.1, 0.2]), resamples=100).value)


def test_calibration_error_of_certain_and_right_is_zero():
    assert expected_calibration_error([0, 1], np.eye(2)) == 0
    assert expected_calibration_error([1, 0], np.eye(2)) == 1


def test_threshold_is_the_best_of_all():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 60)
    scores = (rng.normal(size=60) + truth).round(1)
    for rule, cost in (
        ("nearest-corner", lambda sens, spec: np.hypot(1 - sens, 1 - spec)),
        ("youden", lambda sens, spec: -(sens + spec)),
    ):
        chosen = optimal_threshold(truth, scores, rule=rule)
        costs = {t: cost(np.mean(scores[truth == 1] >= t), np.mean(scores[truth == 0] < t)) for t in np.unique(scores)}
        assert costs[chosen] == pytest.approx(min(costs.values()), abs=1e-12)
    with pytest.raises(UsageError, match="both classes"):
        optimal_threshold([1, 1], np.array([0.1, 0.2]))


def test_score_by_patient_averages():
    names, mean = score_by_patient(np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.8]]), ["b", "b", "a"])
    assert names == ["a", "b"]
    assert mean.tolist() == [[0.2, 0.8], [0.5, 0.5]]


def test_shapes_are_checked():
    with pytest.raises(UsageError, match=r"expected \(2, 3\)"):
        classification_report([0, 1], np.ones((2, 2)), ["a", "b", "c"])
    with pytest.raises(UsageError, match="out of range for 2 classes"):
        classification_report([0, 2], np.ones((2, 2)), ["a", "b"])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40)
)
def test_figures_with_ties_equal_scikit_learn(rows):
    truth = np.array([row[0] for row in rows])
    scores = np.array([row[1] / 4 for row in rows])
    if 0 < truth.sum() < len(truth):
        assert area_under_roc(truth, scores).value == pytest.approx(sk.roc_auc_score(truth, scores))
        assert area_under_precision_recall(truth, scores, resamples=100).value == pytest.approx(
            sk.average_precision_score(truth, scores)
        )
    labels, called = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    report = classification_report(labels, np.eye(3)[called], ("a", "b", "c"), resamples=100)
    present = np.unique(labels)
    expected = sk.f1_score(labels, called, average="macro", labels=present, zero_division=0)
    assert report.macro_f1.value == pytest.approx(expected)
    if len(set(labels) | set(called)) > 1:
        expected = sk.cohen_kappa_score(labels, called, labels=[0, 1, 2])
        assert report.kappa.value == pytest.approx(expected, nan_ok=True)

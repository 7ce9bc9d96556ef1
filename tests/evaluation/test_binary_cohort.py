import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pathology.errors import UsageError
from pathology.evaluation import binary_cohort
from pathology.evaluation.binary_cohort import BinaryPredictions, binary_sections, evaluate_binary


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(binary_cohort, "_RESAMPLES", 100)


def predictions(n=400, *, strength=1.0, shift=0.0, centres=()):
    """Labels drawn from the true log odds; predicted are these times ``strength`` plus ``shift``."""
    random = np.random.default_rng(0)
    odds = random.normal(0, 1.5, n)
    labels = (random.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    p = 1 / (1 + np.exp(-(strength * odds + shift)))
    return BinaryPredictions(labels, p, tuple(f"P{i}" for i in range(n)), centres)


def test_a_calibrated_model_has_slope_1_and_intercept_0_within_their_intervals():
    found = predictions()
    got = evaluate_binary(found).metrics
    assert got["area under the ROC curve"].value == roc_auc_score(found.labels, found.probabilities)
    assert 1 in got["calibration slope"]
    assert 0 in got["calibration intercept"]
    assert 1 in got["observed / expected"]
    assert got["sensitivity at 0.5"].n + got["specificity at 0.5"].n == 400


def test_extreme_and_shifted_predictions_show():
    true = evaluate_binary(predictions()).metrics
    extreme = evaluate_binary(predictions(strength=3.0)).metrics
    assert extreme["calibration slope"].value == pytest.approx(true["calibration slope"].value / 3, rel=1e-3)
    shifted = evaluate_binary(predictions(shift=1.0)).metrics
    assert shifted["calibration intercept"].value == pytest.approx(true["calibration intercept"].value - 1, abs=1e-6)
    assert shifted["observed / expected"].value < 0.9


def test_centres_and_one_class():
    found = predictions(60, centres=("a",) * 59 + ("b",))
    got = evaluate_binary(found)
    assert got.centres["a"].n == 59
    assert np.isnan(got.centres["b"].value)
    with pytest.raises(UsageError, match="of one class"):
        evaluate_binary(BinaryPredictions(np.ones(3, np.int64), np.full(3, 0.4), ("a", "b", "c")))


def test_report_stands_beside_the_own_figures(tmp_path):
    found = predictions(60, centres=("a", "b") * 30)
    own = {"area under the ROC curve": "0.8, own"}
    sections = binary_sections(evaluate_binary(found), found, tmp_path, own=own, outcome="death")
    assert [s.heading for s in sections] == [
        "Metrics beside the model's own",
        "Calibration and usefulness",
        "By centre",
    ]
    assert sections[0].table.rows[0][2].value == "0.8, own"
    assert sections[0].table.rows[1][2].value == "not recorded"
    assert (tmp_path / "decision-curve.svg").exists()

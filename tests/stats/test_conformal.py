"""Prediction sets: coverage in simulation, and equality with MAPIE."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.errors import UsageError
from pathology.stats.conformal import (
    conformal_quantile,
    coverage,
    fit_conformal,
    one_per_patient,
    prediction_sets,
)


def draw(random, n, classes=5, sureness=1.5):
    """Probabilities and labels; the probabilities are too sure, which conformal sets must not mind."""
    logits = random.normal(0, 1, (n, classes))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    wrong = np.exp(logits * sureness) / np.exp(logits * sureness).sum(axis=1, keepdims=True)
    return wrong, labels


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("wanted", [0.8, 0.9])
def test_coverage_within_two_points_of_nominal(method, wanted):
    random = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        p, labels = draw(random, 79)  # (79 + 1) * wanted is whole, so nominal coverage is exact for lac
        rule = fit_conformal(p, labels, coverage=wanted, method=method)
        new, truth = draw(random, 100)
        hits.append(coverage(prediction_sets(new, rule), truth).share)
    # 400 rounds: standard error of the mean about 0.3 points.
    assert abs(np.mean(hits) - wanted) < 0.02


def test_coverage_holds_for_new_patients_with_many_slides_each():
    random = np.random.default_rng(2)
    hits = []
    for _ in range(400):
        patients, p, labels = [], [], []
        for patient in range(39):
            one, label = draw(random, 1)
            for _ in range(int(random.integers(1, 8))):
                noise = np.abs(one[0] + random.normal(0, 0.01, 5))
                p.append(noise / noise.sum())
                labels.append(label[0])
                patients.append(f"p{patient:02d}")
        rule = fit_conformal(np.array(p), labels, patients=patients, coverage=0.9)
        assert rule.n == 39
        new, truth = draw(random, 50)
        hits.append(coverage(prediction_sets(new, rule), truth).share)
    assert abs(np.mean(hits) - 0.9) < 0.02


def test_equals_mapie():
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        """Gives back the probabilities it is handed as features."""

        def fit(self, x, y):
            self.classes_ = np.arange(x.shape[1])
            self.fitted_ = True
            return self

        def predict_proba(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    random = np.random.default_rng(5)
    p, labels = draw(random, 119)
    new, _ = draw(random, 200)
    reference = SplitConformalClassifier(Given().fit(p, labels), confidence_level=0.9, prefit=True)
    reference.conformalize(p, labels)
    _, expected = reference.predict_set(new)
    sets = prediction_sets(new, fit_conformal(p, labels, coverage=0.9))
    np.testing.assert_array_equal(sets, expected[:, :, 0])
    assert 1 < sets.sum(axis=1).mean() < 5


def test_adaptive_sets_equal_their_definition():
    # Romano et al. 2020, equation 4 without randomisation; MAPIE randomises the calibration scores.
    random = np.random.default_rng(6)
    p, labels = draw(random, 59)
    new, _ = draw(random, 50)
    scores = sorted(sum(q for q in row if q >= row[label]) for row, label in zip(p.tolist(), labels, strict=True))
    limit = scores[54 - 1]  # ceil(60 * 0.9) = 54
    rule = fit_conformal(p, labels, coverage=0.9, method="aps")
    assert rule.threshold == pytest.approx(limit, rel=1e-12)
    expected = [
        [sum(q for q in row if q >= one) <= limit + 1e-12 or one == max(row) for one in row] for row in new.tolist()
    ]
    np.testing.assert_array_equal(prediction_sets(new, rule), expected)


def test_quantile_by_hand():
    scores = np.arange(1, 10) / 10
    assert conformal_quantile(scores, 0.1) == 0.9
    assert conformal_quantile(scores, 0.2) == 0.8
    assert conformal_quantile(scores, 0.05) is None
    assert conformal_quantile(np.array([]), 0.1) is None


def test_too_few_patients_give_every_class():
    rule = fit_conformal(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 1], coverage=0.9)
    assert rule.threshold is None
    assert prediction_sets(np.array([[1.0, 0.0]]), rule).all()


def test_sets_by_hand():
    rule = fit_conformal(np.array([[0.6, 0.3, 0.1]] * 9), [1] * 9, coverage=0.9)
    assert rule.threshold == pytest.approx(0.7)
    sets = prediction_sets(np.array([[0.5, 0.35, 0.15], [0.98, 0.01, 0.01], [0.29, 0.28, 0.43]]), rule)
    np.testing.assert_array_equal(sets, [[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    adaptive = fit_conformal(np.array([[0.6, 0.3, 0.1]] * 9), [1] * 9, coverage=0.9, method="aps")
    assert adaptive.threshold == pytest.approx(0.9)
    np.testing.assert_array_equal(
        prediction_sets(np.array([[0.5, 0.35, 0.15], [0.98, 0.01, 0.01]]), adaptive), [[1, 1, 0], [1, 0, 0]]
    )


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12), st.integers(0, 99))
def test_one_row_of_each_patient(patients, seed):
    rows = one_per_patient(patients, seed=seed)
    assert [patients[row] for row in rows] == sorted(set(patients))


def test_bad_input():
    with pytest.raises(UsageError, match="expected equal"):
        fit_conformal(np.ones((2, 2)) / 2, [0])
    with pytest.raises(UsageError, match="without missing values"):
        fit_conformal(np.array([[np.nan, 1.0]]), [0])

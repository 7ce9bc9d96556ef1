"""The out-of-distribution score: equality with scikit-learn, its rate of false alarms, and what it catches."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from pathology.errors import UsageError
from pathology.stats.out_of_distribution import fit_domain, fit_limit, slide_score


def patches(random, n, shift=0.0, classes=3, features=40):
    labels = random.integers(0, classes, n)
    mix = np.random.default_rng(7).normal(size=(features, features))
    centres = np.random.default_rng(8).normal(0, 4, (classes, features))
    return centres[labels] + random.normal(size=(n, features)) @ mix + shift, labels


def test_scores_equal_mahalanobis_of_scikit_learn():
    random = np.random.default_rng(0)
    features, labels = patches(random, 300)
    domain = fit_domain(features, labels)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(3)])
    reference = LedoitWolf(assume_centered=True).fit(features - means[labels])
    new, _ = patches(random, 50, shift=1.0)
    expected = np.stack([reference.mahalanobis(new - mean) for mean in means]).min(axis=0) / 40
    np.testing.assert_allclose(domain.scores(new), expected, rtol=1e-3)


def test_about_one_inside_and_more_outside():
    random = np.random.default_rng(1)
    domain = fit_domain(*patches(random, 2000))
    inside = slide_score(domain.scores(patches(random, 500)[0]))
    outside = slide_score(domain.scores(patches(random, 500, shift=6.0)[0]))
    assert 0.8 < inside < 1.3
    assert outside > 2 * inside


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_false_alarm_rate_within_two_points_of_nominal(rate):
    random = np.random.default_rng(2)
    alarms = []
    for _ in range(600):
        # Slides of one patient resemble each other; one is drawn, so the rate holds for new patients.
        level = random.gamma(5, 1, 59)
        scores = np.repeat(level, 3) + random.normal(0, 0.05, 177)
        rule = fit_limit(scores, features=10, patients=[f"p{i:02d}" for i in np.repeat(range(59), 3)], false_alarm=rate)
        new = random.gamma(5, 1, 100) + random.normal(0, 0.05, 100)
        alarms.append((new > rule.limit).mean())
    assert abs(np.mean(alarms) - rate) < 0.02


def test_too_few_patients_state_no_limit():
    rule = fit_limit(np.array([1.0, 1.1, 1.2]), features=10, patients=["a", "b", "c"])
    assert rule.limit is None
    assert (rule.n, rule.unit) == (3, "patients")


def test_unreadable_patches_are_left_out():
    assert slide_score(np.array([1.0, np.nan, 3.0, 2.0])) == 2.0
    assert np.isnan(slide_score(np.array([np.nan])))


def test_more_features_than_patches():
    random = np.random.default_rng(3)
    features = random.normal(size=(30, 200))
    features[:, 5] = 0  # a unit that never fires
    domain = fit_domain(features, np.repeat([0, 2], 15))
    assert np.isfinite(domain.scores(features)).all()
    assert domain.centres.shape == (2, 200)


def test_bad_input():
    with pytest.raises(UsageError, match="two patches"):
        fit_domain(np.zeros((3, 4)), [0, 0, 1])
    with pytest.raises(UsageError, match="all finite"):
        fit_domain(np.full((4, 4), np.nan), [0, 0, 1, 1])

"""Metrics equal scikit-survival, lifelines and torchsurv; calibration and decision curves by hand."""

import lifelines
import numpy as np
import pytest
import torch
from lifelines.statistics import logrank_test, multivariate_logrank_test
from sksurv import metrics as sk
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from pathology.errors import UsageError
from pathology.survival.metrics import (
    brier_score,
    calibration_slope,
    dynamic_auc,
    harrell_c,
    integrated_brier_score,
    inverse_probability_weights,
    log_rank,
    observed_to_expected,
    survival_calibration_groups,
    survival_decision_curve,
    uno_c,
)
from pathology.survival.models.losses import cox_loss  # noqa: F401  (imports torchsurv, whose import warns, with the warning handled)
from pathology.survival.nonparametric import kaplan_meier
from pathology.survival.outcome import Outcome

# lifelines 0.30 calls pandas in a way that pandas 4 will drop.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


def _sk(outcome):
    return Surv.from_arrays(outcome.event, outcome.time)


def _times(train, test):
    """Times within both follow-ups, between the first and the last quarter of the events."""
    high = min(train.time.max(), test.time.max())
    inside = test.time[test.event & (test.time < high)]
    return np.unique(np.quantile(inside, [0.2, 0.35, 0.5, 0.65, 0.8]))


def test_harrell_equals_scikit_survival_and_lifelines(follow_up):
    _, test, risk = follow_up
    ours = harrell_c(test, risk)
    assert ours == pytest.approx(sk.concordance_index_censored(test.event, test.time, risk)[0], abs=1e-9)
    assert ours == pytest.approx(lifelines.utils.concordance_index(test.time, -risk, test.event), abs=1e-9)


def test_harrell_equals_torchsurv_without_tied_times(make_follow_up):
    x, outcome = make_follow_up(80, ties=False, censoring=0.5)
    from torchsurv.metrics.cindex import ConcordanceIndex

    theirs = ConcordanceIndex()(torch.tensor(x), torch.tensor(outcome.event), torch.tensor(outcome.time))
    assert harrell_c(outcome, x) == pytest.approx(float(theirs), abs=1e-6)


def test_uno_equals_scikit_survival(follow_up):
    train, test, risk = follow_up
    tau = float(min(train.time.max(), np.quantile(test.time, 0.8)))
    theirs = sk.concordance_index_ipcw(_sk(train), _sk(test), risk, tau=tau)[0]
    assert uno_c(train, test, risk, tau=tau) == pytest.approx(theirs, abs=1e-9)


def test_dynamic_auc_equals_scikit_survival(follow_up):
    train, test, risk = follow_up
    test = test.take(np.flatnonzero(test.time < train.time.max()))
    risk = risk[: len(test)]
    at = _times(train, test)
    theirs, _ = sk.cumulative_dynamic_auc(_sk(train), _sk(test), risk, at)
    assert dynamic_auc(train, test, risk, at) == pytest.approx(theirs, abs=1e-9)
    changing = np.stack([risk + 0.3 * i * np.sin(risk * 9) for i in range(len(at))], axis=1)
    theirs, _ = sk.cumulative_dynamic_auc(_sk(train), _sk(test), changing, at)
    assert dynamic_auc(train, test, changing, at) == pytest.approx(theirs, abs=1e-9)


def test_brier_equals_scikit_survival(follow_up):
    train, test, risk = follow_up
    test = test.take(np.flatnonzero(test.time < train.time.max()))
    at = _times(train, test)
    survival = np.exp(-np.outer(np.exp(risk[: len(test)]), at / 1000))
    _, theirs = sk.brier_score(_sk(train), _sk(test), survival, at)
    assert brier_score(train, test, survival, at) == pytest.approx(theirs, abs=1e-9)
    theirs = sk.integrated_brier_score(_sk(train), _sk(test), survival, at)
    assert integrated_brier_score(train, test, survival, at) == pytest.approx(theirs, abs=1e-9)


def test_weights_equal_scikit_survival_and_stand_for_everybody(make_follow_up):
    _, outcome = make_follow_up(400, ties=False, censoring=0.5)
    horizon = float(np.quantile(outcome.time, 0.6))
    weight = inverse_probability_weights(outcome, outcome, horizon)
    unknown = ~outcome.event & (outcome.time < horizon)
    assert (weight[unknown] == 0).all()
    assert (weight[~unknown] >= 1).all()
    # With nothing censored beforehand, the weighted share of survivors is Kaplan and Meier's.
    share = np.sum(weight * (outcome.time >= horizon)) / len(outcome)
    assert share == pytest.approx(float(kaplan_meier(outcome).at(horizon)), abs=5e-3)


def test_log_rank_equals_lifelines(follow_up):
    _, test, risk = follow_up
    two = np.where(risk > np.median(risk), "high", "low")
    ours = log_rank(test, two)
    theirs = logrank_test(
        test.time[two == "high"], test.time[two == "low"], test.event[two == "high"], test.event[two == "low"]
    )
    assert ours.statistic == pytest.approx(theirs.test_statistic, rel=1e-9)
    assert ours.p == pytest.approx(theirs.p_value, rel=1e-9)
    three = np.digitize(risk, np.quantile(risk, [0.33, 0.66])).astype(str)
    ours = log_rank(test, three)
    theirs = multivariate_logrank_test(test.time, three, test.event)
    assert ours.statistic == pytest.approx(theirs.test_statistic, rel=1e-9)
    assert ours.degrees_of_freedom == 2
    assert sum(ours.observed) == pytest.approx(sum(ours.expected)) == test.events


def test_calibration_slope_equals_a_cox_model(follow_up):
    _, test, risk = follow_up
    horizon = float(np.quantile(test.time, 0.7))
    survival = np.exp(-np.exp(0.5 * risk - 1))
    cut = test.censored_at(horizon)
    theirs = CoxPHSurvivalAnalysis(ties="breslow", tol=1e-12)
    theirs.fit(np.log(-np.log(survival))[:, None], _sk(cut))
    slope = calibration_slope(test, survival, horizon)
    assert slope == pytest.approx(theirs.coef_[0], abs=1e-6)
    squeezed = calibration_slope(test, np.exp(-np.exp(0.25 * risk - 1)), horizon)
    assert squeezed == pytest.approx(2 * slope, rel=1e-6)


def test_calibration_groups_and_ratio_by_hand():
    outcome = Outcome([1, 2, 3, 4, 9, 9, 9, 9], [1, 1, 1, 0, 0, 0, 0, 0])
    survival = np.array([0.2, 0.2, 0.3, 0.3, 0.9, 0.9, 0.9, 0.9])
    low, high = survival_calibration_groups(outcome, survival, 5, groups=2)
    assert (low.patients, low.predicted, low.observed.value) == (4, pytest.approx(0.25), pytest.approx(0.25))
    assert high.observed.value == 1
    assert observed_to_expected(outcome, survival, 5) == pytest.approx(0.375 / (1 - survival.mean()))
    with pytest.raises(UsageError, match="are too few for"):
        survival_calibration_groups(outcome, survival, 5, groups=9)


def test_decision_curve_by_hand():
    # Nothing censored: net benefit = TP/n - FP/n * q/(1-q).
    outcome = Outcome([1, 2, 3, 9, 9, 9, 9, 9, 9, 9], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    risk = np.array([0.9, 0.8, 0.1, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    curve = survival_decision_curve(outcome, risk, 5, thresholds=[0.2, 0.75, 0.95])
    assert curve.model == pytest.approx([0.2 - 0.1 * 0.25, 0.2, 0.0])
    assert curve.treat_all[0] == pytest.approx(0.3 - 0.7 * 0.25)
    assert set(curve.treat_none) == {0.0}
    with pytest.raises(UsageError, match="between 0 and 1"):
        survival_decision_curve(outcome, risk, 5, thresholds=[1.0])


def test_random_risks_score_a_half(make_follow_up):
    rng = np.random.default_rng(0)
    _, outcome = make_follow_up(300, ties=True, censoring=0.5)
    scores = [harrell_c(outcome, rng.normal(size=300)) for _ in range(100)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.01)


def test_constant_risk_scores_a_half_exactly(follow_up):
    _, test, _ = follow_up
    assert harrell_c(test, np.zeros(len(test))) == 0.5


def test_undefined_figures_are_nan_and_nonsense_is_refused():
    censored = Outcome([1, 2], [0, 0])
    assert np.isnan(harrell_c(censored, [0, 1]))
    assert np.isnan(dynamic_auc(censored, censored, [0, 1], [1.5])[0])
    with pytest.raises(UsageError, match="all of them numbers"):
        harrell_c(censored, [0, np.nan])
    with pytest.raises(UsageError, match="ascending"):
        dynamic_auc(censored, censored, [0, 1], [2, 1])
    with pytest.raises(UsageError, match="probabilities"):
        brier_score(censored, censored, [[2.0], [0.1]], [1.5])
    with pytest.raises(UsageError, match="two groups"):
        log_rank(Outcome([1, 2], [1, 1]), ["a", "a"])
    with pytest.raises(UsageError, match="beyond the follow-up"):
        uno_c(Outcome([1, 2], [1, 0]), Outcome([3, 4], [1, 1]), [1, 0])

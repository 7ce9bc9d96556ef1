"""Nested cross-validation: no leak, figures equal the plain metrics, intervals equal the plain bootstrap."""

import numpy as np
import pandas as pd
import pytest

from pathology.errors import UsageError
from pathology.stats.bootstrap import bootstrap
from pathology.survival.covariates import CovariateSettings
from pathology.survival.crossvalidation import (
    Candidate,
    CrossValidationSettings,
    cross_validate,
    score_predictions,
)
from pathology.survival.metrics import dynamic_auc, harrell_c, integrated_brier_score, uno_c
from pathology.survival.outcome import Outcome

SPEC = CovariateSettings(numeric=("a", "b"), categorical=("site",), imputation="knn")
COX = {"cox": [Candidate(kind="cox")]}
AT = np.array([300.0, 700.0, 1200.0])


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(3)
    n = 160
    frame = pd.DataFrame(
        {"a": rng.normal(size=n), "b": rng.normal(size=n), "site": rng.choice(["leg", "arm", "trunk"], n)}
    )
    time = rng.exponential(900 * np.exp(-frame["a"].to_numpy()))
    censored = rng.exponential(2000, n)
    frame.loc[rng.random(n) < 0.15, "b"] = np.nan
    return frame, Outcome(np.minimum(time, censored), time <= censored)


@pytest.fixture(scope="module")
def result(cohort):
    frame, outcome = cohort
    return cross_validate(frame, outcome, SPEC, COX, AT, CrossValidationSettings(resamples=400))


def test_every_patient_is_predicted_once(result):
    folds = result.predictions["cox"]
    assert sorted(np.concatenate([p.fold.test for p in folds])) == list(range(160))
    assert all(len(p.risk) == len(p.groups) == len(p.fold.test) == len(p.survival) for p in folds)


def test_figures_are_the_pairs_of_the_folds(result):
    score = score_predictions(result, "cox")
    outcome = result.outcome
    folds = result.predictions["cox"]
    # Weighted by comparable pairs, the folds' own indices give the whole.
    each, pairs = [], []
    for p in folds:
        y = outcome.take(p.fold.test)
        later = (y.time[None] > y.time[:, None]) | ((y.time[None] == y.time[:, None]) & ~y.event[None])
        each.append(harrell_c(y, p.risk))
        pairs.append((later & y.event[:, None]).sum())
    assert score.harrell.value == pytest.approx(np.average(each, weights=pairs), abs=1e-12)
    assert score.by_fold == pytest.approx(each)


def test_one_fold_scores_as_the_plain_metrics(result):
    """Restricted to one fold, the matrix form equals Uno's C, the dynamic AUC and the Brier score."""
    from dataclasses import replace

    p = result.predictions["cox"][0]
    rows = np.concatenate([p.fold.train, p.fold.test])
    outcome = result.outcome.take(rows)
    n = len(p.fold.train)
    fold = replace(p.fold, train=np.arange(n), test=np.arange(n, len(rows)))
    single = replace(result, outcome=outcome, predictions={"cox": (replace(p, fold=fold),)})
    score = score_predictions(single, "cox")
    train, test = outcome.take(fold.train), outcome.take(fold.test)
    assert score.harrell.value == pytest.approx(harrell_c(test, p.risk), abs=1e-12)
    assert score.uno.value == pytest.approx(uno_c(train, test, p.risk, tau=AT[-1]), abs=1e-12)
    for i, t in enumerate(AT):
        expected = dynamic_auc(train, test, 1 - p.survival[:, [i]], [t])[0]
        assert score.auc[f"{t:g}"].value == pytest.approx(expected, abs=1e-12)
    # The mean is over all patients of the record; only the tested ones have a score.
    brier = integrated_brier_score(train, test, p.survival, AT)
    assert score.integrated_brier.value * len(rows) / len(test) == pytest.approx(brier, abs=1e-12)


def test_the_interval_is_that_of_a_bootstrap_by_patient(result):
    score = score_predictions(result, "cox")
    fold_of = np.zeros(160, dtype=int)
    risk = np.zeros(160)
    for p in result.predictions["cox"]:
        fold_of[p.fold.test], risk[p.fold.test] = p.fold.index, p.risk

    def within_folds(rows):
        good = total = 0.0
        for k in range(5):
            part = rows[fold_of[rows] == k]
            y = result.outcome.take(part)
            later = (y.time[None] > y.time[:, None]) | ((y.time[None] == y.time[:, None]) & ~y.event[None])
            pairs = (later & y.event[:, None]).sum()
            good += harrell_c(y, risk[part]) * pairs
            total += pairs
        return good / total

    reference = bootstrap(within_folds, np.arange(160), resamples=600)
    assert score.harrell.value == pytest.approx(reference.value, abs=1e-12)
    assert score.harrell.low == pytest.approx(reference.low, abs=0.015)
    assert score.harrell.high == pytest.approx(reference.high, abs=0.015)
    assert score.harrell.n == 160


def test_test_rows_cannot_change_the_model(cohort):
    """Spoil the covariates of one fold's test patients: predictions of all others stay, to the last bit."""
    frame, outcome = cohort
    models = {
        "cox": [Candidate(kind="cox", settings={"penalty": p}) for p in (0.01, 1.0)],
        "deepsurv": [Candidate(kind="deepsurv", settings={"epochs": 5})],
    }
    settings = CrossValidationSettings(outer=4, resamples=100)
    before = cross_validate(frame, outcome, SPEC, models, AT, settings)
    for name in models:
        first = before.predictions[name][0]
        spoilt = frame.copy()
        spoilt.loc[first.fold.test[:3], ["a", "b"]] = [1e4, -1e4]
        spoilt.loc[first.fold.test[:3], "site"] = "moon"
        after = cross_validate(spoilt, outcome, SPEC, {name: models[name]}, AT, settings).predictions[name][0]
        assert np.array_equal(after.risk[3:], first.risk[3:])
        assert np.array_equal(after.survival[3:], first.survival[3:])
        assert after.groups[3:] == first.groups[3:]
        assert after.chosen == first.chosen
        assert not np.array_equal(after.risk[:3], first.risk[:3])


QUICK = {
    "cox": {"penalty": 0.05},
    "deepsurv": {"epochs": 4},
    "discrete": {"epochs": 4},
    "deephit": {"epochs": 4},
    "red_snn": {"epochs": 2, "window": 500.0, "max_windows": 4},
    "bhambhvani": {"epochs": 2, "folds": 2, "horizon": 700.0},
}


def _later(outcome, rows):
    """Move these follow-ups up to the next one of the same kind, so that no order and no stratum changes."""
    time = outcome.time.copy()
    for seen in (True, False):
        same = np.sort(outcome.time[outcome.event == seen])
        for row in rows[outcome.event[rows] == seen]:
            above = same[same > outcome.time[row]]
            time[row] += 0.9 * (above[0] - outcome.time[row]) if above.size else 500.0
    return Outcome(time, outcome.event)


@pytest.mark.parametrize("imputation", ["median", "knn"])
@pytest.mark.parametrize("kind", QUICK)
def test_neither_covariates_nor_follow_up_of_test_patients_reach_the_model(cohort, kind, imputation):
    """Whatever is learnt (coding, gaps, scale, time grid, weights, cut-offs) comes from the training patients."""
    frame, outcome = cohort
    spec = SPEC.model_copy(update={"imputation": imputation})
    models = {kind: [Candidate(kind=kind, settings=QUICK[kind])]}
    settings = CrossValidationSettings(outer=2, resamples=100)
    before = cross_validate(frame, outcome, spec, models, AT, settings).predictions[kind][0]
    spoilt = frame.copy()
    spoilt.loc[before.fold.test[:5], ["a", "b"]] = [1e4, np.nan]
    spoilt.loc[before.fold.test[:5], "site"] = "moon"
    later = _later(outcome, before.fold.test)
    assert not np.array_equal(later.time, outcome.time)
    after = cross_validate(spoilt, later, spec, models, AT, settings).predictions[kind][0]
    assert np.array_equal(after.fold.test, before.fold.test)
    assert np.array_equal(after.risk[5:], before.risk[5:])
    assert np.array_equal(after.survival[5:], before.survival[5:])
    assert after.groups[5:] == before.groups[5:]


def test_random_outcomes_score_a_half(cohort):
    """Ours on shuffled follow-up: no skill is found."""
    frame, outcome = cohort
    rng = np.random.default_rng(0)
    found = []
    for seed in range(6):
        shuffled = outcome.take(rng.permutation(len(outcome)))
        settings = CrossValidationSettings(resamples=100, seed=seed)
        models = {"cox": [Candidate(kind="cox", settings={"penalty": p}) for p in (0.01, 0.3)]}
        found.append(
            score_predictions(cross_validate(frame, shuffled, SPEC, models, AT, settings), "cox").harrell.value
        )
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)


def test_the_inner_folds_choose(cohort):
    frame, outcome = cohort
    lasso = {"penalty": 5.0, "l1_ratio": 1.0}
    models = {"cox": [Candidate(kind="cox", settings=lasso), Candidate(kind="cox", settings={"penalty": 0.01})]}
    result = cross_validate(frame, outcome, SPEC, models, AT, CrossValidationSettings(outer=3, resamples=100))
    # The lasso of this strength removes every covariate and tells nobody apart.
    assert all(p.chosen.settings == {"penalty": 0.01} for p in result.predictions["cox"])
    alone = cross_validate(
        frame, outcome, SPEC, {"cox": models["cox"][:1]}, AT, CrossValidationSettings(outer=3, resamples=100)
    )
    assert score_predictions(alone, "cox").harrell.value == pytest.approx(0.5, abs=1e-9)
    assert set(alone.predictions["cox"][0].groups) == {"undivided"}


def test_rows_of_a_patient_stay_together(cohort):
    frame, outcome = cohort
    owners = [f"P{i // 2}" for i in range(160)]
    result = cross_validate(
        frame, outcome, SPEC, COX, AT, CrossValidationSettings(outer=3, resamples=100), patients=owners
    )
    for p in result.predictions["cox"]:
        assert {owners[i] for i in p.fold.test}.isdisjoint(owners[i] for i in p.fold.train)


def test_repeats_are_averaged(cohort):
    frame, outcome = cohort
    result = cross_validate(frame, outcome, SPEC, COX, AT, CrossValidationSettings(outer=4, repeats=2, resamples=100))
    score = score_predictions(result, "cox")
    assert len(score.by_fold) == 8
    assert min(score.by_fold) <= score.harrell.value <= max(score.by_fold)


def test_wrong_requests(cohort, result):
    frame, outcome = cohort
    with pytest.raises(UsageError, match="unknown model 'x'"):
        score_predictions(result, "x")
    with pytest.raises(UsageError, match="no candidates"):
        cross_validate(frame, outcome, SPEC, {"cox": []}, AT)
    with pytest.raises(UsageError, match="unknown survival model 'oracle'"):
        cross_validate(frame, outcome, SPEC, {"o": [Candidate(kind="oracle")]}, AT)
    with pytest.raises(UsageError, match="rows for"):
        cross_validate(frame.head(3), outcome, SPEC, COX, AT)

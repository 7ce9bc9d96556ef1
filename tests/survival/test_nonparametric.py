"""Curves equal lifelines and scikit-survival, ties and heavy censoring included."""

import lifelines
import numpy as np
import pytest
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from pathology.errors import UsageError
from pathology.survival.nonparametric import (
    breslow,
    censoring_distribution,
    kaplan_meier,
    nelson_aalen,
    numbers_at_risk,
)
from pathology.survival.outcome import Outcome, outcome_strata


def test_kaplan_meier_equals_lifelines(follow_up):
    train, _, _ = follow_up
    ours = kaplan_meier(train)
    theirs = lifelines.KaplanMeierFitter().fit(train.time, train.event)
    table = theirs.survival_function_["KM_estimate"]
    assert ours.at(table.index.to_numpy()) == pytest.approx(table.to_numpy(), abs=1e-12)
    interval = theirs.confidence_interval_.loc[ours.times].to_numpy()
    inside = (ours.survival > 0) & (ours.survival < 1)
    assert ours.low[inside] == pytest.approx(interval[inside, 0], abs=1e-9)
    assert ours.high[inside] == pytest.approx(interval[inside, 1], abs=1e-9)
    assert ours.median == theirs.median_survival_time_
    events = theirs.event_table.loc[ours.times]
    assert np.array_equal(ours.at_risk, events["at_risk"])
    assert np.array_equal(numbers_at_risk(train, ours.times), events["at_risk"])


def test_nelson_aalen_equals_lifelines(follow_up):
    train, _, _ = follow_up
    theirs = lifelines.NelsonAalenFitter(nelson_aalen_smoothing=False).fit(train.time, train.event).cumulative_hazard_
    assert nelson_aalen(train)(theirs.index.to_numpy()) == pytest.approx(theirs.iloc[:, 0].to_numpy(), abs=1e-12)


def test_censoring_distribution_equals_scikit_survival(follow_up):
    train, _, _ = follow_up
    theirs = CensoringDistributionEstimator().fit(Surv.from_arrays(train.event, train.time))
    at = np.sort(train.time)
    if train.event.all():
        assert censoring_distribution(train)(at) == pytest.approx(np.ones(len(at)))
        return
    assert censoring_distribution(train)(at) == pytest.approx(theirs.predict_proba(at), abs=1e-12)


def test_breslow_of_equal_risks_is_nelson_aalen_and_shifts_cancel(follow_up):
    train, _, _ = follow_up
    at = np.sort(train.time)
    assert breslow(train, np.zeros(len(train)))(at) == pytest.approx(nelson_aalen(train)(at), abs=1e-12)
    eta = np.linspace(-1, 1, len(train))
    assert breslow(train, eta + 300)(at) * np.exp(300) == pytest.approx(breslow(train, eta)(at), rel=1e-9)


def test_a_hand_computed_curve():
    # Deaths at 1 and 3, censored at 2 and 3: S = 3/4, then 3/4 * (1 - 1/2).
    curve = kaplan_meier(Outcome([1, 2, 3, 3], [1, 0, 1, 0]))
    assert curve.survival.tolist() == [0.75, 0.75, 0.375]
    assert curve.at([0, 1, 2.9, 99]).tolist() == [1, 0.75, 0.75, 0.375]


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([1, -2], [0, 1], "row 1 is -2"),
        ([1, np.nan], [0, 1], "row 1 is nan"),
        ([1, 2], [0, 2], "event in row 1 is 2"),
        ([1, 2], [1], "equal length"),
        ([], [], "not empty"),
    ],
)
def test_impossible_follow_up_names_the_row(time, event, message):
    with pytest.raises(UsageError, match=message):
        Outcome(np.array(time), np.array(event))


def test_strata_cut_events_and_censored_apart():
    outcome = Outcome(np.arange(12), [1, 0] * 6)
    strata = outcome_strata(outcome, parts=3)
    assert strata[0] == "event 1"
    assert strata[11] == "censored 3"
    assert {s: strata.count(s) for s in set(strata)} == {
        f"{k} {i}": 2 for k in ("event", "censored") for i in (1, 2, 3)
    }

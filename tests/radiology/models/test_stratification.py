"""Survival by predicted class, and pictures of where a network looked."""

import warnings

import numpy as np
import pandas as pd
import pytest

from pathology.errors import UsageError
from pathology.radiology.images.saliency import draw_attention
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.models.network_classifier import LabelledImages
from pathology.radiology.models.stratification import predicted_groups, stratification_metrics
from pathology.survival.outcome import Outcome
from pathology.systems.radiology import navarro_2021


@pytest.fixture
def followed():
    random = np.random.default_rng(0)
    probability = random.uniform(0, 1, 60)
    time = random.exponential(np.where(probability >= 0.5, 300, 1200)).round(1)
    return Outcome(time, random.uniform(size=60) < 0.8), probability


def test_the_hazard_ratio_equals_lifelines(followed):
    lifelines = pytest.importorskip("lifelines")
    outcome, probability = followed
    found = {f.metric: f for f in stratification_metrics(outcome, probability, ("0", "1"), data="made", what="death")}
    ratio = found["hazard ratio, predicted 1 vs predicted 0"]
    frame = pd.DataFrame({"time": outcome.time, "event": outcome.event, "high": (probability >= 0.5).astype(float)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lifelines warns about pandas' future
        row = lifelines.CoxPHFitter().fit(frame, "time", "event").summary.loc["high"]
        high = probability >= 0.5
        test = lifelines.statistics.logrank_test(
            outcome.time[high], outcome.time[~high], outcome.event[high], outcome.event[~high]
        )
    assert ratio.value == pytest.approx(row["exp(coef)"], rel=1e-5)
    assert ratio.interval == pytest.approx((row["exp(coef) lower 95%"], row["exp(coef) upper 95%"]), rel=1e-5)
    assert f"log-rank p = {test.p_value:.3f}" in ratio.note
    assert f"{int((~high).sum())} and {int(high.sum())} patients" in ratio.note
    concordance = found["concordance index of the probability"]
    assert concordance.interval[0] < concordance.value < concordance.interval[1]
    assert f"60 patients, {outcome.events} events (death)" in concordance.data


def test_one_predicted_class_has_no_hazard_ratio(followed):
    outcome, probability = followed
    found = stratification_metrics(outcome, 0.5 + probability / 2, ("0", "1"), data="made", what="death")
    assert found[1].value is None
    assert "0 and 60 patients" in found[1].note
    assert predicted_groups([0.5, 0.49], ("low", "high")) == ["predicted high", "predicted low"]


def test_survival_is_measured_where_it_is_known(followed):
    outcome, probability = followed
    patients = tuple(f"P{i:02d}" for i in range(60))
    labels = (probability >= 0.5).astype(np.int64)
    table = pd.DataFrame({"follow_up_days": outcome.time, "death": outcome.event.astype(float)}, index=list(patients))
    table.loc["P00", "death"] = np.nan
    recipe = navarro_2021.recipe()
    cohort = Cohort(tuple(Case(p, {}, {}) for p in patients), table)
    images = LabelledImages(np.zeros((60, 3, 2, 2), np.float32), labels, patients)
    scores = np.stack([1 - probability, probability], axis=1)
    found = {f.metric: f for f in recipe.metrics(images, scores, cohort, data="made")}
    assert found["area under the ROC curve"].n == 60
    assert found["concordance index of the probability"].n == 59
    cohort = Cohort(cohort.cases, table.drop(columns="death"))
    assert len(recipe.metrics(images, scores, cohort, data="made")) == 3


def test_attention_is_drawn_over_images():
    random = np.random.default_rng(0)
    images, maps = random.normal(size=(4, 16, 16)).astype(np.float32), np.zeros((4, 16, 16), np.float32)
    maps[2, 4:8, 4:8] = 1
    figure = draw_attention(images, maps, title="P1")
    assert len(figure.axes) == 5  # four images and the colours
    assert "research use only" in figure._supxlabel.get_text()
    assert len(draw_attention(np.ones((1, 20, 8, 8), np.float32), np.ones((1, 20, 8, 8), np.float32)).axes) == 10
    with pytest.raises(UsageError, match="do not fit"):
        draw_attention(images, maps[:2])

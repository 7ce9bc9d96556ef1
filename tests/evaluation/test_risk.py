from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test

from pathology.errors import InputTableError, UsageError
from pathology.evaluation.classifier import SlidePrediction
from pathology.evaluation.labels import LabelledSlide, LabelledSlides
from pathology.evaluation.risk import RISK_COLUMN, patient_risks, risk_report, risk_section
from pathology.survival.groups import RiskGroups

CUT = RiskGroups(cuts=(0.5,), names=("low", "high"))


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(4)
    risk = random.uniform(size=120)
    age = random.normal(10, 4, 120)
    sex = random.choice(["f", "m"], 120)
    time = random.exponential(60 * np.exp(-1.2 * (risk > 0.5) - 0.05 * (age - 10)))
    censored = random.exponential(60, 120)
    return pd.DataFrame(
        {
            "risk": risk,
            "months": np.minimum(time, censored).astype(str),
            "event": (time <= censored).astype(int).astype(str),
            "age": age.astype(str),
            "sex": sex,
        },
        index=[f"p{i}" for i in range(120)],
    )


@pytest.mark.filterwarnings("ignore:Starting with pandas version")  # of lifelines, which we do not call so
def test_it_equals_lifelines(table):
    report = risk_report(table, CUT, time="months", event="event", covariates=("age", "sex"))
    frame = pd.DataFrame(
        {
            "high": (table["risk"] >= 0.5).astype(float),
            "age": table["age"].astype(float),
            "sex": (table["sex"] != table["sex"].mode()[0]).astype(float),
            "T": table["months"].astype(float),
            "E": table["event"].astype(int),
        }
    )
    fitter = CoxPHFitter().fit(frame, "T", "E")
    expected = np.exp(fitter.confidence_intervals_.loc["high"])
    ratio = next(r for r in report.hazard_ratios if r.name == RISK_COLUMN)
    assert ratio.ratio == pytest.approx(float(np.exp(fitter.params_["high"])), rel=1e-4)
    assert (ratio.low, ratio.high) == pytest.approx(tuple(expected), rel=1e-3)
    assert ratio.p == pytest.approx(fitter.summary.loc["high", "p"], rel=1e-2)
    reduced = CoxPHFitter().fit(frame.drop(columns="high"), "T", "E")
    assert report.likelihood_ratio is not None
    assert report.likelihood_ratio.statistic == pytest.approx(
        2 * (fitter.log_likelihood_ - reduced.log_likelihood_), abs=1e-3
    )
    high = frame["high"] == 1
    tested = logrank_test(frame["T"][high], frame["T"][~high], frame["E"][high], frame["E"][~high])
    assert report.log_rank is not None
    assert report.log_rank.p == pytest.approx(tested.p_value, rel=1e-6)
    assert report.patients == 120
    assert report.high == int(high.sum())


def test_the_cut_off_cannot_depend_on_who_is_tested(table):
    """Changing the tested patients' outcomes, or who they are, never moves the cut-off."""
    swapped = table.assign(event=[str(1 - int(e)) for e in table["event"]])
    reports = [
        risk_report(t, CUT, time="months", event="event") for t in (table, swapped, table.iloc[:40], table.iloc[40:])
    ]
    assert {r.cut for r in reports} == {0.5}
    assert reports[0].high == reports[1].high


def test_one_group_has_no_comparison(table):
    alike = table.assign(risk=0.9)
    report = risk_report(alike, CUT, time="months", event="event")
    assert report.log_rank is None
    assert report.hazard_ratios == ()
    assert report.high == 120


def test_a_model_that_cannot_be_estimated_is_said(table):
    report = risk_report(table.iloc[:2].assign(risk=[0.1, 0.9], event=["0", "1"]), CUT, time="months", event="event")
    assert report.hazard_ratios == ()
    assert "cannot be estimated" in report.note


def test_the_page_shows_curves_and_numbers(table, tmp_path):
    report = risk_report(table, CUT, time="months", event="event", covariates=("age",))
    section = risk_section(table, CUT, report, tmp_path, time="months", event="event")
    assert (tmp_path / "kaplan-meier.png").stat().st_size > 5000
    assert section.table is not None
    assert any("hazard ratio" in row[0].value for row in section.table.rows)


def cohort(columns, classes=("no event", "event")):
    slides = tuple(
        LabelledSlide(f"s{i}", Path(f"s{i}"), patient, 0, columns=values) for i, (patient, values) in enumerate(columns)
    )
    found = [SlidePrediction(s.slide_id, s.patient_id, 0, np.array([[0.8, 0.2], [0.4, 0.6]])) for s in slides]
    return found, LabelledSlides(classes, slides)


def test_patients_are_put_together():
    found, labelled = cohort([("b", {"t": "3"}), ("a", {"t": ""}), ("b", {"t": "3"})])
    table = patient_risks(found, labelled, ["t"])
    assert list(table.index) == ["a", "b"]
    assert table["risk"].tolist() == pytest.approx([0.4, 0.4])
    assert table["t"].isna().tolist() == [True, False]
    with pytest.raises(InputTableError, match="no column 'age'"):
        patient_risks(found, labelled, ["age"])
    torn, labels = cohort([("b", {"t": "3"}), ("b", {"t": "4"})])
    with pytest.raises(InputTableError, match="'t' differs between the slides of patient b"):
        patient_risks(torn, labels, ["t"])
    three, labels = cohort([("b", {"t": "3"})], classes=("a", "b", "c"))
    with pytest.raises(UsageError, match="3 classes"):
        patient_risks(three, labels, ["t"])

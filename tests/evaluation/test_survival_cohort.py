"""A fitted survival model on patients it has never seen, by library and by command line."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pathology.cli.survival import app
from pathology.errors import UsageError
from pathology.evaluation import survival_cohort
from pathology.evaluation.checklist import OPEN, TRIPOD_AI, checklist_section
from pathology.evaluation.survival_cohort import CohortPredictions, evaluate_survival
from pathology.survival.metrics import dynamic_auc, harrell_c
from pathology.survival.outcome import Outcome


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(survival_cohort, "_RESAMPLES", 100)


def cohort(n, seed, *, shift=0.0, slope=0.05):
    random = np.random.default_rng(seed)
    age = random.normal(60 + shift, 10, n)
    time = random.exponential(1500 * np.exp(-slope * (age - 60))).round() + 1
    frame = pd.DataFrame({"patient": [f"{seed}-{i}" for i in range(n)], "age": age})
    frame["OS"] = ((time < 2500) & (random.random(n) < 0.8)).astype(int)
    frame["OS.time"] = np.minimum(time, 2500)
    frame["hospital"] = random.choice(["north", "south"], n)
    return frame


def predictions(frame, *, strength=1.0, centres=()):
    """The true model, its log hazard multiplied by ``strength``."""
    risk = strength * 0.05 * (frame["age"].to_numpy() - 60)
    times = np.array([365.25, 1095.75])
    survival = np.exp(-np.exp(risk)[:, None] * times / 1500)
    outcome = Outcome(frame["OS.time"].to_numpy(float), frame["OS"].to_numpy(bool))
    groups = tuple(np.where(risk < 0, "low", "high"))
    return CohortPredictions(outcome, risk, survival, times, groups, ("low", "high"), tuple(frame["patient"]), centres)


def test_metrics_are_those_of_the_library_and_intervals_hold_them():
    frame = cohort(150, 1)
    found = predictions(frame, centres=tuple(frame["hospital"]))
    got = evaluate_survival(found)
    assert got.concordance.value == harrell_c(found.outcome, found.risk)
    assert got.auc["365.25"].value == dynamic_auc(found.outcome, found.outcome, found.risk, [365.25])[0]
    assert got.concordance.n == got.patients == 150
    assert sum(c.patients for c in got.centres.values()) == 150
    assert got.log_rank.p < 0.01
    for measure in (got.auc, got.brier, got.slope, got.observed_to_expected):
        assert all(v.low <= v.value <= v.high for v in measure.values())


def test_predictions_twice_too_extreme_have_half_the_slope():
    frame = cohort(150, 2)
    true, extreme = (evaluate_survival(predictions(frame, strength=s)) for s in (1.0, 2.0))
    assert extreme.slope["1095.75"].value == pytest.approx(true.slope["1095.75"].value / 2)
    assert extreme.concordance.value == true.concordance.value


def test_a_patient_of_several_rows_counts_once():
    frame = cohort(40, 3)
    twice = evaluate_survival(predictions(pd.concat([frame, frame], ignore_index=True)))
    once = evaluate_survival(predictions(frame))
    assert twice.patients == 40
    assert twice.concordance.high - twice.concordance.low > 0.8 * (once.concordance.high - once.concordance.low)


def test_what_cannot_be_measured_is_said():
    frame = cohort(40, 4)
    frame["OS.time"] = np.minimum(frame["OS.time"], 800)
    got = evaluate_survival(predictions(frame))
    assert (list(got.auc), got.beyond) == (["365.25"], (1095.75,))
    with pytest.raises(UsageError, match="no patient of this cohort has an event"):
        evaluate_survival(predictions(frame.assign(OS=0)))


def test_the_checklist_leaves_open_what_a_program_cannot_know():
    assert len(TRIPOD_AI) == 52
    rows = {row[0].value: row[2].value for row in checklist_section({"12f": "None.", "12d": ""}).table.rows}
    assert (rows["12f"], rows["12d"], rows["17"]) == ("None.", OPEN, OPEN)
    with pytest.raises(KeyError, match="99"):
        checklist_section({"99": "x"})


WHAT = ("--time", "OS.time", "--event", "OS")


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("kind", ["cox", "deepsurv", "red_snn", "bhambhvani"])
def test_fit_evaluate_predict_from_the_command_line(tmp_path, kind):
    cohort(90, 5).to_csv(tmp_path / "own.csv", index=False)
    other = cohort(60, 6, shift=3)
    other.loc[:4, "age"] = None
    other.to_csv(tmp_path / "other.csv", index=False)
    few = [] if kind == "cox" else ["--set", "epochs=3"]
    fitted = run("fit", tmp_path / "own.csv", *WHAT, "--numeric", "age", "-m", kind, *few, "--out", tmp_path / "m")
    assert fitted.exit_code == 0, fitted.output
    before = {p.name: p.read_bytes() for p in (tmp_path / "m").glob("*") if p.is_file()}
    given = ("--patient", "patient", "--centre", "hospital", "--years", "3")
    got = run("evaluate", tmp_path / "other.csv", *WHAT, "-m", tmp_path / "m", *given, "--out", tmp_path / "e")
    assert got.exit_code == 0, got.output
    assert "age is missing for 5 of 60 patients and was imputed" in got.output
    assert {p.name: p.read_bytes() for p in (tmp_path / "m").glob("*") if p.is_file()} == before
    metrics = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert run("predict", tmp_path / "m", tmp_path / "other.csv", "--out", tmp_path / "p.csv").exit_code == 0
    risk = pd.read_csv(tmp_path / "p.csv")["risk"]
    outcome = Outcome(other["OS.time"].to_numpy(float), other["OS"].to_numpy(bool))
    assert metrics["concordance"]["value"] == pytest.approx(harrell_c(outcome, risk))
    page = (tmp_path / "e" / "report.html").read_text()
    for text in ("TRIPOD+AI checklist", "By centre", "90 training patients", "was not refitted"):
        assert text in page
    assert (tmp_path / "e" / "figures" / "decision-curve-3-years.svg").exists()


def test_training_patients_and_mixed_requests_are_recognised(tmp_path):
    cohort(60, 7).to_csv(tmp_path / "own.csv", index=False)
    run("fit", tmp_path / "own.csv", *WHAT, "--numeric", "age", "--out", tmp_path / "m")
    given = ("evaluate", tmp_path / "own.csv", *WHAT, "--years", "1", "--out", tmp_path / "e")
    same = run(*given, "-m", tmp_path / "m")
    assert "The model was fitted on these patients" in same.output
    assert "The model was fitted on these patients" in (tmp_path / "e" / "report.html").read_text()
    for extra in (("-m", "cox"), ("--numeric", "age")):
        wrong = run(*given, "-m", tmp_path / "m", *extra)
        assert "a fitted model is evaluated alone" in str(wrong.exception)
    assert "--centre is for a fitted model" in str(run(*given, "--numeric", "age", "--centre", "hospital").exception)

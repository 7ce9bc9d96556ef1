"""``pathology survival``, as a user meets it."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pathology.cli.survival import app
from pathology.errors import BundleError, InputTableError, UsageError


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = 120
    frame = pd.DataFrame(
        {"patient": [f"P{i}" for i in range(n)], "age": rng.normal(60, 10, n), "site": rng.choice(["leg", "arm"], n)}
    )
    frame["OS.time"] = rng.exponential(1200 * np.exp(-0.05 * (frame["age"] - 60))).round()
    frame["OS"] = (rng.random(n) < 0.6).astype(int)
    frame.loc[0, "OS.time"] = None
    path = tmp_path_factory.mktemp("t") / "table.csv"
    frame.to_csv(path, index=False)
    return path


WHAT = ("--time", "OS.time", "--event", "OS", "--numeric", "age", "--categorical", "site")


def test_fit_predict_and_plot(table, tmp_path):
    fitted = run("fit", table, *WHAT, "--per", "age=10", "--out", tmp_path / "m")
    assert fitted.exit_code == 0, fitted.output
    assert "cox on 119 patients" in fitted.output
    report = (tmp_path / "m" / "report.html").read_text()
    assert "are optimistic" in report
    assert "per 10" in report
    predicted = run(
        "predict", tmp_path / "m", table, "--patient", "patient", "--years", "1,3", "--out", tmp_path / "p.csv"
    )
    assert predicted.exit_code == 0, predicted.output
    found = pd.read_csv(tmp_path / "p.csv")
    assert list(found) == ["patient", "ran_on", "risk", "risk_group", "survival_1_years", "survival_3_years"]
    assert len(found) == 120
    for kind in ("km", "forest", "nomogram", "calibration"):
        drawn = run("plot", table, *WHAT[:4], "--kind", kind, "--model", tmp_path / "m", "--out", tmp_path / kind)
        assert drawn.exit_code == 0, drawn.output
        assert (tmp_path / f"{kind}.svg").stat().st_size > 1000
        assert (tmp_path / f"{kind}.png").stat().st_size > 1000
    assert run("plot", table, *WHAT[:4], "--by", "site", "--out", tmp_path / "by").exit_code == 0


def test_evaluate_writes_scores_predictions_and_a_report(table, tmp_path):
    result = run(
        "evaluate", table, *WHAT, "-m", "cox", "-m", "cox:penalty=0.1", "-m", "deepsurv:epochs=5,hidden=8x4",
        "--outer", 3, "--inner", 2, "--years", "1,2", "--out", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores) == {"cox", "deepsurv"}
    assert scores["cox"]["harrell"]["n"] == 119
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert len(predictions) == 2 * 119
    assert "Nested cross-validation" in (tmp_path / "report.html").read_text()


def test_modalities(table, tmp_path):
    result = run(
        "fit", table, *WHAT[:4], "--modality", "clinic=age", "--modality", "place=site:names", "--out", tmp_path / "m"
    )
    assert result.exit_code == 0, result.output
    assert "clinic + place: 119 patients" in result.output
    assert run("predict", tmp_path / "m", table, "--out", tmp_path / "p.csv").exit_code == 0
    assert set(pd.read_csv(tmp_path / "p.csv")["ran_on"]) == {"clinic + place"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--numeric", "none"), InputTableError, "missing column 'none'"),
        ((), UsageError, "at least one covariate"),
        (("--numeric", "age", "--model", "oracle"), BundleError, "unknown survival model 'oracle'"),
        (("--numeric", "age", "--model", "deepsurv", "--set", "hiden=3"), UsageError, "hiden: Extra inputs"),
        (("--numeric", "age", "--model", "deepsurv", "--set", "epochs=0"), UsageError, "epochs"),
        (("--numeric", "age", "--set", "penalty"), UsageError, "expected NAME=VALUE"),
        (("--numeric", "age", "--imputation", "guess"), UsageError, "imputation"),
        (("--numeric", "site"), InputTableError, "expected a number"),
    ],
)
def test_wrong_use_says_what_to_do(table, tmp_path, arguments, error, message):
    result = run("fit", table, *WHAT[:4], *arguments, "--out", tmp_path / "m")
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_wrong_files_and_kinds(table, tmp_path):
    assert isinstance(run("fit", tmp_path / "none.csv", *WHAT, "--out", tmp_path / "m").exception, InputTableError)
    assert isinstance(run("predict", tmp_path, table, "--out", tmp_path / "p.csv").exception, BundleError)
    for extra in (("--kind", "pie"), ("--kind", "forest"), ("--years", "soon")):
        assert isinstance(run("plot", table, *WHAT[:4], *extra, "--out", tmp_path / "x").exception, UsageError)

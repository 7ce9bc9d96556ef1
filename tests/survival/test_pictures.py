"""Nomogram, pictures and report: they say what the model says, and print the same from the same data."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from pathology.errors import UsageError
from pathology.reports.figures import save_picture
from pathology.reports.page import write_report
from pathology.survival.covariates import CovariateSettings
from pathology.survival.crossvalidation import Candidate, CrossValidationSettings, cross_validate, score_predictions
from pathology.survival.metrics import survival_calibration_groups, survival_decision_curve
from pathology.survival.models.base import fit_model
from pathology.survival.models.cox import CoxModel, hazard_ratios
from pathology.survival.models.registry import make_model
from pathology.survival.nomogram import make_nomogram
from pathology.survival.outcome import Outcome
from pathology.survival.plots import (
    draw_forest,
    draw_kaplan_meier,
    draw_survival_calibration,
    draw_survival_decision_curve,
    draw_survival_nomogram,
)
from pathology.survival.report import comparison_sections


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(1)
    n = 150
    frame = pd.DataFrame({"age": rng.normal(60, 12, n), "site": rng.choice(["leg", "arm", "trunk"], n)})
    time = rng.exponential(1500 * np.exp(-0.04 * (frame["age"] - 60) - 0.8 * (frame["site"] == "trunk")))
    outcome = Outcome(time, rng.random(n) < 0.6)
    spec = CovariateSettings(numeric=("age",), categorical=("site",))
    return fit_model(frame, outcome, spec, CoxModel()), frame, outcome


def _texts(svg):
    return [e.text for e in ET.parse(svg).iter("{http://www.w3.org/2000/svg}text")]


class TestNomogram:
    def test_points_reproduce_the_linear_predictor(self, fitted):
        model, frame, _ = fitted
        nomogram = make_nomogram(model, frame, {"3 years": 1095.75})
        wanted = model.predict(frame, [1095.75])
        for i in range(0, 150, 7):
            values = {"age": float(frame["age"][i]), "site": str(frame["site"][i])}
            assert nomogram.log_hazard(values) == pytest.approx(wanted["risk"][i], abs=1e-9)
            points, chance = np.array(nomogram.survival["3 years"]).T
            assert np.interp(nomogram.total(values), points, chance) == pytest.approx(
                wanted["survival_1095.75"][i], abs=2e-3
            )

    def test_the_widest_axis_has_a_hundred_points(self, fitted):
        model, frame, _ = fitted
        nomogram = make_nomogram(model, frame, {"1 year": 365.25})
        assert max(max(a.points) for a in nomogram.axes) == pytest.approx(100)
        assert all(min(a.points) == pytest.approx(0) for a in nomogram.axes)

    def test_wrong_values_and_models(self, fitted):
        model, frame, outcome = fitted
        nomogram = make_nomogram(model, frame, {"1 year": 365.25})
        with pytest.raises(UsageError, match="'site' is 'moon'"):
            nomogram.total({"age": 60.0, "site": "moon"})
        with pytest.raises(UsageError, match="'age' is missing"):
            nomogram.total({"site": "leg"})
        deep = fit_model(frame, outcome, CovariateSettings(numeric=("age",)), make_model("deepsurv", epochs=2))
        with pytest.raises(UsageError, match="requires a Cox model"):
            make_nomogram(deep, frame, {"1 year": 365.25})
        with pytest.raises(UsageError, match="require a Cox model"):
            hazard_ratios(deep)


class TestPictures:
    def test_kaplan_meier_shows_numbers_at_risk(self, fitted, tmp_path):
        _, frame, outcome = fitted
        svg, png = save_picture(draw_kaplan_meier(outcome, frame["site"], title="By site"), tmp_path / "km")
        texts = _texts(svg)
        assert "At risk" in texts
        for site, n in frame["site"].value_counts().items():
            assert any(t.startswith(f"{site} (") and t.endswith(f"/{n})") for t in texts if t)
            assert str(n) in texts  # at risk at time 0
        assert any("log-rank p" in t for t in texts if t)
        assert png.stat().st_size > 5000

    def test_the_same_data_give_the_same_file(self, fitted, tmp_path):
        _, frame, outcome = fitted
        first, _ = save_picture(draw_kaplan_meier(outcome, frame["site"]), tmp_path / "a")
        second, _ = save_picture(draw_kaplan_meier(outcome, frame["site"]), tmp_path / "b")
        assert first.read_bytes() == second.read_bytes()

    def test_forest_shows_the_ratios(self, fitted, tmp_path):
        model, _, _ = fitted
        ratios = hazard_ratios(model, per={"age": 10})
        svg, _ = save_picture(draw_forest(ratios), tmp_path / "forest")
        texts = _texts(svg)
        for r in ratios:
            assert f"{r.ratio:.2f} ({r.low:.2f}–{r.high:.2f})" in texts
            assert r.name in texts

    def test_the_others_draw(self, fitted, tmp_path):
        model, frame, outcome = fitted
        survival = model.predict(frame, [1000.0])["survival_1000"]
        for name, figure in {
            "nomogram": draw_survival_nomogram(make_nomogram(model, frame, {"3-year": 1095.75})),
            "calibration": draw_survival_calibration(
                {"Cox": survival_calibration_groups(outcome, survival, 1000.0)}, horizon="1000 days"
            ),
            "decision": draw_survival_decision_curve(
                {"Cox": survival_decision_curve(outcome, 1 - survival, 1000.0)}, horizon="x"
            ),
            "alone": draw_kaplan_meier(outcome),
        }.items():
            svg, _ = save_picture(figure, tmp_path / name)
            assert len([t for t in _texts(svg) if t]) > 5

    def test_too_many_curves_are_refused(self, fitted):
        _, _, outcome = fitted
        with pytest.raises(UsageError, match="are too many"):
            draw_kaplan_meier(outcome, [str(i % 8) for i in range(150)])
        with pytest.raises(UsageError, match="no hazard ratios"):
            draw_forest([])


def test_the_report_is_whole_and_says_what_it_measured(fitted, tmp_path):
    _, frame, outcome = fitted
    result = cross_validate(
        frame,
        outcome,
        CovariateSettings(numeric=("age",), categorical=("site",)),
        {"Cox": [Candidate(kind="cox")], "<b>ridge</b>": [Candidate(kind="cox", settings={"penalty": 0.1})]},
        [365.25, 1095.75],
        CrossValidationSettings(outer=3, inner=2, resamples=200),
    )
    scores = {name: score_predictions(result, name) for name in result.predictions}
    sections = comparison_sections(result, scores, tmp_path / "f", outcome_name="OS", unit=365.25, units="years")
    write_report(tmp_path / "report.html", "Survival", "150 patients", sections, warnings=["look"])
    html = (tmp_path / "report.html").read_text()
    assert "Research use only" in html
    assert f"{scores['Cox'].harrell.value:.3f}" in html
    assert f"{scores['Cox'].harrell.low:.3f}–{scores['Cox'].harrell.high:.3f}" in html
    assert "AUC, 1 year<" in html
    # Nothing is loaded from elsewhere, and names are text.
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html)
    assert "<b>ridge</b>" not in html
    assert "default-src 'none'" in html
    assert html.count("data:image/svg+xml;base64,") == 4
    assert sorted(p.name for p in (tmp_path / "f").glob("*.png")) == [
        "calibration.png",
        "decision-curve.png",
        "risk-groups.png",
        "scores.png",
    ]

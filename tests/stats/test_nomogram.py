import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sklearn.linear_model import LogisticRegression

from pathology.errors import UsageError
from pathology.stats.decision_curve import decision_curve, draw_decision_curves
from pathology.stats.logistic_calibration import calibration_groups, draw_calibration, fit_calibration
from pathology.stats.nomogram import Nomogram, NomogramTerm, draw_nomogram
from pathology.survival.metrics import survival_decision_curve
from pathology.survival.outcome import Outcome


@pytest.fixture
def logistic():
    random = np.random.default_rng(0)
    x = np.column_stack([random.normal(60, 12, 200), random.normal(0, 1, 200), random.integers(0, 2, 200)])
    eta = -6 + 0.08 * x[:, 0] + 1.1 * x[:, 1] - 0.7 * x[:, 2]
    y = (random.random(200) < 1 / (1 + np.exp(-eta))).astype(int)
    model = LogisticRegression(C=1e10, max_iter=5000, tol=1e-8).fit(x, y)
    coefficients = model.coef_[0]
    terms = (
        NomogramTerm(name="age", coefficient=coefficients[0], low=20, high=95),
        NomogramTerm(name="signature", coefficient=coefficients[1], low=-3, high=3),
        NomogramTerm(
            name="depth", coefficient=coefficients[2], low=0, high=1, labels=(("deep", 0), ("superficial", 1))
        ),
    )
    nomogram = Nomogram(terms=terms, intercept=float(model.intercept_[0]), outcome="lung metastasis")
    return x, model, nomogram


def test_points_reproduce_the_logistic_model(logistic):
    x, model, nomogram = logistic
    for row in x[:50]:
        total = nomogram.total({"age": row[0], "signature": row[1], "depth": row[2]})
        assert nomogram.linear_predictor(total) == pytest.approx(model.decision_function([row])[0], abs=1e-9)
        assert nomogram.probability(total) == pytest.approx(model.predict_proba([row])[0, 1], abs=1e-9)


def test_widest_axis_has_100_points(logistic):
    _, _, nomogram = logistic
    tops = [max(nomogram.points(t, t.low), nomogram.points(t, t.high)) for t in nomogram.terms]
    assert max(tops) == pytest.approx(100)
    assert all(min(nomogram.points(t, t.low), nomogram.points(t, t.high)) == pytest.approx(0) for t in nomogram.terms)


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # within lifelines
def test_points_reproduce_the_cox_model():
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"score": random.normal(size=150), "size": random.uniform(2, 20, 150)})
    hazard = np.exp(0.8 * frame["score"] + 0.06 * frame["size"])
    frame["time"] = random.exponential(900 / hazard)
    frame["event"] = (frame["time"] < 1200).astype(int)
    frame["time"] = frame["time"].clip(upper=1200)
    fitted = CoxPHFitter().fit(frame, "time", "event")
    centre = float((fitted.params_ * fitted._norm_mean).sum())
    baseline = float(np.exp(-fitted.baseline_cumulative_hazard_.loc[:365].iloc[-1, 0]))
    nomogram = Nomogram(
        terms=(
            NomogramTerm(name="score", coefficient=fitted.params_["score"], low=-3, high=3),
            NomogramTerm(name="size", coefficient=fitted.params_["size"], low=0, high=25),
        ),
        intercept=-centre,
        baseline_survival={"1 year": baseline},
        outcome="death",
    )
    curves = fitted.predict_survival_function(frame.head(20))
    expected = 1 - curves.loc[:365].iloc[-1].to_numpy()
    found = [nomogram.probability(nomogram.total(row), "1 year") for row in frame.head(20).to_dict("records")]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    draw_nomogram(nomogram).canvas.draw()
    with pytest.raises(UsageError, match="1 year"):
        nomogram.probability(100, "9 years")


@given(st.floats(0.01, 0.99))
def test_probability_and_total_are_inverse(p):
    term = NomogramTerm(name="a", coefficient=-2.0, low=0, high=4)
    for nomogram, time in [
        (Nomogram(terms=(term,), intercept=1.0), None),
        (Nomogram(terms=(term,), baseline_survival={"t": 0.7}), "t"),
    ]:
        assert nomogram.probability(nomogram.total_for(p, time), time) == pytest.approx(p, abs=1e-9)


def test_wrong_nomograms_are_refused(logistic):
    _, _, nomogram = logistic
    with pytest.raises(UsageError, match="needs signature, depth"):
        nomogram.total({"age": 50})
    with pytest.raises(ValueError, match="no extent"):
        NomogramTerm(name="a", coefficient=1, low=2, high=2)
    flat = Nomogram(terms=(NomogramTerm(name="a", coefficient=0, low=0, high=1),))
    with pytest.raises(UsageError, match="every coefficient is 0"):
        flat.total({"a": 1})


def test_drawing_shows_every_axis(logistic, tmp_path):
    _, _, nomogram = logistic
    figure = draw_nomogram(nomogram, title="Example")
    texts = {t.get_text() for t in figure.axes[0].texts}
    assert {"Points", "age", "signature", "depth", "deep", "superficial", "Total points", "lung metastasis"} <= texts
    assert "Research use only" in texts
    figure.savefig(tmp_path / "nomogram.png")
    assert (tmp_path / "nomogram.png").stat().st_size > 5000


def test_net_benefit_by_hand():
    labels = np.array([1, 1, 0, 0, 0])
    p = np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    curve = decision_curve(labels, p, thresholds=[0.2, 0.5])
    # q = 0.2: acts on four, two right, two wrong; q = 0.5: one right, one wrong.
    assert curve.model == pytest.approx((2 / 5 - 2 / 5 * 0.25, 1 / 5 - 1 / 5 * 1.0))
    assert curve.treat_all == pytest.approx((2 / 5 - 3 / 5 * 0.25, 2 / 5 - 3 / 5 * 1.0))
    with pytest.raises(UsageError, match="not scores"):
        decision_curve(labels, p * 5)
    with pytest.raises(UsageError, match="thresholds"):
        decision_curve(labels, p, thresholds=[0.0])


def test_net_benefit_equals_the_survival_form_without_censoring():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 80)
    p = np.clip(labels * 0.3 + random.random(80) * 0.6, 0.001, 0.999)
    outcome = Outcome(np.where(labels == 1, 5.0, 20.0), labels.astype(bool))
    q = [0.1, 0.3, 0.5, 0.7]
    own = decision_curve(labels, p, q)
    other = survival_decision_curve(outcome, p, 10.0, thresholds=q)
    np.testing.assert_allclose(own.model, other.model, atol=1e-12)
    np.testing.assert_allclose(own.treat_all, other.treat_all, atol=1e-12)
    figure = draw_decision_curves({"model": own})
    assert len(figure.axes[0].lines) == 3


def test_calibration_line_finds_what_was_done_to_the_scores():
    random = np.random.default_rng(5)
    eta = random.normal(size=40_000)
    labels = (random.random(40_000) < 1 / (1 + np.exp(-eta))).astype(int)
    line = fit_calibration(labels, eta * 2 + 1)  # too extreme by a factor of two
    assert line.slope == pytest.approx(0.5, abs=0.02)
    assert line.intercept == pytest.approx(-0.5, abs=0.03)
    groups = calibration_groups(labels, line.apply(eta * 2 + 1), groups=5)
    for group in groups:
        assert group.observed.value == pytest.approx(group.predicted, abs=0.02)
    assert draw_calibration({"model": groups}).axes[0].get_xlabel() == "Predicted probability"
    with pytest.raises(UsageError, match="both classes"):
        fit_calibration(np.ones(5, int), np.arange(5.0))

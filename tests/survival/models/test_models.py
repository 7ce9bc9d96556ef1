"""Every model keeps the contract; Cox equals lifelines and scikit-survival on their own data sets."""

import json

import lifelines
import lifelines.datasets
import numpy as np
import pandas as pd
import pytest
import torch
from sksurv.datasets import load_gbsg2, load_veterans_lung_cancer
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv

from pathology.errors import BundleError, UnknownModelError, UsageError
from pathology.survival.covariates import CovariateSettings
from pathology.survival.groups import RiskGroups
from pathology.survival.metrics import harrell_c, integrated_brier_score, inverse_probability_weights
from pathology.survival.models.base import fit_model
from pathology.survival.models.bhambhvani import (
    BhambhvaniNetwork,
    BhambhvaniSettings,
    _Data,
    _objective,
    published_rule,
)
from pathology.survival.models.cox import CoxModel, CoxSettings, hazard_ratios, likelihood_ratio_test
from pathology.survival.models.neural import TimeGrid
from pathology.survival.models.red_snn import RedSnnSettings, RedSnnUnit, window_targets
from pathology.survival.models.registry import load_model, make_model, model_kinds
from pathology.survival.nonparametric import kaplan_meier
from pathology.survival.outcome import Outcome

pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")

QUICK = {
    "cox": {},
    "deepsurv": {"epochs": 60},
    "discrete": {"epochs": 60},
    "deephit": {"epochs": 60},
    "red_snn": {"epochs": 12, "window": 700.0, "max_windows": 5},
    "bhambhvani": {"epochs": 6, "folds": 2, "horizon": 1000.0},
}


@pytest.fixture(scope="module")
def cohort():
    """150 training and 150 test patients whose hazard depends on two of four covariates."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    time = rng.exponential(1500 * np.exp(-x[:, 0] - 0.5 * x[:, 1]))
    censored = rng.exponential(2500, 300)
    outcome = Outcome(np.minimum(time, censored), time <= censored)
    first, second = np.arange(150), np.arange(150, 300)
    return x[first], outcome.take(first), x[second], outcome.take(second)


def test_every_kind_is_tested():
    assert set(QUICK) == set(model_kinds())


@pytest.mark.parametrize("kind", QUICK)
def test_the_contract(cohort, kind):
    x, y, x_test, _ = cohort
    model = make_model(kind, **QUICK[kind]).fit(x, y, seed=3)
    risk = model.predict_risk(x_test)
    at = np.array([0.0, 100.0, 500.0, 1000.0, 2000.0, 1e6])
    survival = model.predict_survival(x_test, at)
    assert risk.shape == (150,)
    assert survival.shape == (150, 6)
    assert np.isfinite(risk).all()
    assert ((survival >= 0) & (survival <= 1)).all()
    assert survival[:, 0] == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(survival, axis=1) <= 1e-9).all()
    # Higher risk, lower survival: the two outputs tell one story.
    assert np.corrcoef(risk, survival[:, 3])[0, 1] < -0.5
    # The same seed gives the same model, whatever was drawn in between.
    torch.rand(7)
    again = make_model(kind, **QUICK[kind]).fit(x, y, seed=3)
    assert np.array_equal(again.predict_risk(x_test), risk)
    # One patient at a time, or all at once.
    assert model.predict_risk(x_test[:1])[0] == pytest.approx(risk[0], abs=1e-5)
    # What was learnt survives a round through plain values and arrays.
    values, arrays = model.state()
    copy = make_model(kind, **QUICK[kind])
    copy.restore(json.loads(json.dumps(values)), arrays)
    assert np.array_equal(copy.predict_risk(x_test), risk)
    assert np.array_equal(copy.predict_survival(x_test, at), survival)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in QUICK if k != "bhambhvani"])
def test_models_learn(cohort, kind):
    """Better than chance and than everybody's Kaplan-Meier curve, on patients never seen."""
    x, y, x_test, y_test = cohort
    model = make_model(kind, **({"window": 400.0, "epochs": 60} if kind == "red_snn" else {})).fit(x, y)
    at = np.linspace(300, 1800, 6)
    assert harrell_c(y_test, model.predict_risk(x_test)) > 0.65
    flat = np.broadcast_to(kaplan_meier(y).at(at), (150, 6))
    ours = integrated_brier_score(y, y_test, model.predict_survival(x_test, at), at)
    assert ours < integrated_brier_score(y, y_test, flat, at)


class TestCox:
    def test_equals_lifelines_on_rossi(self):
        rossi = lifelines.datasets.load_rossi()
        theirs = lifelines.CoxPHFitter().fit(
            rossi, "week", "arrest", fit_options={"precision": 1e-10, "r_precision": 1e-12}
        )
        columns = list(theirs.params_.index)
        outcome = Outcome(rossi["week"].to_numpy(), rossi["arrest"].to_numpy())
        model = CoxModel().fit(rossi[columns].to_numpy(float), outcome)
        assert model.coefficients == pytest.approx(theirs.params_.to_numpy(), abs=1e-6)
        assert np.sqrt(np.diag(model.covariance)) == pytest.approx(theirs.standard_errors_.to_numpy(), abs=1e-6)
        assert model.log_likelihood == pytest.approx(theirs.log_likelihood_, abs=1e-6)
        ours = likelihood_ratio_test(model, None, outcome)
        reference = theirs.log_likelihood_ratio_test()
        assert (ours.statistic, ours.p) == pytest.approx((reference.test_statistic, reference.p_value), abs=1e-6)
        at = [10, 30, 52]
        expected = theirs.predict_survival_function(rossi, times=at).to_numpy().T
        assert model.predict_survival(rossi[columns].to_numpy(float), at) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("load", [load_gbsg2, load_veterans_lung_cancer])
    def test_equals_scikit_survival(self, load):
        table, y = load()
        x = pd.get_dummies(table, drop_first=True, dtype=float).to_numpy()
        event, time = y.dtype.names
        theirs = CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(x, y)
        outcome = Outcome(y[time], y[event])
        model = CoxModel().fit(x, outcome)
        assert model.coefficients == pytest.approx(theirs.coef_, abs=1e-6)
        assert harrell_c(outcome, model.predict_risk(x)) == pytest.approx(theirs.score(x, y), abs=1e-6)

    def test_ridge_equals_scikit_survival(self, cohort):
        x, y, _, _ = cohort
        # lifelines divides the likelihood by n and halves the penalty; scikit-survival does not divide.
        theirs = CoxPHSurvivalAnalysis(ties="efron", alpha=0.1 * len(y), tol=1e-12)
        theirs.fit(x, Surv.from_arrays(y.event, y.time))
        ours = CoxModel(CoxSettings(penalty=0.1)).fit(x, y)
        # lifelines scales columns before it penalises.
        scaled = CoxPHSurvivalAnalysis(ties="efron", alpha=0.1 * len(y), tol=1e-12)
        scaled.fit(x / x.std(axis=0, ddof=1), Surv.from_arrays(y.event, y.time))
        assert ours.coefficients * x.std(axis=0, ddof=1) == pytest.approx(scaled.coef_, abs=1e-4)
        assert np.abs(ours.coefficients).sum() < np.abs(CoxModel().fit(x, y).coefficients).sum()

    def test_hazard_ratios_are_in_the_units_of_the_table(self):
        rossi = lifelines.datasets.load_rossi().assign(group=lambda d: np.where(d["race"] == 1, "b", "w"))
        outcome = Outcome(rossi["week"].to_numpy(), rossi["arrest"].to_numpy())
        fitted = fit_model(
            rossi, outcome, CovariateSettings(numeric=("age", "prio"), categorical=("group",)), CoxModel()
        )
        theirs = lifelines.CoxPHFitter().fit(rossi[["age", "prio", "race", "week", "arrest"]], "week", "arrest").summary
        age, prio, race = hazard_ratios(fitted, per={"age": 10})
        assert prio.ratio == pytest.approx(theirs.loc["prio", "exp(coef)"], rel=1e-5)
        assert (prio.low, prio.high) == pytest.approx(
            tuple(theirs.loc["prio", ["exp(coef) lower 95%", "exp(coef) upper 95%"]]), rel=1e-5
        )
        assert prio.p == pytest.approx(theirs.loc["prio", "p"], rel=1e-4)
        assert age.ratio == pytest.approx(theirs.loc["age", "exp(coef)"] ** 10, rel=1e-4)
        assert age.unit == "per 10"
        # The commoner level is the reference, so this one is the other way round.
        assert race.ratio == pytest.approx(1 / theirs.loc["race", "exp(coef)"], rel=1e-5)
        assert race.unit == "vs b"

    def test_nested_models(self, cohort):
        x, y, _, _ = cohort
        full, reduced = CoxModel().fit(x, y), CoxModel().fit(x[:, :2], y)
        test = likelihood_ratio_test(full, reduced, y)
        assert test.degrees_of_freedom == 2
        assert test.statistic == pytest.approx(2 * (full.log_likelihood - reduced.log_likelihood))
        with pytest.raises(UsageError, match="not nested"):
            likelihood_ratio_test(reduced, full, y)
        with pytest.raises(UsageError, match="unpenalised"):
            likelihood_ratio_test(CoxModel(CoxSettings(penalty=1)).fit(x, y), reduced, y)

    def test_inestimable_models_say_what_to_do(self, cohort):
        x, y, _, _ = cohort
        with pytest.raises(UsageError, match="set a penalty"):
            CoxModel().fit(np.c_[x, x[:, 0]], y)


class TestRedSnn:
    def test_targets_by_hand(self):
        # Windows of 10: dead at 5; censored at 15; dead at 25; alive beyond the last window.
        outcome = Outcome([5, 15, 25, 99], [1, 0, 1, 0])
        target, weight = window_targets(outcome, window=10, windows=3, alpha=2)
        assert target[:, :, 0].tolist() == [[2, 2, 2], [0, 0, 0], [0, 0, 2], [0, 0, 0]]
        assert (target[:, :, 1] * 30).tolist() == [[5, 5, 5], [10, 15, 15], [10, 20, 25], [10, 20, 30]]
        assert weight.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 1]]

    def test_the_unit_has_the_published_layers(self):
        unit = RedSnnUnit(26, 30, RedSnnSettings())
        assert unit.first[0].in_features == 28  # 26 covariates and 2 latent survival features
        assert unit.last[-1].out_features == 2
        dense = [m for m in unit.modules() if isinstance(m, torch.nn.Linear)]
        memory = [m for m in unit.modules() if isinstance(m, torch.nn.LSTMCell)]
        # Input, two dense, two LSTM, two dense, output: eight layers.
        assert (len(dense), len(memory)) == (5, 2)
        widths = [
            dense[0].out_features,
            dense[1].out_features,
            *(m.hidden_size for m in memory),
            *(d.out_features for d in dense[2:]),
        ]
        assert widths == sorted(widths, reverse=True)
        assert unit(torch.zeros(4, 26)).shape == (4, 30, 2)

    def test_windows_feed_the_next_one(self):
        torch.manual_seed(0)
        unit = RedSnnUnit(3, 4, RedSnnSettings()).eval()
        with torch.no_grad():
            out = unit(torch.ones(1, 3))
        assert not torch.allclose(out[:, 0], out[:, 1])

    def test_earlier_death_is_more_severe(self):
        target, _ = window_targets(Outcome([5, 25, 30], [1, 1, 0]), window=10, windows=3)
        angle = np.arctan2(target[:, -1, 0], target[:, -1, 1])
        assert angle[0] > angle[1] > angle[2] == 0

    def test_widths_must_fall(self):
        with pytest.raises(ValueError, match="six non-increasing widths"):
            RedSnnSettings(hidden=(8, 16, 8, 8, 8, 8))


class TestBhambhvani:
    def test_parameters_are_the_published_number(self):
        assert sum(p.numel() for p in BhambhvaniNetwork(9).parameters()) == 683_010

    def test_censored_patients_have_no_say_of_their_own(self, cohort):
        """A patient censored before the horizon has weight 0: no loss looks at his covariates."""
        x, y, _, _ = cohort
        weight = inverse_probability_weights(y, y, 1000.0)
        censored = ~y.event & (y.time < 1000)
        assert censored.sum() > 10
        data = _Data(x, np.minimum(y.time, 1000) / 30, y.time >= 1000, weight)
        torch.manual_seed(0)
        network = BhambhvaniNetwork(4).eval()
        data.x.requires_grad_()
        probability, months = network(data.x)
        (gradient,) = torch.autograd.grad(_objective(probability, months, data, torch.arange(len(y))), data.x)
        assert (gradient[torch.from_numpy(censored)] == 0).all()
        assert (gradient[torch.from_numpy(~censored)].abs().sum(dim=1) > 0).all()

    def test_the_loss_by_hand(self):
        data = _Data(np.zeros((2, 1)), np.array([10.0, 60.0]), np.array([False, True]), np.array([1.0, 3.0]))
        loss = _objective(torch.tensor([0.25, 0.5]), torch.tensor([12.0, 59.0]), data, torch.arange(2))
        # Weights 1 and 3 have mean 2: 10 x (0.5 x 4 + 1.5 x 1) / 2 + (0.5 x -log 0.75 + 1.5 x -log 0.5) / 2 / 10.
        assert float(loss) == pytest.approx(17.5 + (0.5 * -np.log(0.75) + 1.5 * -np.log(0.5)) / 20, rel=1e-6)

    def test_a_horizon_nobody_reaches_is_refused(self, cohort):
        x, y, _, _ = cohort
        with pytest.raises(UsageError, match="no survivors or no events"):
            make_model("bhambhvani", horizon=1e7).fit(x, y)

    @pytest.mark.slow
    def test_the_published_rule_finds_skill_in_random_labels(self):
        rng = np.random.default_rng(1)
        x, survived = rng.normal(size=(100, 9)), np.arange(100) % 2 == 0
        found = published_rule(
            x,
            rng.uniform(1, 120, 100),
            survived,
            settings=BhambhvaniSettings(epochs=25, folds=5),
            max_restarts=2,
        )
        assert np.mean(found.reported) > 0.65
        assert np.mean(found.honest) < 0.62
        assert np.mean(found.reported) > np.mean(found.honest) + 0.1


class TestTimeGrid:
    def test_intervals_by_hand(self):
        grid = TimeGrid([0, 10, 20, 30])
        outcome = Outcome([5, 10, 10.5, 30, 5, 10, 29, 99], [1, 1, 1, 1, 0, 0, 0, 0])
        # Events count where they fall; a censored patient counts for the intervals he passed whole.
        assert grid.interval(outcome).tolist() == [0, 0, 1, 2, -1, 0, 1, 2]

    def test_edges_are_equal_drops(self):
        outcome = Outcome(np.arange(1, 101), np.ones(100))
        assert TimeGrid.fit(outcome, 4).edges.tolist() == [0, 25, 50, 75, 100]

    def test_interpolation_is_linear_then_level(self):
        curve = TimeGrid([0, 10, 20]).interpolate(np.array([[1.0, 0.6, 0.2]]), [0, 5, 15, 99])
        assert curve[0] == pytest.approx([1, 0.8, 0.4, 0.2])


class TestFittedModel:
    @pytest.mark.parametrize("kind", ["cox", "deepsurv", "red_snn"])
    def test_a_folder_gives_back_the_model(self, tmp_path, kind):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"age": rng.normal(60, 9, 80), "site": rng.choice(["leg", "trunk"], 80)})
        table.loc[2, "age"] = np.nan
        outcome = Outcome(rng.exponential(500, 80), rng.random(80) < 0.6)
        spec = CovariateSettings(numeric=("age",), categorical=("site",), imputation="knn")
        fitted = fit_model(table, outcome, spec, make_model(kind, **QUICK[kind]), facts={"time": "days"})
        fitted.save(tmp_path / "m")
        assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["model.json", "weights.safetensors"]
        copy = load_model(tmp_path / "m")
        pd.testing.assert_frame_equal(copy.predict(table, [100, 300]), fitted.predict(table, [100, 300]))
        assert list(fitted.predict(table, [100])) == ["risk", "risk_group", "survival_100"]
        assert copy.facts["events"] == outcome.events

    def test_what_cannot_be_read_says_so(self, tmp_path):
        with pytest.raises(BundleError, match=r"file not found|cannot read the survival model"):
            load_model(tmp_path)
        (tmp_path / "model.json").write_text("{")
        with pytest.raises(BundleError):
            load_model(tmp_path)
        with pytest.raises(UnknownModelError, match="Choose one of"):
            make_model("oracle")


class TestRiskGroups:
    def test_cuts_come_from_training_alone(self):
        groups = RiskGroups.cut(np.arange(90), 3)
        assert groups.assign([0, 29, 30, 60, 1e9]) == ["low", "low", "medium", "high", "high"]
        assert groups.assign([1e9]) == ["high"]

    def test_tied_risks(self):
        assert RiskGroups.cut([0, 0, 0, 0, 1], 2).assign([0, 1]) == ["low", "high"]
        with pytest.raises(UsageError, match="cannot be cut into 2 groups"):
            RiskGroups.cut([1, 1, 1], 2)

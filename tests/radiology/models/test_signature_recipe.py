import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from pathology.errors import InputTableError, UsageError
from pathology.evaluation import survival_cohort
from pathology.radiology.evaluate import evaluate_bundle
from pathology.radiology.features.linear_classifier import FrozenClassifier, freeze
from pathology.radiology.features.radiomics import FeatureSettings
from pathology.radiology.features.signature import SignatureSettings
from pathology.radiology.features.survival_signature import (
    SurvivalSignatureSettings,
    cox_score_test,
    fit_survival_combined,
    fit_survival_signature,
    nested_risks,
)
from pathology.radiology.models.bundle import CardText, read_radiology_card
from pathology.radiology.models.deep_features import DeepFeatureSettings, deep_feature_table
from pathology.radiology.models.registry import predict_case, recipe_of
from pathology.radiology.models.signature_recipe import SignatureRecipe, fit_combined, nested_probabilities
from pathology.radiology.models.survival_recipe import SurvivalRecipe
from pathology.stats.within_fold import within_fold_area
from pathology.survival.metrics import harrell_c, log_rank
from pathology.survival.outcome import Outcome
from pathology.testing.radiology_constructed import fat_cohort

TEXT = CardText(
    name="test-signature",
    title="Test",
    training_data=(
        {"name": "phantoms", "source": "made here", "licence": "CC0", "images": 12, "used_for": "training"},
    ),
    limits=("Constructed data: no clinical claim.",),
)
FEW = FeatureSettings(families=("statistics", "glcm"), bins=8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return fat_cohort(tmp_path_factory.mktemp("fat"), patients=16, seed=1, size=20)


@pytest.fixture(scope="module")
def recipe():
    return SignatureRecipe(
        sequences=("CT", "MR_T1"),
        label="diagnosis",
        classes=("lipoma", "liposarcoma"),
        numeric=("age", "ldh"),
        features={"CT": FEW, "MR_T1": FEW},
        signature=SignatureSettings(mrmr=4, reduction="rfe", eliminated_to=3, classifier="svm", inner_folds=3),
        repeats=2,
    )


@pytest.fixture(scope="module")
def table(cohort, recipe):
    return recipe.table(cohort)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(C=0.7),
        SVC(kernel="rbf", C=2.0),
    ],
)
def test_frozen_classifiers_decide_alike(model):
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    y = (x[:, 0] * x[:, 1] + 0.5 * random.normal(size=40) > 0).astype(int)
    model.fit(x, y)
    frozen = freeze(model)
    back = FrozenClassifier.from_arrays(frozen.kind, frozen.arrays())
    np.testing.assert_allclose(back.decision_function(x), model.decision_function(x), atol=1e-10)
    assert freeze(frozen) is frozen
    with pytest.raises(UsageError, match="comparison only"):
        freeze(DecisionTreeClassifier())


def test_table_has_every_part_and_shape_once(cohort, recipe):
    shaped = FeatureSettings(families=("morphology", "statistics"), spacing_mm=4.0)
    both = recipe.model_copy(update={"features": {"CT": shaped, "MR_T1": shaped}, "shell_mm": 4.0})
    table = both.table(cohort.take([0]))
    prefixes = {str(c).split(":")[0] for c in table.columns}
    assert prefixes == {"CT", "CT-shell", "MR_T1", "MR_T1-shell"}
    shape = [c for c in table.columns if "morph_volume" in c]
    assert shape == ["CT:morph_volume"]


def test_evaluate_train_predict(cohort, recipe, table, tmp_path):
    metrics = recipe.evaluate_table(table, cohort, folds=3)
    names = [f.metric for f in metrics]
    assert names == [
        "area under the ROC curve, clinical data alone",
        "area under the ROC curve, radiomics",
        "area under the ROC curve, combined",
    ]
    assert all(f.n == 16 for f in metrics)
    assert metrics[1].value > 0.7
    recipe.train_table(
        table, cohort, tmp_path / "m", TEXT, system="yang-2022-lipoma", metrics=metrics, constructed=True
    )
    with pytest.raises(InputTableError, match="predicts from age, ldh beside the images, but patient C001 has no"):
        predict_case(tmp_path / "m", cohort.cases[1], tmp_path / "o")
    case = cohort.with_values(cohort.cases[1])
    found = predict_case(tmp_path / "m", case, tmp_path / "o")
    json.dumps(found)
    assert 0 < found["probability"] < 1
    assert found["of"] == "liposarcoma"
    assert sum(found["points"].values()) == pytest.approx(found["total_points"])
    assert found["notes"] == []
    # The bundle's answer is the fitted model's own.
    card = read_radiology_card(tmp_path / "m")
    clinical = recipe.clinical(cohort)
    settings = recipe.signature
    own = fit_combined(table, clinical, recipe.labels(cohort), cohort.patients, settings, outcome="x")
    np.testing.assert_allclose(
        recipe.load(tmp_path / "m", card).probability(table, clinical), own.probability(table, clinical), atol=1e-6
    )
    assert recipe_of(card).clinical_columns(card) == ("age", "ldh")
    older = replace(case, clinical=case.clinical | {"age": case.clinical["age"] + 30})
    aged = predict_case(tmp_path / "m", older, tmp_path / "o2")
    assert aged["values"]["age"] == case.clinical["age"] + 30
    assert aged["probability"] != found["probability"]
    partly = predict_case(tmp_path / "m", replace(case, clinical={"age": 70, "ldh": None}), tmp_path / "o3")
    (note,) = partly["notes"]
    assert note.startswith("ldh is missing: the training median (")
    assert partly["values"]["ldh"] == clinical["ldh"].median()
    with pytest.raises(InputTableError, match="2 of 2 clinical values of patient C001 are missing"):
        predict_case(tmp_path / "m", replace(case, clinical={"age": None, "ldh": float("nan")}), tmp_path / "o4")
    with pytest.raises(InputTableError, match="'age' of patient C001 is 'old', expected a number"):
        predict_case(tmp_path / "m", replace(case, clinical={"age": "old", "ldh": 180}), tmp_path / "o5")


def test_deep_features_are_fixed_and_named(cohort):
    settings = DeepFeatureSettings(sequence="MR_T1", backbone="resnet18", slices=2, size=64)
    first = deep_feature_table(cohort.take([0, 1]), settings)
    second = deep_feature_table(cohort.take([0, 1]), settings)
    assert first.shape == (2, 512)
    assert first.columns[0] == "deep-MR_T1:0"
    pd.testing.assert_frame_equal(first, second)
    assert (first.iloc[0] != first.iloc[1]).any()


def test_clinical_columns_become_numbers(cohort, recipe):
    clinical = cohort.clinical.copy()
    clinical["grade"] = ["Low", "High", None, "Intermediate"] * 4
    other = type(cohort)(cohort.cases, clinical)
    graded = recipe.model_copy(update={"categories": {"grade": ("Low", "Intermediate", "High")}})
    assert list(graded.clinical(other)["grade"][:2]) == [0.0, 2.0]
    assert np.isnan(graded.clinical(other)["grade"].iloc[2])
    with pytest.raises(InputTableError, match="expected one of G1"):
        recipe.model_copy(update={"categories": {"grade": ("G1",)}}).clinical(other)


def test_permuted_labels_give_chance_in_the_whole_nomogram():
    """Signature, inner scores, SMOTE and nomogram together, on labels that mean nothing."""
    random = np.random.default_rng(0)
    settings = SignatureSettings(mrmr=4, reduction="none", smote=True, inner_folds=3)
    areas = []
    for seed in range(6):
        table = pd.DataFrame(random.normal(size=(40, 30)), columns=[f"f{i}" for i in range(30)])
        clinical = pd.DataFrame({"age": random.normal(60, 10, 40)})
        labels = random.permutation(np.arange(40) % 3 == 0).astype(np.int64)
        p = nested_probabilities(
            table, clinical, labels, list(range(40)), settings, outcome="x", folds=4, repeats=2, seed=seed
        )
        areas.append(within_fold_area(labels, p, list(range(40)), resamples=100).value)
    assert abs(np.mean(areas) - 0.5) < 0.12


# --- time to event -------------------------------------------------------------------------------------------


def survival_data(n=90, columns=25, seed=0, effect=1.0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, columns))
    age = random.normal(60, 10, n)
    hazard = np.exp(effect * x[:, 0] - effect * x[:, 1] + 0.03 * (age - 60))
    time = random.exponential(600 / hazard)
    event = time < 900
    table = pd.DataFrame(x, columns=[f"f{i}" for i in range(columns)])
    return table, pd.DataFrame({"age": age}), Outcome(np.minimum(time, 900.0), event)


def test_score_test_is_the_log_rank_test_for_two_groups():
    table, _, outcome = survival_data()
    groups = (table["f0"] > 0).to_numpy()
    own = cox_score_test(groups[:, None].astype(float), outcome)[0]
    assert own == pytest.approx(log_rank(outcome, [str(g) for g in groups]).statistic, rel=1e-6)
    assert cox_score_test(np.ones((90, 1)), outcome)[0] == 0


QUICK = SurvivalSignatureSettings(keep=5, penalties=(0.2, 0.05), inner_folds=2)


def test_survival_signature_finds_the_hazard():
    table, _, outcome = survival_data()
    fitted = fit_survival_signature(table, outcome, list(range(90)), QUICK)
    assert {"f0", "f1"} <= set(fitted.columns)
    assert harrell_c(outcome, fitted.risk(table)) > 0.75
    with pytest.raises(InputTableError, match="missing"):
        fitted.risk(table[["f5"]])
    with pytest.raises(UsageError, match="4 events"):
        fit_survival_signature(table, Outcome(outcome.time, np.zeros(90, bool)), list(range(90)))


def test_survival_nomogram_reads_like_its_cox_model():
    table, clinical, outcome = survival_data()
    fitted = fit_survival_combined(table, clinical, outcome, list(range(90)), QUICK)
    nomogram = fitted.nomogram({"1 year": 365.0}, outcome="relapse")
    rows = fitted.matrix(table, clinical)
    survival = fitted.survival(table, clinical, [365.0])[:, 0]
    for row, expected in zip(rows[:20], survival, strict=False):
        values = {name: float(v) for (name, _, _), v in zip(fitted.ranges, row, strict=True)}
        assert nomogram.probability(nomogram.total(values), "1 year") == pytest.approx(1 - expected, abs=1e-9)


@pytest.mark.long
def test_nested_risks_see_nothing_of_their_patients():
    table, clinical, outcome = survival_data(n=60, columns=12, effect=1.5)
    risk, survival, folds = nested_risks(
        table, clinical, outcome, list(range(60)), QUICK, folds=3, times=(200.0, 400.0)
    )
    assert harrell_c(outcome, risk) > 0.65
    assert (np.diff(survival, axis=1) <= 0).all()
    rows = folds[0].test
    changed = table.copy()
    changed.iloc[rows] = 0.0
    again, _, _ = nested_risks(changed, clinical, outcome, list(range(60)), QUICK, folds=3)
    others = np.setdiff1d(np.arange(60), rows)
    assert not np.allclose(again[rows], risk[rows])
    assert np.isfinite(again[others]).all()


def test_survival_recipe_evaluates_trains_and_predicts(cohort, recipe, table, tmp_path, monkeypatch):
    monkeypatch.setattr(survival_cohort, "_RESAMPLES", 100)
    clinical = cohort.clinical.copy()
    random = np.random.default_rng(4)
    bad = (clinical["diagnosis"] == "liposarcoma").to_numpy()
    clinical["days"] = random.exponential(np.where(bad, 200, 500)).round(1)
    clinical["relapse"] = 1
    followed = type(cohort)(cohort.cases, clinical)
    survival = SurvivalRecipe(
        measuring=recipe.model_copy(update={"numeric": ("age",)}),
        time="days",
        event="relapse",
        outcome="relapse",
        horizons={"1 year": 365.0},
        signature=SurvivalSignatureSettings(keep=3, penalties=(0.1,), inner_folds=2),
    )
    metrics = survival.evaluate_table(table, followed, folds=2)
    assert [f.metric for f in metrics if f.metric.startswith("concordance")] == [
        "concordance index, clinical data alone",
        "concordance index, images",
        "concordance index, combined",
    ]
    survival.train_table(table, followed, tmp_path / "m", TEXT, system="liu-2021", metrics=metrics, constructed=True)
    found = predict_case(tmp_path / "m", followed.with_values(followed.cases[0]), tmp_path / "o")
    json.dumps(found)
    assert 0 < found["probability"]["1 year"] < 1
    assert found["risk_group"] in ("low", "medium", "high")
    assert (tmp_path / "o" / "nomogram.png").exists()
    some = followed.take(range(8))
    said = evaluate_bundle(tmp_path / "m", some, tmp_path / "e")
    rows = pd.read_csv(tmp_path / "e" / "predictions" / "results.csv")
    c = harrell_c(survival.follow_up(some), rows["risk"].to_numpy())
    assert said["concordance index"].startswith(f"{c:.3g}")
    page = (tmp_path / "e" / "report.html").read_text()
    assert "Risk groups by the model" in page
    assert "Observed against predicted survival at 365 days" in page

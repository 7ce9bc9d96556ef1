import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from pathology.errors import InputTableError, LeakageError, UsageError
from pathology.radiology.features.selection import (
    drop_correlated,
    lasso_features,
    mrmr_features,
    recursive_elimination,
    univariate_features,
)
from pathology.radiology.features.signature import SignatureSettings, fit_signature, nested_scores
from pathology.radiology.features.smote import audit_synthetic, smote
from pathology.stats.splits import grouped_k_fold
from pathology.stats.within_fold import within_fold_area

QUICK = SignatureSettings(inner_folds=3, mrmr=5)


def cohort(seed=0, n=60, noise_columns=80, effect=1.5):
    """Two informative columns, a near-copy of the first, and noise."""
    random = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(np.int64)
    x = random.normal(size=(n, noise_columns))
    x[:, 0] += effect * labels
    x[:, 1] -= effect * labels
    x[:, 2] = x[:, 0] + random.normal(scale=0.05, size=n)
    columns = [f"f{i}" for i in range(noise_columns)]
    return pd.DataFrame(x, columns=columns), labels, [f"P{i:03d}" for i in range(n)]


def test_univariate_filter_equals_scipy():
    table, labels, _ = cohort()
    x = table.to_numpy()
    p = [stats.mannwhitneyu(c[labels == 1], c[labels == 0], method="asymptotic").pvalue for c in x.T]
    found = univariate_features(x, labels, alpha=0.05, least=3)
    assert set(found) == set(np.flatnonzero(np.asarray(p) < 0.05))
    assert list(np.asarray(p)[found]) == sorted(np.asarray(p)[found])
    assert len(univariate_features(x, labels, alpha=1e-12, least=4)) == 4
    constant = np.column_stack([x, np.ones(len(x))])
    assert x.shape[1] not in univariate_features(constant, labels, alpha=1, least=500)
    with pytest.raises(UsageError, match="0 and 1"):
        univariate_features(x, np.ones(len(x), int))


def test_near_copies_are_dropped():
    table, labels, _ = cohort()
    x = table.to_numpy()
    ranked = univariate_features(x, labels)
    kept = drop_correlated(x, ranked, limit=0.9)
    assert len({0, 2} & set(kept)) == 1
    for i, j in itertools.combinations(kept, 2):
        assert abs(stats.spearmanr(x[:, i], x[:, j])[0]) <= 0.9


def test_mrmr_takes_the_second_signal_before_the_copy():
    table, labels, _ = cohort(effect=2.5)
    x = table.to_numpy()
    assert set(mrmr_features(x, labels, np.arange(80), count=2)) in ({0, 1}, {1, 2})
    # By hand: the first is the most relevant, the second maximises relevance minus redundancy.
    columns = np.array([0, 1, 2, 3])
    rho = np.array([[stats.spearmanr(x[:, i], x[:, j])[0] for j in columns] for i in columns])
    relevance = np.array([-0.5 * np.log(1 - stats.spearmanr(x[:, i], labels)[0] ** 2) for i in columns])
    between = -0.5 * np.log(np.maximum(1 - rho**2, 1e-12))
    first = int(np.argmax(relevance))
    second = max((i for i in range(4) if i != first), key=lambda i: relevance[i] - between[i, first])
    assert list(mrmr_features(x, labels, columns, count=2)) == [columns[first], columns[second]]


def test_lasso_and_elimination_keep_the_signal():
    table, labels, patients = cohort(effect=2.0)
    x = (table - table.mean()).to_numpy() / table.std().to_numpy()
    folds = grouped_k_fold(patients, labels, k=3)
    kept = lasso_features(x, labels, np.arange(80), folds, one_standard_error=True)
    assert {0, 1} <= set(kept) or {1, 2} <= set(kept)
    assert len(kept) < 30
    assert {1} <= set(recursive_elimination(x, labels, np.arange(12), count=3))
    assert list(recursive_elimination(x, labels, np.arange(3), count=3)) == [0, 1, 2]


@given(st.integers(0, 1000), st.integers(4, 30), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_synthetic_rows_lie_on_segments_between_rows_of_their_class(seed, common, neighbours):
    random = np.random.default_rng(seed)
    labels = np.array([0] * common + [1] * 3)
    x = random.normal(size=(len(labels), 4))
    made = smote(x, labels, neighbours=neighbours, seed=seed)
    assert len(made.x) == common - 3
    assert made.label == 1
    assert (labels[made.parents] == 1).all()
    assert (made.parents[:, 0] != made.parents[:, 1]).all()
    a, b = x[made.parents[:, 0]], x[made.parents[:, 1]]
    np.testing.assert_allclose(made.x, a + made.place[:, None] * (b - a))
    length = np.linalg.norm(b - a, axis=1)
    np.testing.assert_allclose(np.linalg.norm(made.x - a, axis=1) + np.linalg.norm(made.x - b, axis=1), length)


def test_synthetic_rows_of_test_patients_are_refused():
    x, labels = np.random.default_rng(0).normal(size=(12, 2)), np.array([0] * 8 + [1] * 4)
    patients = [f"P{i}" for i in range(12)]
    made = smote(x, labels)
    audit_synthetic(made, patients, {"P0", "P1"})
    parent = patients[int(made.parents[0, 0])]
    with pytest.raises(LeakageError, match=f"descends from patient {parent}"):
        audit_synthetic(made, patients, {parent})
    with pytest.raises(UsageError, match="two rows"):
        smote(x[:9], labels[:9])


@pytest.mark.parametrize("classifier", ["logistic", "svm", "forest", "boosting", "tree", "adaboost"])
def test_every_classifier_finds_the_signal(classifier):
    table, labels, patients = cohort(effect=2.5)
    train, test = np.arange(40), np.arange(40, 60)
    chosen = QUICK.model_copy(update={"classifier": classifier, "smote": True})
    fitted = fit_signature(table.iloc[train], labels[train], patients[:40], chosen, held_out=patients[40:])
    assert fitted.synthetic > 0
    assert roc_auc_score(labels[test], fitted.score(table.iloc[test])) > 0.75


def test_gaps_are_filled_and_useless_columns_left_out():
    table, labels, patients = cohort(effect=2.5)
    table["empty"] = np.nan
    table["constant"] = 3.0
    table.loc[::7, "f0"] = np.nan
    fitted = fit_signature(table, labels, patients, QUICK)
    assert not {"empty", "constant"} & set(fitted.columns)
    assert np.isfinite(fitted.score(table)).all()
    with pytest.raises(InputTableError, match="missing"):
        fitted.score(table[["f70"]])
    with pytest.raises(UsageError, match="all features are constant"):
        fit_signature(table[["constant"]], labels, patients, QUICK)


def test_held_out_patients_are_refused():
    table, labels, patients = cohort()
    with pytest.raises(LeakageError):
        fit_signature(table, labels, patients, QUICK, held_out=patients[:1])


def test_nested_scores_find_a_signal_and_say_what_they_chose():
    table, labels, patients = cohort(effect=1.5)
    candidates = {"logistic": QUICK, "smote": QUICK.model_copy(update={"smote": True})}
    found = nested_scores(table, labels, patients, candidates, outer=4, inner=3)
    assert within_fold_area(labels, found.predictions, patients).value > 0.75
    assert set(found.chosen) <= set(candidates)
    assert len(found.columns) == len(found.folds) == 4
    assert np.isfinite(found.predictions.values).all()


def test_test_rows_cannot_influence_training():
    """Changing a test patient's features changes nothing that was learnt."""
    table, labels, patients = cohort(noise_columns=20)
    first = nested_scores(table, labels, patients, {"a": QUICK}, outer=4)
    rows = first.folds[0].test
    changed = table.copy()
    changed.iloc[rows] = 1e6
    second = nested_scores(changed, labels, patients, {"a": QUICK}, outer=4)
    assert second.columns[0] == first.columns[0]


@pytest.mark.slow
def test_permuted_labels_give_chance():
    """Twelve permutations of 60 patients: their mean AUC must not be told from 0.5."""
    table, labels, patients = cohort(effect=2.0)
    areas = []
    for seed in range(12):
        shuffled = np.random.default_rng(seed).permutation(labels)
        chosen = QUICK.model_copy(update={"smote": True})
        found = nested_scores(table, shuffled, patients, {"a": chosen}, outer=4, seed=seed)
        areas.append(within_fold_area(shuffled, found.predictions, patients, resamples=100).value)
    error = np.std(areas, ddof=1) / np.sqrt(len(areas))
    assert abs(np.mean(areas) - 0.5) < 3 * error
    assert abs(np.mean(areas) - 0.5) < 0.08

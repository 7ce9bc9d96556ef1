"""Splits: no patient on two sides, labels spread, deterministic; the audit finds every planted leak."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import LeakageError, UsageError
from pathology.stats.splits import (
    audit_leakage,
    content_digest,
    grouped_k_fold,
    grouped_split,
    leave_one_group_out,
    nested_folds,
    repeated_grouped_k_fold,
)


@st.composite
def cohorts(draw):
    """Patients with 1 to 4 rows each, one label a patient, and k."""
    n = draw(st.integers(6, 40))
    label = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    rows = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    patients = [f"P{i}" for i in range(n) for _ in range(rows[i])]
    labels = [label[i] for i in range(n) for _ in range(rows[i])]
    order = draw(st.permutations(range(len(patients))))
    return [patients[i] for i in order], [labels[i] for i in order], draw(st.integers(2, 5)), draw(st.integers(0, 99))


@settings(max_examples=150, deadline=None)
@given(cohorts())
def test_folds_partition_patients_and_spread_labels(cohort):
    patients, labels, k, seed = cohort
    folds = grouped_k_fold(patients, labels, k=k, seed=seed)
    assert sorted(np.concatenate([f.test for f in folds])) == list(range(len(patients)))
    for fold in folds:
        assert sorted(np.concatenate([fold.train, fold.test])) == list(range(len(patients)))
        audit_leakage({"train": fold.train, "test": fold.test}, patients=patients)
    for wanted in set(labels):
        held = [len({patients[i] for i in f.test if labels[i] == wanted}) for f in folds]
        assert max(held) - min(held) <= 1
    whole = [len({patients[i] for i in f.test}) for f in folds]
    assert max(whole) - min(whole) <= 1


@settings(max_examples=40, deadline=None)
@given(cohorts())
def test_the_split_belongs_to_the_patients_not_to_the_row_order(cohort):
    patients, labels, k, seed = cohort
    order = np.random.default_rng(0).permutation(len(patients))
    first = grouped_k_fold(patients, labels, k=k, seed=seed)
    second = grouped_k_fold([patients[i] for i in order], [labels[i] for i in order], k=k, seed=seed)
    for a, b in zip(first, second, strict=True):
        assert {patients[i] for i in a.test} == {patients[order[i]] for i in b.test}


def test_seed_decides_and_repeats_differ():
    patients = [f"P{i}" for i in range(30)]
    folds = repeated_grouped_k_fold(patients, k=3, repeats=4, seed=5)
    assert len(folds) == 12
    assert [f.repeat for f in folds[::3]] == [0, 1, 2, 3]
    tests = [tuple(f.test) for f in folds]
    assert len(set(tests)) == 12
    assert tests == [tuple(f.test) for f in repeated_grouped_k_fold(patients, k=3, repeats=4, seed=5)]
    assert tests != [tuple(f.test) for f in repeated_grouped_k_fold(patients, k=3, repeats=4, seed=6)]


def test_sites_stay_together_and_shared_patients_tie_them():
    sites = [f"S{i % 8}" for i in range(80)]
    patients = [f"P{i}" for i in range(80)]
    patients[1] = patients[0]  # seen at S0 and at S1
    labels = [i % 3 for i in range(80)]
    for fold in grouped_k_fold(patients, labels, k=4, sites=sites):
        audit_leakage({"train": fold.train, "test": fold.test}, patients=patients, sites=sites)
        tested = {sites[i] for i in fold.test}
        assert ("S0" in tested) == ("S1" in tested)


def test_nested_inner_rows_never_touch_the_outer_test():
    patients = [f"P{i // 2}" for i in range(120)]
    labels = [(i // 2) % 2 for i in range(120)]
    nested = nested_folds(patients, labels, outer=5, inner=3, seed=1)
    assert len(nested) == 5
    for n in nested:
        assert len(n.inner) == 3
        assert sorted(np.concatenate([f.test for f in n.inner])) == sorted(n.outer.train)
        for f in n.inner:
            audit_leakage({"train": f.train, "tune": f.test, "test": n.outer.test}, patients=patients)


def test_leave_one_group_out_names_what_it_leaves_out():
    folds = leave_one_group_out(["b", "a", "b", "c"])
    assert [(f.name, f.test.tolist()) for f in folds] == [("a", [1]), ("b", [0, 2]), ("c", [3])]
    with pytest.raises(UsageError, match="at least 2"):
        leave_one_group_out(["a", "a"])


def test_grouped_split_reaches_its_shares():
    patients = [f"P{i}" for i in range(200)]
    labels = ["rare" if i < 20 else "common" for i in range(200)]
    parts = grouped_split(patients, labels, shares={"train": 0.7, "tune": 0.15, "test": 0.15}, seed=3)
    assert {k: len(v) for k, v in parts.items()} == {"train": 140, "tune": 30, "test": 30}
    assert Counter(labels[i] for i in parts["test"]) == {"rare": 3, "common": 27}
    with pytest.raises(UsageError, match="sum to 1"):
        grouped_split(patients, shares={"train": 0.7, "test": 0.2})


@pytest.mark.parametrize("bad", [None, "", float("nan")])
def test_missing_ids_are_refused(bad):
    with pytest.raises(UsageError, match="missing in row 1"):
        grouped_k_fold(["a", bad, "c"], k=2)


def test_too_few_patients_and_uneven_columns_are_refused():
    with pytest.raises(UsageError, match="2 patients for 3 parts"):
        grouped_k_fold(["a", "a", "b"], k=3)
    with pytest.raises(UsageError, match="labels has 1 entries for 2 rows"):
        grouped_k_fold(["a", "b"], [1], k=2)


class TestAudit:
    patients = ("a", "a", "b", "c", "d")

    def test_a_clean_split_is_counted(self):
        audit = audit_leakage({"train": [0, 1, 2], "test": [3, 4]}, patients=self.patients)
        assert audit.patients == {"train": 2, "test": 2}
        assert audit.rows == {"train": 3, "test": 2}

    def test_patient_in_two_parts(self):
        with pytest.raises(LeakageError, match=r"1 patients in two parts.*a \(row 0 in train"):
            audit_leakage({"train": [0, 2], "test": [1, 3]}, patients=self.patients)

    def test_row_in_two_parts(self):
        with pytest.raises(LeakageError, match="rows in two parts"):
            audit_leakage({"train": [0, 1], "test": [1]}, patients=self.patients)

    def test_same_slide_filed_under_two_patients(self):
        with pytest.raises(LeakageError, match="slide fingerprints"):
            audit_leakage(
                {"train": [2], "test": [3]}, patients=self.patients, fingerprints=[None, None, "same", "same", None]
            )

    def test_copied_pixels(self):
        pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
        contents = [pixels[0], pixels[1], pixels[2], pixels[3], pixels[2].copy()]
        with pytest.raises(LeakageError, match="contents"):
            audit_leakage({"train": [2], "test": [3, 4]}, patients=self.patients, contents=contents)
        audit_leakage({"train": [0, 1, 2], "test": [3]}, patients=self.patients, contents=contents)

    def test_three_parts(self):
        with pytest.raises(LeakageError):
            audit_leakage({"train": [2], "tune": [0], "test": [1]}, patients=self.patients)

    def test_it_is_a_value_error_too(self):
        with pytest.raises(ValueError):
            audit_leakage({"train": [0], "test": [1]}, patients=self.patients)

    def test_nonsense_is_refused(self):
        with pytest.raises(UsageError, match="no rows"):
            audit_leakage({"train": [0], "test": []}, patients=self.patients)
        with pytest.raises(UsageError, match="row 9"):
            audit_leakage({"train": [0], "test": [9]}, patients=self.patients)
        with pytest.raises(UsageError, match="at least two"):
            audit_leakage({"train": [0]}, patients=self.patients)


def test_content_digest_knows_shape_and_type():
    a = np.zeros((2, 3), np.uint8)
    assert content_digest(a) == content_digest(a.copy())
    assert content_digest(a) != content_digest(a.reshape(3, 2))
    assert content_digest(a) != content_digest(a.astype(np.int8))
    assert content_digest(b"x") != content_digest(b"y")

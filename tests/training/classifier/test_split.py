from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import InputTableError, LeakageError, UsageError
from pathology.evaluation.labels import LabelledSlide, LabelledSlides
from pathology.training.classifier.split import DEFAULT_SHARES, audit_sets, split_slides


def cohort(patients_per_class, slides_per_patient=2, sites=None, sets=None):
    slides = [
        LabelledSlide(
            f"{label}-{number}-{k}",
            Path(f"{label}-{number}-{k}.svs"),
            f"{label}-{number}",
            label,
            site=sites(label, number) if sites else None,
            set=sets(label, number, k) if sets else None,
        )
        for label, count in enumerate(patients_per_class)
        for number in range(count)
        for k in range(slides_per_patient)
    ]
    return LabelledSlides(tuple(f"class {c}" for c in range(len(patients_per_class))), tuple(slides))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(4, 30), min_size=2, max_size=5),
    st.integers(1, 3),
    st.integers(0, 2**31),
)
def test_no_patient_is_in_two_sets_and_every_class_in_each(patients, slides, seed):
    labelled = cohort(patients, slides)
    sets = split_slides(labelled, seed=seed)
    assert sorted(np.concatenate(list(sets.values())).tolist()) == list(range(len(labelled)))
    audit_sets(labelled, sets, fingerprints=[s.slide_id for s in labelled.slides])
    for rows in sets.values():
        assert {labelled.slides[row].label for row in rows} == set(range(len(patients)))
    largest = patients.index(max(patients))
    inside = {labelled.slides[row].patient_id for row in sets["train"] if labelled.slides[row].label == largest}
    # The stated share, but for what the smaller sets need to have one patient each.
    assert abs(len(inside) - DEFAULT_SHARES["train"] * max(patients)) <= (1 if max(patients) > 5 else 2)


@pytest.mark.parametrize(
    ("patients", "expected"), [(4, [1, 1, 1, 1]), (6, [3, 1, 1, 1]), (8, [5, 1, 1, 1]), (20, [11, 3, 3, 3])]
)
def test_sizes_of_small_cohorts(patients, expected):
    sets = split_slides(cohort([patients, patients], slides_per_patient=1))
    assert [len(rows) // 2 for rows in sets.values()] == expected


def test_sites_stay_together_within_what_a_fold_leaves():
    """Inner sets of a cross-validation: their shares do not sum to 1."""
    labelled = cohort([24, 24], sites=lambda label, number: f"hospital {number % 12}")
    shares = {name: share for name, share in DEFAULT_SHARES.items() if name != "test"}
    sets = split_slides(labelled, shares=shares, keep_sites=True, among=np.arange(80))
    sites = [{labelled.slides[row].site for row in rows} for rows in sets.values()]
    assert list(sets) == ["train", "validation", "calibration"]
    assert sum(map(len, sites)) == len(set().union(*sites))


def test_seed_decides():
    labelled = cohort([20, 20])
    first, again, other = (split_slides(labelled, seed=s)["test"].tolist() for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_class_with_too_few_patients_is_refused():
    with pytest.raises(UsageError, match="class 1 has only 2 patients for 4 sets"):
        split_slides(cohort([9, 2]))


def test_sites_stay_together():
    labelled = cohort([16, 16], sites=lambda label, number: f"hospital {number % 8}")
    sets = split_slides(labelled, keep_sites=True)
    audit = audit_sets(labelled, sets, fingerprints=[s.slide_id for s in labelled.slides], keep_sites=True)
    assert "sites" in audit.checked
    with pytest.raises(UsageError, match="have none"):
        split_slides(cohort([8, 8]), keep_sites=True)
    lone = cohort([8, 8], sites=lambda label, number: f"hospital {label}{number % 2}")
    with pytest.raises((InputTableError, UsageError), match=r"has no slide of|independent sites"):
        split_slides(lone, keep_sites=True)


def test_a_table_may_fix_the_sets():
    names = ("train", "validation", "calibration", "test")
    labelled = cohort([8, 8], sets=lambda label, number, k: names[number % 4])
    sets = split_slides(labelled)
    assert {labelled.slides[row].set for row in sets["calibration"]} == {"calibration"}
    without = cohort([8, 8], sets=lambda label, number, k: names[0] if label else names[number % 4])
    with pytest.raises(InputTableError, match="set 'validation' has no slide of class 1"):
        split_slides(without)


def test_a_planted_leak_is_caught():
    labelled = cohort([8, 8])
    sets = split_slides(labelled)
    own = [s.slide_id for s in labelled.slides]
    moved = {**sets, "test": np.append(sets["test"], sets["train"][0])}
    with pytest.raises(LeakageError, match="in two parts"):
        audit_sets(labelled, moved, fingerprints=own)
    names = ("train", "validation", "calibration", "test")
    torn = cohort([8, 8], sets=lambda label, number, k: names[(number + (k if number == 0 else 0)) % 4])
    with pytest.raises(LeakageError, match="patients in two parts"):
        audit_sets(torn, split_slides(torn), fingerprints=own)
    # The same file under another name and another patient.
    copied = list(own)
    copied[sets["test"][0]] = own[sets["train"][0]]
    with pytest.raises(LeakageError, match="fingerprints in two parts"):
        audit_sets(labelled, sets, fingerprints=copied)

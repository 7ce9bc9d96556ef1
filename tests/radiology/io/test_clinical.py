import pandas as pd
import pytest

from pathology.errors import InputTableError
from pathology.radiology.io.clinical import clinical_numbers, require_columns, stand_ins
from pathology.radiology.io.cohort import Case, Cohort

CASES = tuple(Case(name, {}, {}) for name in ("P1", "P2", "P3"))


def cohort(**columns):
    return Cohort(CASES, pd.DataFrame(columns, index=["P1", "P2", "P3"]))


def test_values_become_numbers_and_gaps_stay_gaps():
    found = clinical_numbers(cohort(age=[50, "61.5", None], grade=[1.0, 2, ""]), ("age",), {"grade": ("1", "2")})
    assert found["age"].tolist()[:2] == [50, 61.5]
    assert found["grade"].tolist()[:2] == [0, 1]
    assert found.iloc[2].isna().all()


@pytest.mark.parametrize(
    ("value", "said"), [("old", "'age' of patient P2 is 'old', expected a number"), ("inf", "P2 is 'inf'")]
)
def test_what_is_no_number_is_refused_with_the_patient(value, said):
    with pytest.raises(InputTableError, match=said):
        clinical_numbers(cohort(age=[50, value, 70]), ("age",))


def test_an_unlisted_category_and_an_unknown_patient_are_refused():
    with pytest.raises(InputTableError, match="'grade' of patient P3 is '4', expected one of 1, 2"):
        clinical_numbers(cohort(grade=[1, 2, 4]), (), {"grade": ("1", "2")})
    few = Cohort(CASES, pd.DataFrame({"age": [50]}, index=["P1"]))
    with pytest.raises(InputTableError, match="patient P2 is not in the clinical table"):
        clinical_numbers(few, ("age",))


def test_columns_are_required_before_anything_runs():
    require_columns(pd.DataFrame(), ())
    with pytest.raises(InputTableError, match=r"predicts from age, ldh .*no clinical table was given"):
        require_columns(pd.DataFrame(), ("age", "ldh"))
    with pytest.raises(InputTableError, match=r"no column 'ldh' \(available: age\)"):
        require_columns(pd.DataFrame({"age": [50]}), ("age", "ldh"))


def test_missing_values_are_named_with_the_consequence_and_most_of_them_refused():
    gap = float("nan")
    (said,) = stand_ins("P1", "clinical value", {"age": gap, "ldh": 180.0}, {"age": 61.25, "ldh": 200.0})
    assert said.startswith("age is missing: the training median (61.25) was used")
    assert stand_ins("P1", "clinical value", {"age": 50.0}, {"age": 61.0}) == ()
    with pytest.raises(InputTableError, match=r"2 of 3 image features of patient P1 are missing \(a, b\); at most 50%"):
        stand_ins("P1", "image feature", {"a": gap, "b": gap, "c": 1.0}, {"a": 0, "b": 0, "c": 0})

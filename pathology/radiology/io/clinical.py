"""Clinical values beside the images: coded as numbers, and what a missing one means for a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pathology.errors import InputTableError
from pathology.radiology.io.cohort import Case, Cohort, plain_text

__all__ = ["MISSING_LIMIT", "clinical_numbers", "clinical_row", "require_columns", "stand_ins"]

MISSING_LIMIT = 0.5
"""Largest share of a model's clinical values, or of its image features, that may be missing for a patient."""


def clinical_numbers(
    cohort: Cohort, numeric: Sequence[str], categories: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """Return clinical covariates as numbers, in the cohort's order; missing values are NaN.

    Parameters
    ----------
    cohort
        Patients and their clinical table.
    numeric
        Numeric columns.
    categories
        Ordered categorical columns: their values from least to most, which count 0, 1, 2, ...

    Raises
    ------
    InputTableError
        If a column is missing, or a value is not a number or not listed.
    """
    columns: dict[str, list[float]] = {}
    for name in numeric:
        columns[name] = [_number(name, p, v) for p, v in _values(cohort, name)]
    for name, values in (categories or {}).items():
        places = {v: float(i) for i, v in enumerate(values)}
        columns[name] = [_place(name, p, v, places) for p, v in _values(cohort, name)]
    return pd.DataFrame(columns, index=pd.Index(cohort.patients, name="patient_id"), dtype=float)


def _values(cohort: Cohort, name: str) -> list[tuple[str, object]]:
    column = cohort.column(name)
    absent = [p for p in cohort.patients if p not in column.index]
    if absent:
        raise InputTableError(f"patient {absent[0]} is not in the clinical table")
    return [(p, column[p]) for p in cohort.patients]


def _number(name: str, patient: str, value: object) -> float:
    if pd.isna(value) or value == "":  # type: ignore[call-overload]  # one value of a column of any type
        return float("nan")
    number = pd.to_numeric(str(value), errors="coerce")
    if not np.isfinite(number):
        raise InputTableError(f"'{name}' of patient {patient} is '{value}', expected a number")
    return float(number)


def _place(name: str, patient: str, value: object, places: Mapping[str, float]) -> float:
    if pd.isna(value) or value == "":  # type: ignore[call-overload]
        return float("nan")
    if plain_text(value) not in places:
        raise InputTableError(f"'{name}' of patient {patient} is '{value}', expected one of {', '.join(places)}")
    return places[plain_text(value)]


def require_columns(clinical: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse to predict without the clinical columns that a model uses.

    Raises
    ------
    InputTableError
        If there is no table, or it lacks a column.
    """
    lacking = [c for c in columns if c not in clinical.columns]
    if not lacking:
        return
    there = "no clinical table was given"
    if len(clinical.columns):
        there = f"the clinical table has no column '{lacking[0]}' (available: {', '.join(map(str, clinical.columns))})"
    raise InputTableError(
        f"the model predicts from {', '.join(columns)} beside the images, but {there}",
        remedy="Pass --clinical TABLE with these columns, coded as in training",
    )


def clinical_row(case: Case, columns: Sequence[str]) -> Cohort:
    """Return one patient as a cohort with the clinical columns that a model uses.

    Raises
    ------
    InputTableError
        If the patient has no clinical row, or a column is missing.
    """
    if columns and not case.clinical:
        raise InputTableError(
            f"the model predicts from {', '.join(columns)} beside the images, but patient {case.patient_id} has no "
            "clinical row",
            remedy="Add the patient to the clinical table",
        )
    row = pd.DataFrame([dict(case.clinical)], index=pd.Index([case.patient_id], name="patient_id"))
    require_columns(row, columns)
    return Cohort((case,), row)


def stand_ins(patient: str, what: str, values: Mapping[str, float], fill: Mapping[str, float]) -> tuple[str, ...]:
    """Say which of a patient's values are missing and what the prediction uses instead.

    Parameters
    ----------
    patient
        Pseudonym.
    what
        What the values are, such as ``clinical value``.
    values
        The model's inputs; NaN where missing.
    fill
        Training medians.

    Returns
    -------
    tuple of str
        A sentence per missing value, with the consequence.

    Raises
    ------
    InputTableError
        If more than :data:`MISSING_LIMIT` of them are missing.

    Examples
    --------
    >>> stand_ins("P1", "clinical value", {"age": float("nan"), "ldh": 180.0}, {"age": 61.0, "ldh": 200.0})
    ('age is missing: the training median (61) was used, so the prediction does not reflect the true value',)
    """
    missing = [name for name, value in values.items() if not np.isfinite(value)]
    if len(missing) > MISSING_LIMIT * len(values):
        raise InputTableError(
            f"{len(missing)} of {len(values)} {what}s of patient {patient} are missing ({', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}); at most {MISSING_LIMIT:.0%} may be",
            remedy="Add the values; a prediction from training medians would describe another patient",
        )
    return tuple(
        f"{name} is missing: the training median ({fill[name]:.4g}) was used, so the prediction does not reflect the "
        "true value"
        for name in missing
    )

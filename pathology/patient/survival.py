"""Run survival models on patient records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pathology.patient.record import PatientRecord, SurvivalPrediction, patient_table
from pathology.survival.models.base import FittedModel

__all__ = ["add_predictions"]

DAYS_PER_YEAR = 365.25
YEARS = (1, 3, 5)


def add_predictions(
    records: Sequence[PatientRecord], fitted: FittedModel, name: str
) -> tuple[list[PatientRecord], tuple[str, ...]]:
    """Add the predictions of a survival model to the patient records.

    Patients with fewer than half of the covariates receive no prediction; the returned notes count them.

    Parameters
    ----------
    records
        Patients.
    fitted
        Model trained on a patient table (columns ``clinical.*``, ``slide.*``, ``imaging.*``) with times in days.
    name
        Name of the model in the record.

    Returns
    -------
    tuple
        Updated records, and notes on missing predictions.
    """
    table = patient_table(records)
    settings = fitted.preparation.settings
    columns = [c for c in (*settings.numeric, *settings.categorical) if c not in fitted.preparation.dropped]
    absent = [c for c in columns if c not in table.columns]
    if len(absent) == len(columns):
        return list(records), (f"{name} did not run: none of its covariates ({', '.join(columns)}) is in the records",)
    filled = table.assign(**dict.fromkeys((*absent, *fitted.preparation.dropped)))
    known = filled[columns].notna()
    runs = np.flatnonzero(known.mean(axis=1) >= 0.5)
    last = float(fitted.facts.get("last_time", np.inf))
    years = [y for y in YEARS if y * DAYS_PER_YEAR <= last] or [YEARS[0]]
    outcome = str(fitted.facts.get("outcome", "event"))
    trained = f"{fitted.facts['patients']} patients with {fitted.facts['events']} events"
    result = list(records)
    predicted = fitted.predict(filled.iloc[runs], [y * DAYS_PER_YEAR for y in years]) if runs.size else pd.DataFrame()
    for place, i in enumerate(runs):
        row = predicted.iloc[place]
        prediction = SurvivalPrediction(
            model=name,
            kind=fitted.model.kind,
            outcome=outcome,
            covariates=tuple(columns),
            imputed=tuple(c for c in columns if not bool(known[c].iloc[i])),
            risk=float(row["risk"]),
            group=str(row["risk_group"]),
            survival={f"{y} year{'s' if y > 1 else ''}": float(row[f"survival_{y * DAYS_PER_YEAR:g}"]) for y in years},
            trained_on=trained,
        )
        result[i] = result[i].model_copy(update={"survival": (*result[i].survival, prediction)})
    silent = len(records) - len(runs)
    notes = [f"{name}: {', '.join(absent)} imputed for all patients (column missing)"] if absent else []
    if silent:
        notes.append(
            f"{name} did not run on {silent} of {len(records)} patients (fewer than half of its covariates available)"
        )
    return result, tuple(notes)

"""Patients who lack a modality get the model for what they have, and it is said which."""

import numpy as np
import pandas as pd
import pytest

from pathology.errors import BundleError, UsageError
from pathology.patient.record import ImagingStudy, PatientRecord, PatientSlide, patient_table
from pathology.patient.survival import add_predictions
from pathology.survival.covariates import CovariateSettings
from pathology.survival.modalities import ModalityModels, ModalitySettings
from pathology.survival.models.base import fit_model
from pathology.survival.models.cox import CoxModel
from pathology.survival.outcome import Outcome

SETTINGS = ModalitySettings(
    modalities={
        "clinic": CovariateSettings(numeric=("age",)),
        "slides": CovariateSettings(numeric=("mitoses", "necrosis")),
        "imaging": CovariateSettings(numeric=("volume",)),
    }
)


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(0)
    n = 200
    frame = pd.DataFrame({k: rng.normal(size=n) for k in ("age", "mitoses", "necrosis", "volume")})
    frame.loc[100:, ["mitoses", "necrosis"]] = np.nan
    frame.loc[20:, "volume"] = np.nan
    outcome = Outcome(rng.exponential(500 * np.exp(-frame["age"])), rng.random(n) < 0.7)
    return frame, outcome


def test_each_patient_gets_the_largest_model_he_can_have(cohort, tmp_path):
    frame, outcome = cohort
    models = ModalityModels.fit(frame, outcome, SETTINGS, CoxModel)
    assert set(models.models) == {("clinic", "slides"), ("clinic",), ("slides",)}
    assert "20 patients" in models.not_fitted[("imaging",)]
    found = models.predict(frame, [300])
    assert found["ran_on"].tolist() == ["clinic + slides"] * 100 + ["clinic"] * 100
    alone = models.models[("clinic",)].predict(frame.iloc[100:], [300])
    assert np.array_equal(found["survival_300"].iloc[100:], alone["survival_300"])
    models.save(tmp_path / "m")
    assert ModalityModels.is_folder(tmp_path / "m")
    pd.testing.assert_frame_equal(ModalityModels.load(tmp_path / "m").predict(frame, [300]), found)


def test_patients_with_nothing_get_nothing(cohort):
    frame, outcome = cohort
    models = ModalityModels.fit(frame, outcome, SETTINGS, CoxModel)
    few = pd.DataFrame({"age": [np.nan, 1.0]}, index=["x", "y"])
    found = models.predict(few, [300])
    assert found.loc["x", "ran_on"] == ""
    assert np.isnan(found.loc["x", "survival_300"])
    assert found.loc["y", "ran_on"] == "clinic"


def test_impossible_requests(cohort, tmp_path):
    frame, outcome = cohort
    with pytest.raises(UsageError, match="no combination"):
        ModalityModels.fit(frame.head(30), outcome.take(np.arange(30)), SETTINGS, CoxModel)
    with pytest.raises(BundleError):
        ModalityModels.load(tmp_path)


def test_models_run_on_records_and_say_what_they_filled_in():
    rng = np.random.default_rng(0)
    records = [
        PatientRecord(
            patient_id=f"P{i}",
            clinical={"age_years": float(40 + i % 40)} if i != 3 else {},
            slides=(PatientSlide(slide_id=f"s{i}", status="scored", probabilities={"LMS": (i % 10) / 10}),)
            if i % 2
            else (),
            imaging=(ImagingStudy(study="x", findings={"volume": float(i)}),),
        )
        for i in range(80)
    ]
    table = patient_table(records)
    assert table["slide.p_LMS"].notna().sum() == 40
    outcome = Outcome(rng.exponential(900, 80), rng.random(80) < 0.6)
    spec = CovariateSettings(numeric=("clinical.age_years", "slide.p_LMS", "imaging.volume", "imaging.none"))
    with_column = table.assign(**{"imaging.none": rng.normal(size=80)})
    model = fit_model(with_column, outcome, spec, CoxModel(), facts={"outcome": "os", "last_time": 1500.0})
    done, notes = add_predictions(records, model, "m")
    assert done[1].survival[0].imputed == ("imaging.none",)
    assert done[0].survival[0].imputed == ("slide.p_LMS", "imaging.none")
    assert done[1].survival[0].outcome == "os"
    assert list(done[1].survival[0].survival) == ["1 year", "3 years"]  # the follow-up ends before five
    assert "imaging.none" in notes[0]
    # P3 has a slide and an image but no age: half is known.  Without slides there is less than half.
    assert len(done[3].survival) == 1
    bare, notes = add_predictions([PatientRecord(patient_id="x")], model, "m")
    assert bare[0].survival == ()
    assert "did not run" in notes[0]

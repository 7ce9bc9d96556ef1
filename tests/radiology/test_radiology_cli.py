import json

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from typer.testing import CliRunner

from pathology.cli.patient import app as patient
from pathology.cli.radiology import app
from pathology.errors import OutputError, PathologyError, UsageError
from pathology.folder_lock import locked_folder
from pathology.patient.record import read_radiology_results
from pathology.radiology.features.radiomics import FeatureSettings
from pathology.radiology.io.cohort import read_cohort
from pathology.radiology.io.nifti import write_nifti
from pathology.radiology.io.open import open_mask, open_volume
from pathology.radiology.io.volume import Mask
from pathology.systems.radiology import yang_2022_lipoma
from pathology.testing.radiology_constructed import fat_cohort, readers_cohort
from pathology.testing.radiology_dicom_write import write_series

DATA = ["--data-name", "phantoms", "--data-source", "made here", "--data-licence", "CC0", "--constructed"]
QUICK = ["--set", "optimiser.steps=3", "--set", "optimiser.batch=2", "--set", "widths=[4, 8, 16]"]
SMALL = [*QUICK, "--set", "window=[1, 32, 32]", "--set", "spacing_mm=[4, 4, 4]", "--set", "overlap=0"]


STATISTICS = FeatureSettings(families=("statistics",), spacing_mm=None)


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    readers_cohort(folder, patients=4, readers=2, size=32)
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    call("train", "marin-2022", folder / "images", "--out", folder / "model", "--folds", 2, *SMALL, *DATA)
    return folder / "model"


def test_info_says_what_is_there_and_what_is_wrong(folder, tmp_path, mr):
    said = call("info", folder / "images")
    assert "C000  CT (CT): 32 x 32 x 16 voxels of 2 x 2 x 4 mm, LPS" in said
    assert "4 patients, 0 unusable" in said
    image, mask = mr
    write_nifti(image, tmp_path / "P1" / "MR_T1_image.nii.gz")
    write_nifti(Mask(np.zeros_like(mask.array), mask.geometry), tmp_path / "P1" / "MR_T1_mask.nii.gz")
    assert "is empty" in call("info", tmp_path, status=1)
    write_series(image, tmp_path / "dicom", pseudonym="P1", description="T1")
    assert call("info", tmp_path / "dicom").startswith("T1 (MR): 40 x 36 x 14 voxels")


def test_train_writes_a_card_that_says_everything(bundle):
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    assert card["system"] == "marin-2022"
    assert card["constructed"] is True
    assert card["recipe_settings"]["optimiser"]["steps"] == 3
    assert any("no clinical claim" in limit for limit in card["limits"])
    metrics = {f["metric"]: f for f in card["metrics"]}
    assert metrics["Dice coefficient"]["n"] == 4
    assert "2-fold cross-validation by patient" in metrics["Dice coefficient"]["data"]


def test_a_folder_that_another_training_holds_is_refused(folder, tmp_path):
    arguments = ("train", "marin-2022", folder / "images", "--out", tmp_path, "--folds", 2, *SMALL, *DATA)
    with locked_folder(tmp_path), pytest.raises(OutputError, match="another run"):
        call(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_finished_training_is_not_repeated_and_another_is_refused_before_any_work(bundle, folder):
    before = {path.name: path.stat().st_mtime_ns for path in bundle.iterdir()}
    command = ("train", "marin-2022", folder / "images", "--out", bundle, "--folds", 2, *SMALL, *DATA)
    (bundle / "training").mkdir()  # left by a run killed after the card was written
    assert "wrote" in call(*command)
    assert {path.name: path.stat().st_mtime_ns for path in bundle.iterdir()} == before
    with pytest.raises(OutputError, match="already contains a bundle"):
        call(*command, "--seed", 3)


def test_the_settings_beside_a_bundle_train_it_again(bundle, folder, tmp_path):
    written = yaml.safe_load((bundle / "config.yaml").read_text())
    assert (written["system"], written["cohort"], written["folds"]) == ("marin-2022", str(folder / "images"), 2)
    assert (written["recipe"]["optimiser"]["steps"], written["constructed"], written["limits"]) == (3, True, [])
    call("train", "--config", bundle / "config.yaml", "--out", tmp_path / "model")
    cards = [yaml.safe_load((path / "card.yaml").read_text()) for path in (bundle, tmp_path / "model")]
    assert cards[0] == cards[1]
    assert (tmp_path / "model" / "config.yaml").read_text() == (bundle / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("fold: 3", (), "config.yaml: fold: there is no such setting. Did you mean folds"),
        ("folds: 1", (), "config.yaml: folds: .* not 1"),
        ("folds: 1", ("--folds", 0), "--folds: .* not 0"),
        ("recipe: {widht: 3}", (), "config.yaml: recipe.widht: there is no such setting. Did you mean widths"),
        ("recipe: {optimiser: {steps: 0}}", (), "config.yaml: recipe.optimiser.steps: "),
        ("recipe: {optimiser: {stepz: 9}}", (), "recipe.optimiser.stepz: there is no .* Did you mean steps"),
    ],
)
def test_a_wrong_file_of_settings_is_one_clear_error(folder, tmp_path, text, more, said):
    (tmp_path / "config.yaml").write_text(text)
    given = ["--out", tmp_path / "m", "--config", tmp_path / "config.yaml", *DATA, *more]
    with pytest.raises(UsageError, match=said) as caught:
        call("train", "marin-2022", folder / "images", *given)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"data_source is missing. Give --data-source, or data_source in the --config"):
        call("train", "marin-2022", folder / "images", "--out", tmp_path / "m", "--data-name", "phantoms")
    assert not (tmp_path / "m").exists()


def test_segment_prints_what_it_found(bundle, folder, tmp_path):
    said = call("segment", bundle, f"CT={folder}/images/C000/CT_image.nii.gz", "--out", tmp_path / "o")
    found = json.loads(said)
    assert found["volume_cm3"] >= 0
    assert (tmp_path / "o" / "segmentation.nii.gz").exists()
    with pytest.raises(PathologyError, match="SEQUENCE=PATH"):
        call("segment", bundle, "scan.nii.gz", "--out", tmp_path / "o")


def test_predict_goes_on_after_a_broken_patient_and_resumes(bundle, folder, tmp_path):
    cohort = tmp_path / "cohort"
    for name in ("C000", "C001"):
        (cohort / name).mkdir(parents=True)
        source = folder / "images" / name / "CT_image.nii.gz"
        (cohort / name / "CT_image.nii.gz").write_bytes(source.read_bytes())
    (cohort / "broken").mkdir()
    (cohort / "broken" / "CT_image.nii.gz").write_bytes(b"not a volume")
    said = call("predict", bundle, cohort, "--out", tmp_path / "out", status=1)
    assert "2 of 3 patients done" in said
    assert "cannot be read" in said
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert list(table["status"]) == ["done", "done", "failed"]
    assert {"patient_id", "study", "modality", "volume_cm3"} <= set(table.columns)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "constructed data" in page
    assert "Research use only" in page
    assert "Slices with contours" in page
    assert "volume, cm³" in page
    record = tmp_path / "out" / "studies" / "C000" / "study.json"
    before = record.stat().st_mtime_ns
    call("predict", bundle, cohort, "--out", tmp_path / "out", status=1)
    assert record.stat().st_mtime_ns == before
    # Other images under the same name are computed again.
    (cohort / "C000" / "CT_image.nii.gz").write_bytes((cohort / "C001" / "CT_image.nii.gz").read_bytes())
    call("predict", bundle, cohort, "--out", tmp_path / "out", status=1)
    assert record.stat().st_mtime_ns > before
    # The patient record reads the same folder.
    studies = dict(read_radiology_results(tmp_path / "out"))
    assert studies["C001"].modality == "CT"
    assert "volume_cm3" in studies["C001"].findings


def test_real_predictions_join_the_patients_clinical_rows(data_dir, tmp_path):
    """Train, predict and join on real patients: what the record holds is what the network's mask measures."""
    given = data_dir / "radiology"
    for number, source in enumerate(sorted((given / "sts").iterdir())[:4]):
        # Two learn, two are predicted.
        case = tmp_path / ("learnt" if number < 2 else "new") / source.name
        case.mkdir(parents=True)
        for name in ("MR_T1_image.nii.gz", "MR_T1_mask.nii.gz"):
            (case / name).write_bytes((source / name).read_bytes())
    small = [*QUICK, "--set", "window=[8, 32, 32]", "--set", "spacing_mm=[6, 6, 6]", "--set", "sequences=[MR_T1]"]
    call("train", "holbrook-2020", tmp_path / "learnt", "--out", tmp_path / "m", "--no-evaluate", *small, *DATA)
    assert "2 of 2 patients done" in call("predict", tmp_path / "m", tmp_path / "new", "--out", tmp_path / "rad")
    built = CliRunner().invoke(
        patient,
        ["build", "--radiology", str(tmp_path / "rad"), "--clinical", str(given / "sts_clinical.csv"), "--out",
         str(tmp_path / "records")],
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    assert "2 with imaging, 43 with clinical data, 2 with all" in built.output
    table = pd.read_parquet(tmp_path / "records" / "patients.parquet").set_index("patient_id")
    for name in (case.name for case in (tmp_path / "new").iterdir()):
        mask = open_mask(
            tmp_path / "rad" / "studies" / name / "segmentation.nii.gz",
            open_volume(tmp_path / "new" / name / "MR_T1_image.nii.gz"),
        )
        assert mask.array.any()
        assert table.loc[name, "imaging.volume_cm3"] == pytest.approx(mask.volume_mm3 / 1000)
        record = json.loads((tmp_path / "records" / "patients" / name / "record.json").read_text())
        assert record["imaging"][0]["modality"] == "MR"
        assert "volume_cm3" in (tmp_path / "records" / "patients" / name / "patient.html").read_text()


@pytest.mark.long
def test_features_feed_evaluation_and_training(tmp_path):
    fat_cohort(tmp_path, patients=8, size=16)
    table, clinical = tmp_path / "f.csv", tmp_path / "clinical.csv"
    said = call("features", tmp_path / "images", "--sequences", "CT,MR_T1", "--out", table)
    assert "8 patients" in said
    given = ["--clinical", clinical, "--features", table, "--folds", 2]
    given += ["--set", "signature.inner_folds=2", "--set", "repeats=1"]
    said = call("evaluate", "yang-2022-lipoma", tmp_path / "images", *given)
    assert "area under the ROC curve, clinical data alone" in said
    assert "n = 8 patients" in said
    said = call(
        "train", "yang-2022-lipoma", tmp_path / "images", "--out", tmp_path / "m", "--no-evaluate", *given, *DATA
    )
    assert "its performance is unknown" in said


def test_training_refuses_a_table_that_predict_could_not_measure(tmp_path):
    fat_cohort(tmp_path, patients=8, size=16)
    images, table, clinical = tmp_path / "images", tmp_path / "f.csv", tmp_path / "clinical.csv"
    features = "{CT: {families: [statistics], spacing_mm: null}, MR_T1: {families: [statistics], spacing_mm: null}}"
    measured = yang_2022_lipoma.recipe().model_copy(update={"features": dict.fromkeys(("CT", "MR_T1"), STATISTICS)})
    measured.model_copy(update={"shell_mm": 4.0}).table(read_cohort(images)).to_csv(table)
    given = ["--clinical", clinical, "--features", table, "--no-evaluate", *DATA, "--set", f"features={features}"]
    given += ["--set", "signature.inner_folds=2", "--set", "repeats=1"]
    with pytest.raises(PathologyError, match="not features of this recipe, first: 'CT-shell:"):
        call("train", "yang-2022-lipoma", images, "--out", tmp_path / "m", *given)
    # The name does not tell the width of a shell; the values do.
    with pytest.raises(PathologyError, match=r"'CT-shell:.*recomputed"):
        call("train", "yang-2022-lipoma", images, "--out", tmp_path / "m", *given, "--set", "shell_mm=8")
    assert not (tmp_path / "m").exists()
    call("train", "yang-2022-lipoma", images, "--out", tmp_path / "m", *given, "--set", "shell_mm=4")
    card = yaml.safe_load((tmp_path / "m" / "card.yaml").read_text())
    assert any("-shell:" in c for c in card["fitted"]["columns"])
    (tmp_path / "one").mkdir()
    (images / "C000").rename(tmp_path / "one" / "C000")
    with pytest.raises(PathologyError, match=r"predicts from age, ldh beside the images.*--clinical TABLE"):
        call("predict", tmp_path / "m", tmp_path / "one", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()
    values = pd.read_csv(clinical)
    values["hospital"] = ["north", "south"] * 4
    values.to_csv(tmp_path / "other.csv", index=False)
    given = ["--model", tmp_path / "m", "--clinical", tmp_path / "other.csv", "--centre", "hospital"]
    card = (tmp_path / "m" / "card.yaml").read_bytes()
    said = call("evaluate", images, *given, "--out", tmp_path / "e")
    assert "area under the ROC curve: " in said
    assert "n = 7" in said
    assert (tmp_path / "m" / "card.yaml").read_bytes() == card
    page = (tmp_path / "e" / "report.html").read_text()
    for text in ("TRIPOD+AI checklist", "By centre", "The model&#39;s card", "was not refitted", "constructed data"):
        assert text in page
    with pytest.raises(PathologyError, match="a trained bundle takes a cohort"):
        call("evaluate", "yang-2022-lipoma", images, *given, "--out", tmp_path / "e")
    with pytest.raises(PathologyError, match="are for a trained bundle"):
        call("evaluate", "yang-2022-lipoma", images, "--centre", "hospital")
    answers = {}
    changes = {"as is": {}, "older": {"age": 99}, "gap": {"ldh": None}, "none": {"age": None, "ldh": None}}
    for name, change in changes.items():
        values.assign(**change).to_csv(tmp_path / "new.csv", index=False)
        given = ["--out", tmp_path / "o", "--clinical", tmp_path / "new.csv"]
        said = call("predict", tmp_path / "m", tmp_path / "one", *given, status=int(name == "none"))
        answers[name] = pd.read_csv(tmp_path / "o" / "results.csv").iloc[0]
        assert ("ldh is missing: the training median" in said) == (name == "gap")
    # The same folder: a changed clinical value is computed again, not taken from the earlier run.
    assert answers["older"]["probability"] != answers["as is"]["probability"]
    assert "ldh is missing" in answers["gap"]["notes"]
    assert answers["none"]["status"] == "failed"
    values.assign(patient="other").head(1).to_csv(tmp_path / "new.csv", index=False)
    said = call("predict", tmp_path / "m", tmp_path / "one", *given, status=1)
    assert "C000: " in said
    (study,) = [s for _, s in read_radiology_results(tmp_path / "o")]
    assert study.status == "failed"


def test_a_segmentation_is_not_evaluated_as_something_else(bundle, folder, tmp_path):
    with pytest.raises(PathologyError, match="cannot be evaluated on another cohort by this version"):
        call("evaluate", folder / "images", "--model", bundle, "--out", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_wrong_requests_are_refused(folder, tmp_path):
    with pytest.raises(PathologyError, match="unknown radiology system 'nobody-1999'"):
        call("evaluate", "nobody-1999", folder / "images")
    with pytest.raises(PathologyError, match="unknown setting"):
        call("evaluate", "marin-2022", folder / "images", "--set", "colour=red")
    with pytest.raises(PathologyError, match="threshold"):
        call("evaluate", "marin-2022", folder / "images", "--set", "threshold=7")
    with pytest.raises(PathologyError, match="no patient has MR_T1"):
        call("features", folder / "images", "--sequences", "MR_T1", "--out", tmp_path / "x.csv")


def test_adc_is_fitted_from_dicom(tmp_path, mr):
    for b in (0, 800):
        faded = mr[0].with_array((mr[0].array + 100) * np.exp(-b * 1e-3))
        write_series(faded, tmp_path / "dwi" / f"b{b}", pseudonym="P1")
        for path in (tmp_path / "dwi" / f"b{b}").iterdir():
            dataset = pydicom.dcmread(path)
            dataset.DiffusionBValue, dataset.SeriesInstanceUID = float(b), "1.2.3"
            dataset.save_as(path)
    assert "b-values 0, 800" in call("adc", tmp_path / "dwi", "--out", tmp_path / "adc.nii.gz")
    found = open_volume(tmp_path / "adc.nii.gz").volume
    np.testing.assert_allclose(np.median(found.array), 1e-3, rtol=0.02)


def test_register_draws_a_picture_to_check_by(tmp_path, mr):
    image, _ = mr
    write_nifti(image, tmp_path / "a.nii.gz")
    write_nifti(image, tmp_path / "b.nii.gz")
    said = call("register", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--out", tmp_path / "o")
    assert "mutual information" in said
    assert (tmp_path / "o" / "check.png").stat().st_size > 5000

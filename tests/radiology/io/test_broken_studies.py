"""What is wrong with a study is said in one line, and stops nobody else's."""

import numpy as np
import pandas as pd
import pydicom
import pytest
from typer.testing import CliRunner

from pathology.cli.radiology import app
from pathology.radiology.io.cohort import read_cohort
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.nifti import write_nifti
from pathology.radiology.io.volume import Mask, Volume
from pathology.radiology.models.bundle import CardText
from pathology.radiology.models.training_loop import OptimiserSettings
from pathology.systems.radiology import holbrook_2020
from pathology.testing.radiology_dicom_write import write_series
from pathology.testing.radiology_phantoms import tumour_phantom

GRID = Geometry(size=(20, 20, 8), spacing=(3.0, 3.0, 4.0))
BROKEN = {
    "empty-mask": ("MR_T1", "is empty"),
    "missing-slice": ("MR_T1", "1 slice(s) are missing"),
    "mixed-orientations": ("MR_T1", "2 orientations"),
    "other-geometry": ("MR_T1", "are not on the same grid"),
    "pet-without-dose": ("PET", "injected dose is missing"),
}


def change(path, edit):
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def as_activity(dataset):
    """A PET slice in Bq/ml whose header lacks the dose."""
    tracer = pydicom.Dataset()
    tracer.RadionuclideHalfLife, tracer.RadiopharmaceuticalStartTime = "6586.2", "100000"
    dataset.Units, dataset.PatientWeight = "BQML", "70"
    dataset.RadiopharmaceuticalInformationSequence = pydicom.Sequence([tracer])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A sound patient and one of each kind that is not."""
    folder = tmp_path_factory.mktemp("cohort")
    image, tumour = tumour_phantom(GRID, seed=1)
    for name in ("sound", "sound-2", *BROKEN):
        sequence = BROKEN.get(name, ("MR_T1", ""))[0]
        volume = Volume(image.array, GRID, "PT", "SUV", "PET") if sequence == "PET" else image
        write_series(volume, folder / name / f"{sequence}_image", pseudonym=name)
        write_nifti(tumour, folder / name / f"{sequence}_mask.nii.gz")
    write_nifti(Mask(np.zeros(GRID.shape, bool), GRID), folder / "empty-mask" / "MR_T1_mask.nii.gz")
    (folder / "missing-slice" / "MR_T1_image" / "0003.dcm").unlink()
    change(
        folder / "mixed-orientations" / "MR_T1_image" / "0001.dcm",
        lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]),
    )
    shifted = Geometry(GRID.size, GRID.spacing, (40.0, 0.0, 0.0))
    write_nifti(Mask(tumour.array, shifted), folder / "other-geometry" / "MR_T1_mask.nii.gz")
    for path in (folder / "pet-without-dose" / "PET_image").glob("*.dcm"):
        change(path, as_activity)
    return folder


def test_each_fault_is_one_line(cohort):
    result = CliRunner().invoke(app, ["info", str(cohort)])
    assert result.exit_code == 1
    assert "7 patients, 5 unusable images or masks" in result.output
    for name, (sequence, words) in BROKEN.items():
        lines = [line for line in result.output.splitlines() if line.startswith(name)]
        assert len(lines) == 1, result.output
        assert lines[0].startswith(f"{name}  {sequence}: ")
        assert words in lines[0]


def test_a_batch_goes_on_and_says_why(cohort, tmp_path):
    recipe = holbrook_2020.recipe().model_copy(
        update={"window": (4, 16, 16), "widths": (2, 4, 8), "optimiser": OptimiserSettings(steps=2, batch=1)}
    )
    source = {"name": "phantoms", "source": "made here", "licence": "CC0", "images": 2, "used_for": "training"}
    text = CardText(name="broken", title="Test", training_data=(source,), limits=("Constructed data: no claim.",))
    every = read_cohort(cohort)
    sound = every.take([i for i, p in enumerate(every.patients) if p.startswith("sound")])
    recipe.train(sound, tmp_path / "model", text, system="holbrook-2020", constructed=True)
    call = ["predict", str(tmp_path / "model"), str(cohort), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, call).exit_code == 1
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("patient_id")
    # A segmentation needs no mask of the patient, so faults of masks do not matter to it.
    done = ["empty-mask", "other-geometry", "sound", "sound-2"]
    assert sorted(table.index[table["status"] == "done"]) == done
    for name in ("missing-slice", "mixed-orientations"):
        assert BROKEN[name][1] in table.loc[name, "error"]
    assert table.loc["pet-without-dose", "status"] == "failed"

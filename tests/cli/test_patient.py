"""``pathology patient``, as a user meets it, on the real imaging patients where they are at hand."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pathology.cli.patient import app
from pathology.cli.survival import app as survival
from pathology.errors import InputTableError, UsageError


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def _slides(folder, patients):
    """Results of scored slides of constructed patients."""
    rng = np.random.default_rng(0)
    rows = []
    for i, patient in enumerate(patients):
        p = rng.dirichlet(np.ones(3))
        failed = i == 2
        rows.append(
            {
                "slide_id": f"{patient}_1",
                "patient_id": patient,
                "path": f"/slides/{patient}.svs",
                "status": "failed" if failed else "scored",
                "prediction": "" if failed else ["LMS", "UPS", "SS"][p.argmax()],
                **{f"p_{c}": "" if failed else v for c, v in zip(["LMS", "UPS", "SS"], p, strict=True)},
                "tissue_mm2": 40.0,
            }
        )
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    return folder


def _imaging(folder, patients):
    folder.mkdir()
    rng = np.random.default_rng(1)
    pd.DataFrame({"patient_id": patients, "modality": "MR", "volume_ml": rng.gamma(3, 60, len(patients))}).to_csv(
        folder / "results.csv", index=False
    )
    return folder


def test_the_imaging_patients_and_their_clinic_become_records(data_dir, tmp_path):
    patients = sorted(p.name for p in (data_dir / "radiology" / "sts").iterdir())
    assert len(patients) == 28
    clinical = data_dir / "radiology" / "sts_clinical.csv"
    slides = _slides(tmp_path / "slides", [*patients[:20], "CONSTRUCTED_1"])
    imaging = _imaging(tmp_path / "rad", patients)
    out = tmp_path / "out"
    result = run("build", "--slides", slides, "--radiology", imaging, "--clinical", clinical, "--out", out)
    assert result.exit_code == 0, result.output
    assert "44 patients: 21 with slides, 28 with imaging, 43 with clinical data, 20 with all" in result.output
    assert "1 patients with slides only: CONSTRUCTED_1" in result.output
    table = pd.read_parquet(out / "patients.parquet")
    assert len(table) == 44
    assert table["imaging.volume_ml"].notna().sum() == 28
    report = json.loads((out / "build.json").read_text())
    assert report["only_in_slides"] == ["CONSTRUCTED_1"]
    assert len(report["only_in_clinical"]) == 15
    assert len(list((out / "patients").glob("*/patient.html"))) == 44

    # A model of tissue, imaging and clinic runs on the same table, and the records say on what.
    with_time = table["clinical.follow_up_days"].notna()
    table.loc[with_time, "relapse"] = (table["clinical.status"] != "no evidence of disease").astype(float)
    table.to_parquet(tmp_path / "t.parquet")
    fitted = CliRunner().invoke(
        survival,
        ["fit", str(tmp_path / "t.parquet"), "--time", "clinical.follow_up_days", "--event", "relapse", "--set",
         "penalty=0.1", "--numeric", "clinical.age_years,slide.p_LMS,imaging.volume_ml", "--out", str(tmp_path / "m")],
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.output
    again = run(
        "build", "--slides", slides, "--radiology", imaging, "--clinical", clinical, "--survival", tmp_path / "m",
        "--out", tmp_path / "out2",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    record = json.loads((tmp_path / "out2" / "patients" / patients[25] / "record.json").read_text())
    assert record["survival"][0]["imputed"] == ["slide.p_LMS"]
    shown = run("show", tmp_path / "out2", patients[0])
    assert shown.exit_code == 0
    assert "relapse by m (cox)" in shown.output
    assert json.loads(run("show", tmp_path / "out2", patients[0], "--json").output)["patient_id"] == patients[0]


@pytest.mark.slow
def test_slides_that_were_really_scored_join_the_imaging_patients(data_dir, tmp_path):
    """Three constructed slides through the scoring of a batch, under the names of imaging patients."""
    from pathology.scoring.batch import score
    from pathology.testing.random_bundle import write_random_bundle
    from pathology.testing.synthetic_slides import TissuePicture, write_svs

    patients = sorted(p.name for p in (data_dir / "radiology" / "sts").iterdir())
    for number in range(3):
        picture = TissuePicture(1200, 1000, tissue=0.7, seed=number)
        write_svs(tmp_path / f"s{number}.svs", picture, factors=(1, 4))
    owners = [patients[0], patients[0], "CONSTRUCTED_1"]
    pd.DataFrame(
        {"path": [f"s{n}.svs" for n in range(3)], "slide_id": ["s0", "s1", "s2"], "patient_id": owners}
    ).to_csv(tmp_path / "manifest.csv", index=False)
    score([tmp_path / "manifest.csv"], write_random_bundle(tmp_path / "bundle", patch=64, mpp=2.0), tmp_path / "out")
    result = run(
        "build", "--slides", tmp_path / "out", "--radiology", _imaging(tmp_path / "rad", patients), "--clinical",
        data_dir / "radiology" / "sts_clinical.csv", "--out", tmp_path / "records",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "44 patients: 2 with slides, 28 with imaging, 43 with clinical data, 1 with all" in result.output
    record = json.loads((tmp_path / "records" / "patients" / patients[0] / "record.json").read_text())
    assert [slide["slide_id"] for slide in record["slides"]] == ["s0", "s1"]
    scored = pd.read_csv(tmp_path / "out" / "results.csv").set_index("slide_id")
    for slide in record["slides"]:
        for name, probability in slide["probabilities"].items():
            assert probability == pytest.approx(scored.loc[slide["slide_id"], f"p_{name}"])
    page = (tmp_path / "records" / "patients" / patients[0] / "patient.html").read_text()
    assert all(text in page for text in ("s0", "s1", "volume_ml", "Research use only"))


def test_pseudonyms(tmp_path):
    slides = _slides(tmp_path / "slides", ["Smith, John", "Roe", "Doe"])
    first = run("build", "--slides", slides, "--hash-ids", tmp_path / "key", "--out", tmp_path / "a")
    second = run("build", "--slides", slides, "--hash-ids", tmp_path / "key", "--out", tmp_path / "b")
    assert first.exit_code == second.exit_code == 0, first.output
    written = "".join(p.read_text() for p in (tmp_path / "a").rglob("*") if p.suffix in (".json", ".html"))
    assert "Smith" not in written
    assert (tmp_path / "a" / "build.json").read_text() == (tmp_path / "b" / "build.json").read_text()


def test_wrong_use_says_what_to_do(tmp_path):
    assert isinstance(run("build", "--out", tmp_path / "o").exception, UsageError)
    bad = tmp_path / "bad.csv"
    bad.write_text("patient,age\nA,old\nA,50\n")
    result = run("build", "--clinical", bad, "--out", tmp_path / "o")
    assert isinstance(result.exception, InputTableError)
    assert "row 2: age_years is 'old'" in str(result.exception)
    assert "row 3: patient 'A' duplicates row 2" in str(result.exception)
    assert not (tmp_path / "o").exists()
    good = tmp_path / "good.csv"
    good.write_text("Fall,age\nA,50\n")
    assert run("build", "--clinical", good, "--column", "patient_id=Fall", "--out", tmp_path / "o").exit_code == 0
    with pytest.raises(UsageError, match="patient 'B' not found"):
        raise run("show", tmp_path / "o", "B").exception
    odd = run("build", "--clinical", good, "--column", "patient_id", "--out", tmp_path / "o")
    assert isinstance(odd.exception, UsageError)
    web = run(
        "build", "--clinical", good, "--column", "patient_id=Fall", "--explain-with", "ftp://x", "--out", tmp_path / "o"
    )
    assert isinstance(web.exception, UsageError)

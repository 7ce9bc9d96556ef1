"""Records: what belongs together is joined, what does not is reported, and a pseudonym gives nothing away."""

import pandas as pd
import pytest

from pathology.errors import InputTableError, OutputError, UsageError
from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.record import write_slide_record
from pathology.patient.clinical import validate_clinical
from pathology.patient.identity import Pseudonyms
from pathology.patient.pages import patient_page, write_folder
from pathology.patient.patient_summary import summarise_record
from pathology.patient.record import (
    ImagingStudy,
    PatientRecord,
    PatientSlide,
    build_records,
    patient_table,
    read_radiology_results,
    read_record,
    read_slide_results,
)
from pathology.radiology.predict import _flat


@pytest.fixture
def slides(tmp_path):
    out = tmp_path / "slides"
    (out / "slides" / "s1").mkdir(parents=True)
    rows = [
        {"slide_id": "s1", "patient_id": "A", "status": "scored", "prediction": "LMS", "p_LMS": 0.8, "p_UPS": 0.2},
        {"slide_id": "s2", "patient_id": "A", "status": "scored", "prediction": "UPS", "p_LMS": 0.4, "p_UPS": 0.6},
        {"slide_id": "s3", "patient_id": "B", "status": "failed", "error": "truncated"},
        {"slide_id": "s4", "patient_id": "", "status": "scored", "prediction": "UPS", "p_LMS": 0.1, "p_UPS": 0.9},
        {"slide_id": "s5", "patient_id": "c ", "status": "abstained", "p_LMS": 0.5, "p_UPS": 0.5},
    ]
    pd.DataFrame(rows).assign(
        path="/secret/A.svs", tissue_mm2=[10, 20, None, 5, 5], share_LMS=[0.7, 0.3, None, 0, 0.5]
    ).to_csv(out / "results.csv")
    record = {
        "slide_id": "s1",
        "path": "/secret/A.svs",
        "status": "abstained",
        "model": "sts 1",
        "model_sha256": "0",
        "extra": {"quality": {"pen": 4.5, "note": "x"}, "hot": True},
        "abstained_because": "not sure",
        "prediction_set": ["LMS", "UPS"],
        "out_of_domain": False,
    }
    write_slide_record(out / "slides" / "s1", SlideResult.model_validate(record))
    return out


@pytest.fixture
def clinical():
    return validate_clinical(
        pd.DataFrame(
            {
                "patient": ["A", "B", "C", "D"],
                "age": ["60", "", "40", "50"],
                "diagnosis_date": ["2020-01-01", "", "", ""],
                "doctor": ["Dr X", "Dr Y", "", ""],
            }
        )
    )


def test_slides_are_read_with_their_findings(slides):
    found = read_slide_results(slides)
    assert [p for p, _ in found] == ["A", "A", "B", None, "c"]
    first = found[0][1]
    assert first.probabilities == {"LMS": 0.8, "UPS": 0.2}
    assert first.findings == {"quality.pen": 4.5, "hot": 1.0, "share_LMS": 0.7}
    assert first.model == "sts 1"
    assert (first.answer, first.out_of_domain) == ("inconclusive: LMS or UPS", False)
    assert found[2][1].error == "truncated"
    assert found[4][1].abstained


def test_what_radiology_writes_is_read_as_it_is(tmp_path):
    """The layout of ``pathology radiology predict``, with a study that could not be evaluated."""
    classified = {
        "patient_id": "A",
        "model": "m 1.0.0",
        "system": "x",
        "prediction": "high",
        "probabilities": {"high": 0.8, "low": 0.2},
        "volume_cm3": 12.5,
        "files": ["inputs.png"],
        "intended_use": "research",
        "status": "done",
        "key": "0",
    }
    failed = {"status": "failed", "key": "0", "error": "no mask"}
    rows = [_flat(row) for row in (classified, {"patient_id": "A", **failed}, {"patient_id": "B", **failed})]
    pd.DataFrame(rows).to_csv(tmp_path / "results.csv", index=False)
    found = read_radiology_results(tmp_path)
    first, second = found[0][1], found[1][1]
    assert (first.prediction, first.model, first.status) == ("high", "m 1.0.0", "done")
    assert first.findings == {"probabilities.high": 0.8, "probabilities.low": 0.2, "volume_cm3": 12.5}
    assert (second.status, second.error, second.findings) == ("failed", "no mask", {})
    records, _ = build_records(imaging=found)
    assert records[0].notes == ("1 of 2 imaging studies could not be evaluated",)
    table = patient_table(records).set_index("patient_id")
    assert table.loc["A", "imaging.volume_cm3"] == 12.5
    assert pd.isna(table.loc["B", "imaging.volume_cm3"])
    assert "scan" not in summarise_record(records[1]).text()
    assert "1 scan was measured" in summarise_record(records[0]).text()


def test_everything_is_joined_or_reported(slides, clinical, tmp_path):
    (tmp_path / "rad").mkdir()
    pd.DataFrame(
        {"patient_id": ["A", "A", "Z"], "study": ["t0", "t1", "t0"], "modality": "MR", "volume": [1, 3, 9]}
    ).to_csv(tmp_path / "rad" / "results.csv", index=False)
    records, report = build_records(
        slides=read_slide_results(slides), imaging=read_radiology_results(tmp_path / "rad"), clinical=clinical
    )
    assert [r.patient_id for r in records] == ["A", "B", "C", "D", "Z", "c"]
    assert (report.patients, report.with_slides, report.with_imaging, report.with_clinical) == (6, 3, 2, 4)
    assert report.complete == 1
    assert report.slides_without_patient == ("s4",)
    assert report.only_in_slides == ("c",)
    assert report.only_in_imaging == ("Z",)
    assert report.only_in_clinical == ("C", "D")
    assert report.lookalikes == ("C / c",)
    assert report.columns_outside_vocabulary == ("doctor",)
    assert ("columns outside the vocabulary", ("doctor",)) in report.findings()
    assert all(entries for _, entries in report.findings())
    b = records[1]
    assert b.notes == ("no imaging for this patient", "1 of 1 slides could not be scored")
    assert "age_years" not in b.clinical

    table = patient_table(records).set_index("patient_id")
    a = table.loc["A"]
    assert a["slide.p_LMS"] == pytest.approx(0.6)
    assert a["slide.tissue_mm2"] == 30
    assert a["slide.quality.pen"] == 4.5
    assert a["slide.share_LMS"] == pytest.approx(0.5)
    assert a["imaging.volume"] == 2
    assert (a["slides.total"], a["slides.scored"], a["imaging.studies"]) == (2, 2, 2)
    assert pd.isna(table.loc["B", "slide.p_LMS"])
    table.to_parquet(tmp_path / "t.parquet")

    write_folder(tmp_path / "out", records, report, [summarise_record(r) for r in records])
    assert read_record(tmp_path / "out" / "patients" / "A" / "record.json") == records[0]
    page = (tmp_path / "out" / "patients" / "A" / "patient.html").read_text()
    assert "Research use only" in page
    assert "0.800" in page
    assert "C / c" in (tmp_path / "out" / "index.html").read_text()


def test_pseudonyms_hide_ids_dates_texts_and_paths(slides, clinical, tmp_path):
    key = tmp_path / "key"
    pseudonyms = Pseudonyms.from_file(key)
    records, report = build_records(slides=read_slide_results(slides), clinical=clinical, pseudonyms=pseudonyms)
    write_folder(tmp_path / "out", records, report, [summarise_record(r) for r in records])
    assert report.dropped_for_hashing == ("diagnosis_date", "doctor")
    a = next(r for r in records if r.patient_id == Pseudonyms.from_file(key).of("A"))
    assert a.hashed
    assert a.clinical == {"age_years": 60.0}
    assert a.slides[0].slide_id == pseudonyms.of("s1")
    written = "".join(p.read_text() for p in (tmp_path / "out").rglob("*") if p.is_file())
    for secret in ("secret", "Dr X", "2020-01-01", '"s1"', '"A"', "truncated"):
        assert secret not in written
    assert [r.patient_id for r in records] == sorted(r.patient_id for r in records)


class TestPseudonyms:
    def test_same_key_same_name(self, tmp_path):
        first = Pseudonyms.from_file(tmp_path / "k")
        assert first.of("A") == Pseudonyms.from_file(tmp_path / "k").of("A")
        assert first.of("A") != first.of("B")
        assert first.of("A") != Pseudonyms.from_file(tmp_path / "other").of("A")
        assert (tmp_path / "k").stat().st_mode & 0o077 == 0

    def test_equals_the_standard(self):
        # RFC 4231, test case 6, has a key of 131 bytes 0xaa.
        message = "Test Using Larger Than Block-Size Key - Hash Key First"
        assert Pseudonyms(b"\xaa" * 131).of(message) == "P60e431591ee0b67f"

    def test_bad_keys(self, tmp_path):
        with pytest.raises(UsageError, match="at least 32"):
            Pseudonyms(b"short")
        (tmp_path / "k").write_text("not hex")
        with pytest.raises(UsageError, match="does not contain a valid key"):
            Pseudonyms.from_file(tmp_path / "k")
        with pytest.raises(OutputError):
            Pseudonyms.from_file(tmp_path / "none" / "k")


def test_folders_have_harmless_names():
    assert PatientRecord(patient_id="STS_001").folder == "STS_001"
    odd = PatientRecord(patient_id="../../etc/passwd").folder
    assert "/" not in odd
    assert "." not in odd
    assert PatientRecord(patient_id="a b").folder != PatientRecord(patient_id="a/b").folder


def test_the_page_names_things_for_people():
    slide = PatientSlide(
        slide_id="s",
        status="scored",
        findings={"mitoses.total": 48.0, "mitoses.hotspot.x": 3674.0, "share_necrosis": 0.25, "own": 2.0},
    )
    failed = PatientSlide(slide_id="f", status="failed", error="the file is cut off.")
    record = PatientRecord(patient_id="x", clinical={"age_years": 61.0, "extra": "yes"}, slides=(slide, failed))
    page = patient_page(record)
    for text in ("Age at diagnosis, years", "extra", "Mitotic count", "Tissue fraction predicted necrosis", "own"):
        assert text in page
    assert "3674" not in page
    assert "cut off.<" in page


def test_pages_escape_what_they_are_given(tmp_path):
    evil = "<script>alert(1)</script>"
    record = PatientRecord(
        patient_id="x",
        clinical={"histology": evil},
        slides=(PatientSlide(slide_id=evil, status="scored", prediction=evil),),
        imaging=(ImagingStudy(study=evil, findings={evil: 1.0}),),
    )
    _, report = build_records(slides=[("x", record.slides[0])])
    write_folder(tmp_path, [record], report, [summarise_record(record)])
    for page in tmp_path.rglob("*.html"):
        assert evil not in page.read_text()


def test_broken_inputs_say_so(slides, tmp_path):
    with pytest.raises(UsageError, match="no source to build"):
        build_records()
    with pytest.raises(InputTableError, match="file not found"):
        read_slide_results(tmp_path / "none")
    with pytest.raises(InputTableError, match="cannot read the patient record"):
        read_record(tmp_path / "none.json")
    (slides / "slides" / "s1" / "slide.json").write_text("{")
    with pytest.raises(InputTableError, match="slide record is damaged"):
        read_slide_results(slides)
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputTableError, match="missing column patient_id"):
        read_radiology_results(tmp_path)

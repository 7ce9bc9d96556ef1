"""Patients' pages beside the slides: found by id, and nothing else of their folder served."""

import json

import pytest

from pathology.errors import StoreError
from pathology.patient.pages import write_folder
from pathology.patient.patient_summary import summarise_record
from pathology.patient.record import PatientSlide, build_records
from pathology.viewer.batch import Batch
from pathology.viewer.records import PatientPages
from pathology.viewer.server import ViewerServer


@pytest.fixture
def records(tmp_path):
    """Records of the constructed slides' patient and of one with an awkward name."""
    summary = PatientSlide(slide_id="square", status="scored", prediction="stroma", probabilities={"stroma": 0.7})
    found, report = build_records(slides=[("patient 1", summary), ("a/../b", summary)])
    write_folder(tmp_path / "records", found, report, [summarise_record(record) for record in found])
    (tmp_path / "records" / "secret.txt").write_text("secret")
    return tmp_path / "records"


@pytest.fixture
def linked(template, records, client):
    server = ViewerServer(Batch([template / "first"], patients=records), None)
    server.start()
    try:
        yield type(client)(server)
    finally:
        server.close()


def test_slides_link_to_their_patients_page(linked):
    rows = linked("api/batch").json["slides"]
    address = next(row["patient_record"] for row in rows if row["id"] == "square")
    assert linked("api/about/0/square").json["patient_record"] == address
    page = linked(f"records/{address}")
    assert page.status == 200
    assert b"Patient patient 1" in page.body
    assert "sandbox" in page.headers["Content-Security-Policy"]
    folder = address.rsplit("/", 1)[0]
    assert b"Research use only" in linked(f"records/{folder}/summary.html").body
    assert linked(f"records/{folder}/record.json").json["patient_id"] == "patient 1"
    # The links of the pages hold as they are.
    assert b"patients/" in linked("records/index.html").body


@pytest.mark.parametrize(
    "path",
    [
        "records",
        "records/secret.txt",
        "records/patients",
        "records/patients/..%2f..%2f/record.json",
        "records/patients/../index.html",
        "records/patients/nobody/patient.html",
        "records/..%2fsecret.txt",
        "records/patients.parquet",
    ],
)
def test_nothing_else_is_served(linked, path):
    assert linked(path).status in (400, 404)


def test_without_records_there_is_no_link(shared):
    assert {row["patient_record"] for row in shared("api/batch").json["slides"]} == {None}
    assert shared("records/index.html").status == 404


def test_folders_that_hold_no_records_are_refused(tmp_path, records):
    with pytest.raises(StoreError, match="not a folder of patient records"):
        PatientPages(tmp_path)
    record = next(records.glob("patients/*/record.json"))
    record.write_text(json.dumps({"name": "x"}))
    with pytest.raises(StoreError, match="damaged"):
        PatientPages(records)


def test_a_patient_nobody_knows_has_no_page(records):
    pages = PatientPages(records)
    assert pages.address(None) is None
    assert pages.address("patient 2") is None
    assert pages.address("a/../b").startswith("patients/a-b-")

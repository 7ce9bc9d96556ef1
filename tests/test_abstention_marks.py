"""A scored, an abstained and a failed slide in every output: the same three words, one prediction, every warning."""

import csv
import json

import numpy as np
import pydicom
import pytest
import zarr

from pathology.outputs.export.exports import FORMATS, export_batch, export_slide
from pathology.outputs.export.geojson import read_objects
from pathology.outputs.reports.batch import IndexEntry, batch_report
from pathology.outputs.results.results_folder import open_results
from pathology.outputs.results.tables import read_results
from pathology.patient.record import read_slide_results
from pathology.testing.constructed_results import write_constructed_results
from pathology.viewer.batch import Batch

STATUSES = {"answered": "scored", "unsure": "abstained", "broken": "failed"}

WARNING = "3 of 90 patches could not be read"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("marks") / "out"
    write_constructed_results(
        out, slide_ids=("answered",), abstained=("unsure",), failed=("broken",), warnings=[WARNING]
    )
    return open_results(out)


def by_name(rows):
    return {row["slide_id"]: row for row in rows}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_tables(results, ending):
    rows = by_name(read_results(results.folder / f"results.{ending}").to_dict("records"))
    assert {name: row["status"] for name, row in rows.items()} == STATUSES
    assert rows["answered"]["prediction"] == "stroma"
    for name in ("unsure", "broken"):
        assert not isinstance(rows[name]["prediction"], str)
    assert rows["unsure"]["most_probable_class"] == "stroma"
    assert "below the model's limit" in rows["unsure"]["abstained_because"]


def test_the_records(results):
    for name, status in STATUSES.items():
        record = json.loads((results[name].folder / "slide.json").read_text())
        assert record["status"] == status
        assert (record["prediction"] is not None) == (status == "scored")


def test_the_excel_sheet(results, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.load_workbook(export_batch(results, "excel", tmp_path))
    head, *rows = [[cell.value for cell in row] for row in book["Slides"].iter_rows()]
    book.close()
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert {name: row["Status"] for name, row in found.items()} == STATUSES
    assert found["unsure"]["Prediction"] in (None, "")
    assert found["unsure"]["Most probable class"] == "stroma"


@pytest.mark.parametrize("name", ["geojson", "patches"])
def test_qupath_sees_the_mark(results, tmp_path, name):
    pages = {s: export_slide(results[s], name, tmp_path).read_text() for s in ("answered", "unsure")}
    assert "model abstained" in pages["unsure"]
    assert "abstained" not in pages["answered"]
    assert "model abstained" in (results["unsure"].folder / "annotations.geojson").read_text()


def test_maps_carry_the_mark(results, tmp_path):
    for name in ("answered", "unsure"):
        marked = name == "unsure"
        for path in (results[name].folder / "heatmap.ome.zarr", export_slide(results[name], "ome-zarr", tmp_path)):
            image = dict(zarr.open_group(path, mode="r").attrs)["ome"]["multiscales"][0]["name"]
            assert ("model abstained" in image) == marked
        with np.load(export_slide(results[name], "npz", tmp_path)) as saved:
            assert str(saved["status"]) == STATUSES[name]
            assert bool(str(saved["abstained_because"])) == marked
        written = export_slide(results[name], "ome-tiff", tmp_path).read_bytes()
        assert (b"model abstained" in written) == marked


@pytest.mark.parametrize("name", ["dicom-regions", "dicom-probabilities", "dicom-report"])
def test_dicom_carries_the_mark(results, tmp_path, name):
    pytest.importorskip("highdicom")
    for slide in ("answered", "unsure"):
        dataset = pydicom.dcmread(export_slide(results[slide], name, tmp_path))
        assert ("model abstained" in dataset.SeriesDescription) == (slide == "unsure")
        for segment in dataset.get("SegmentSequence", ()):
            assert ("model abstained" in segment.SegmentLabel) == (slide == "unsure")


def test_reports(results, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    for name, status in STATUSES.items():
        page = " ".join((results[name].folder / "report.html").read_text().split())
        path = export_slide(results[name], "pdf", tmp_path)
        printed = " ".join(" ".join(sheet.extract_text() for sheet in pypdf.PdfReader(path).pages).split())
        for said in (page, printed):
            assert ("model abstained" in said) == (status == "abstained")
            assert ("not scored" in said) >= (status == "failed")
            assert ("not a prediction" in said) == (status == "abstained")


def test_the_batch_counts_add_up(results, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    entries = [IndexEntry(slide.record, None, None) for slide in results]
    page = batch_report(entries, results["answered"].card)
    for words in ("<b>1</b>scored", "<b>1</b>abstained", "<b>1</b>failed", "stroma: 1"):
        assert words in page
    path = export_batch(results, "batch-pdf", tmp_path)
    printed = " ".join(" ".join(sheet.extract_text() for sheet in pypdf.PdfReader(path).pages).split())
    assert "Scored 1" in printed
    assert "Abstained 1" in printed
    assert "Failed 1" in printed


def test_the_viewer(results):
    view = Batch([results.folder])
    try:
        rows = {row["id"]: row for row in view.overview()["slides"]}
    finally:
        view.close()
    assert {name: row["status"] for name, row in rows.items()} == STATUSES
    assert rows["unsure"]["prediction"] is None
    assert rows["unsure"]["reason"]


def test_the_patient_record(results):
    found = {slide.slide_id: slide for _, slide in read_slide_results(results.folder)}
    assert {name: slide.status for name, slide in found.items()} == STATUSES
    assert found["unsure"].prediction is None
    assert found["unsure"].abstained_because


def test_every_format_writes_an_abstained_slide(results, tmp_path):
    pytest.importorskip("highdicom")
    for name, kind in FORMATS.items():
        if kind.needs != "detections":
            assert export_slide(results["unsure"], name, tmp_path).exists()


def test_the_table_is_plain_csv(results):
    with (results.folder / "results.csv").open(newline="") as file:
        rows = by_name(csv.DictReader(file))
    assert rows["unsure"]["status"] == "abstained"
    assert rows["unsure"]["prediction"] == ""


def test_every_output_carries_the_warning(results, tmp_path):
    """A caveat known in one place must not be lost in the next."""
    pypdf, openpyxl = pytest.importorskip("pypdf"), pytest.importorskip("openpyxl")
    pytest.importorskip("highdicom")
    slide = results["answered"]
    assert json.loads((slide.folder / "slide.json").read_text())["warnings"] == [WARNING]
    for ending in ("csv", "parquet"):
        rows = by_name(read_results(results.folder / f"results.{ending}").to_dict("records"))
        assert [rows[name]["warnings"] for name in ("answered", "unsure")] == [WARNING, WARNING]
    book = openpyxl.load_workbook(export_batch(results, "excel", tmp_path))
    assert WARNING in [cell.value for row in book["Slides"].iter_rows() for cell in row]
    book.close()
    annotations = slide.folder / "annotations.geojson"
    for path in (annotations, *(export_slide(slide, name, tmp_path) for name in ("geojson", "patches"))):
        collection = json.loads(path.read_text())
        assert collection["warnings"] == [WARNING]
        drawn = [f["properties"] for f in collection["features"] if f["properties"]["objectType"] == "annotation"]
        assert all(properties["metadata"] == {"Warnings": WARNING} for properties in drawn)
        assert len(list(read_objects(path))) == len(collection["features"])
    for path in (slide.folder / "heatmap.ome.zarr", export_slide(slide, "ome-zarr", tmp_path)):
        assert zarr.open_group(path, mode="r").attrs["warnings"] == [WARNING]
    with np.load(export_slide(slide, "npz", tmp_path)) as saved:
        assert saved["warnings"].tolist() == [WARNING]
    assert WARNING.encode() in export_slide(slide, "ome-tiff", tmp_path).read_bytes()
    for name in ("dicom-tissue", "dicom-regions", "dicom-probabilities", "dicom-report"):
        assert WARNING.encode() in export_slide(slide, name, tmp_path).read_bytes()
    sheets = pypdf.PdfReader(export_slide(slide, "pdf", tmp_path)).pages
    assert WARNING in " ".join(" ".join(sheet.extract_text() for sheet in sheets).split())
    assert WARNING in (slide.folder / "report.html").read_text()
    view = Batch([results.folder])
    try:
        assert view.about(0, "answered")["warnings"] == [f"{WARNING}."]
    finally:
        view.close()
    found = {one.slide_id: one for _, one in read_slide_results(results.folder)}
    assert found["answered"].warnings == (WARNING,)

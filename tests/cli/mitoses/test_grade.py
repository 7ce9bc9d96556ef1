"""``pathology grade``, as a user meets it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pathology.cli.mitoses.grade import app
from pathology.errors import UsageError
from pathology.findings.detections import Detections
from pathology.findings.grading.assessment import MissingInputsError
from pathology.findings.hotspot import HotspotWindow
from pathology.findings.slide_detections import Decision, DetectionClass, DetectionHeader, SlideDetections
from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.detection_file import DETECTIONS, write_decisions, write_detections
from pathology.outputs.results.record import write_slide_record
from pathology.outputs.results.results_folder import open_slide_folder
from pathology.testing.constructed_results import write_constructed_results

COMPLETE = ["fnclcc", "--histotype", "LMS", "--confirmed", "--necrosis", "10", "--untreated"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_a_grade_with_its_table_rows():
    result = run(*COMPLETE, "--mitoses", "21", "--area", "1.734")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("FNCLCC: grade 3")
    assert "NCI PDQ" in result.output
    assert "Research use only" in result.output


def test_json():
    result = run(*COMPLETE, "--mitoses", "5", "--area", "2.37", "--json")
    record = json.loads(result.output)
    assert record["result"] == "grade 2"
    assert [part["name"] for part in record["parts"]] == ["differentiation", "mitoses", "necrosis", "sum"]


def test_what_is_missing_is_asked_for():
    result = run("fnclcc", "--histotype", "LMS")
    assert isinstance(result.exception, MissingInputsError)
    assert len(result.exception.missing) == 4
    assert isinstance(run("uterine").exception, MissingInputsError)
    assert isinstance(run("ajcc", "--size", "7").exception, MissingInputsError)


def test_mitoses_need_their_area():
    assert "area" in str(run(*COMPLETE, "--mitoses", "5").exception)
    assert isinstance(run(*COMPLETE, "--mitoses", "5", "--area", "0").exception, UsageError)


def test_uterine_and_stage():
    uterine = run(
        *["uterine", "--site", "uterus", "--subtype", "spindle", "--tumour-cell-necrosis"],
        *["--atypia", "diffuse moderate to severe", "--mitoses", "3", "--area", "2.37"],
    )
    assert "leiomyosarcoma" in uterine.output
    stage = run("ajcc", "--site", "trunk", "--size", "7", "--nodes", "N0", "--metastasis", "M0", "--grade", "2")
    assert stage.output.startswith("AJCC 8, trunk and extremities: stage IIIA")


@pytest.fixture
def slide_folder(tmp_path):
    """A scored slide with twelve candidates in one place."""
    corner = np.stack([np.arange(12) * 100, np.zeros(12)], 1)
    boxes = np.concatenate([corner, corner + 50], 1).astype(np.float32)
    header = DetectionHeader(
        slide_id="one",
        model="detector 1.0.0",
        model_sha256="0" * 64,
        classes=(DetectionClass(name="mitosis", colour="#ff0000"),),
        threshold=0.5,
        window=HotspotWindow(area_mm2=1.734),
    )
    detections = SlideDetections(header, Detections(boxes, np.full(12, 0.9, np.float32)), np.zeros(12, np.uint8))
    write_detections(tmp_path, detections)
    record = SlideResult(
        slide_id="one", path="one.svs", status="scored", model="m", model_sha256="0" * 64, mpp=0.25, tissue_mm2=50.0
    )
    write_slide_record(tmp_path, record, [tmp_path / DETECTIONS])
    return tmp_path, detections


def mitotic_part(folder, *options):
    record = json.loads(run(*COMPLETE, "--slide", str(folder), "--json", *options).output)
    return next(part for part in record["parts"] if part["name"] == "mitoses")


def test_the_count_of_a_scored_slide(slide_folder):
    folder, detections = slide_folder
    refused = run(*COMPLETE, "--slide", str(folder)).exception
    assert isinstance(refused, UsageError)
    assert "unreviewed detections in the count: 12 of 12" in str(refused)
    part = mitotic_part(folder, "--accept-unreviewed")
    assert part["value"].startswith("12 in 1.734")
    assert (part["result"], part["origin"]) == ("2", "model")
    decisions = [Decision.on(detections, row, "rejected" if row < 4 else "accepted") for row in range(12)]
    write_decisions(folder, detections, decisions)
    part = mitotic_part(folder)
    assert part["value"].startswith("8 in 1.734")
    assert (part["result"], part["origin"]) == ("1", "pathologist")
    assert isinstance(run(*COMPLETE, "--slide", str(folder), "--mitoses", "3").exception, UsageError)


def test_a_slide_without_detections(tmp_path):
    out = write_constructed_results(tmp_path / "out", dimensions=(500, 400), square=(1, 1, 2, 2))
    assert "no detections" in str(run(*COMPLETE, "--slide", str(out / "slides" / "square")).exception)
    assert "not the results of a slide" in str(run(*COMPLETE, "--slide", str(tmp_path)).exception)


def test_the_density_of_a_grade_is_of_tissue(tmp_path):
    """Of a window with a tenth of tissue, the tissue is what the count rests on; with less than a field, nothing is."""
    out = write_constructed_results(tmp_path / "out", dimensions=(2000, 1600), detections=30)
    folder = out / "slides" / "square"
    slide = open_slide_folder(folder)
    count = slide.count()
    spot = count.hotspot
    assert spot.tissue_share < 0.5
    assert spot.per_mm2 == pytest.approx(spot.count / spot.tissue_mm2)
    graded = run(*COMPLETE, "--slide", str(folder), "--accept-unreviewed")
    assert f"{spot.count} in {spot.tissue_mm2:g} mm² = {spot.per_mm2:.2f} per mm²" in graded.output
    assert f"in {spot.tissue_mm2:.3g} mm² of tissue, in a window of 1.73 mm²; 0 of {spot.count} det" in graded.output
    small = write_constructed_results(tmp_path / "small", dimensions=(600, 500), square=(1, 1, 2, 2), detections=10)
    refused = run(*COMPLETE, "--slide", str(small / "slides" / "square"), "--accept-unreviewed").exception
    assert "less than one high-power field" in str(refused)

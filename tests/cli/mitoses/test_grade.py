"""``pathology grade``, as a user meets it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from pathology.bundle.catalogue import load_bundle
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
from pathology.scoring.batch import score
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


def test_an_added_mitosis_counts_and_an_abstention_is_said(slide_folder):
    folder, detections = slide_folder
    decisions = [Decision.on(detections, row, "accepted") for row in range(12)]
    write_decisions(folder, detections, [*decisions, Decision.adding(12, 550.0, 60.0)])
    part = mitotic_part(folder)
    assert part["value"].startswith("13 in 1.734")
    assert part["origin"] == "pathologist"
    because = "outside this model's training domain: score 4.4, limit 0.7"
    record = open_slide_folder(folder).record
    changes = {"status": "abstained", "abstained_because": because}
    write_slide_record(folder, record.model_copy(update=changes), [folder / DETECTIONS])
    assert f"the model abstained ({because})" in run(*COMPLETE, "--slide", str(folder)).output


@pytest.mark.slow
def test_a_real_slide_with_little_tissue(cmu_slide, tmp_path):
    """Read as if at 0.25 µm per pixel it has a tenth of the window's area in tissue: 2 mitoses are 10.9, not 1.2."""
    model = load_bundle("mitosis-yolov4").directory
    (result,) = score(cmu_slide, model, tmp_path / "out", mpp=0.25, engine="torch", device="cpu").slides
    folder = str(tmp_path / "out" / "slides" / result.slide_id)
    assert result.status == "abstained"
    refused = run(*COMPLETE, "--slide", folder).exception
    assert isinstance(refused, UsageError)
    assert "unreviewed detections in the count: 2 of 2" in str(refused)
    graded = " ".join(run(*COMPLETE, "--slide", folder, "--accept-unreviewed").output.split())
    assert "mm² = 10.93 per mm²" in graded
    assert "2 in 0.183 mm² of tissue, in a window of 1.73 mm²; 0 of 2 detections reviewed; the model abst" in graded


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

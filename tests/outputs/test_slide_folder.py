"""Writing a finished answer: the same answer gives the same bytes, and nothing is decided on the way."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pathology.outputs.results.results_folder import open_slide_folder
from pathology.outputs.slide_folder import write_slide
from pathology.scoring.aggregate import ClassifierOutputs
from pathology.scoring.decide import SlideFacts, decide_classified, decide_detected
from pathology.scoring.detections import DetectorOutputs
from pathology.settings import GridSettings
from pathology.testing.array_reader import ArrayReader
from pathology.testing.constructed_results import constructed_card, random_detections, square_picture
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles

DIMENSIONS = (1200, 900)


@pytest.fixture(scope="module")
def facts():
    grid = Grid(GridSettings(patch=64, mpp=1.0, stride=64, min_tissue=0.3, block=512), DIMENSIONS, 0.5)
    pixels = square_picture(grid)
    mask = pixels[::16, ::16, 1] < 200
    plan = plan_tiles(grid, TissueShare(mask, DIMENSIONS))
    record = {
        "slide_id": "s",
        "path": "/slides/s.tiff",
        "model": "constructed 1.0.0",
        "model_sha256": "0" * 64,
        "mpp": 0.5,
        "width": DIMENSIONS[0],
        "height": DIMENSIONS[1],
        "tissue_mm2": float(mask.mean()) * 1200 * 900 * 0.25e-6,
    }
    return SlideFacts(record, plan, pixels[::2, ::2].copy(), {"tissue": mask, "pen": mask}), pixels


def classified(facts):
    known, pixels = facts
    random = np.random.default_rng(0).dirichlet((1, 1), len(known.plan)).astype(np.float32)
    random[3] = np.nan
    attention = np.where(np.isnan(random[:, 0]), np.nan, random[:, 1])
    found = ClassifierOutputs(random, attention=attention, domain_scores=attention)
    return decide_classified(constructed_card(), known, found, ArrayReader(pixels))


def detected(facts):
    known, pixels = facts
    card = constructed_card(classes=("mitosis",))
    outputs = np.random.default_rng(1).random((len(known.plan), 10)).astype(np.float32)
    many = random_detections("s", DIMENSIONS, 40)
    return decide_detected(card, known, DetectorOutputs(outputs), many, ArrayReader(pixels))


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("decide", [classified, detected])
def test_the_same_answer_gives_the_same_bytes(facts, decide, tmp_path):
    scored = decide(facts)
    write_slide(tmp_path / "first", scored)
    write_slide(tmp_path / "second", scored)
    first = files(tmp_path / "first")
    assert first == files(tmp_path / "second")
    assert {"slide.json", "report.html", "annotations.geojson", "overlay.png", "card.json"} <= set(first)
    # Written over itself, too.
    write_slide(tmp_path / "first", scored)
    assert files(tmp_path / "first") == first


def test_the_answer_is_whole_before_it_is_written(facts):
    of_class, of_detector = classified(facts), detected(facts)
    assert of_class.result.patches == len(of_class.plan) - 1
    assert of_class.representative
    assert of_detector.result.mitoses.hotspot.tissue_share is not None
    assert [crop.row for crop in of_detector.crops]
    assert of_detector.result.prediction is None


def test_more_detections_than_mitoses_can_be_are_counted_and_said(facts):
    known, _ = facts
    many = random_detections("s", DIMENSIONS, 60_000)
    outputs = np.zeros((len(known.plan), 10), np.float32)
    result = decide_detected(constructed_card(classes=("mitosis",)), known, DetectorOutputs(outputs), many).result
    assert result.mitoses.total == int(many.counted().sum()) > 20_000
    assert result.mitoses.hotspot is None
    assert "an implausible number" in result.warnings[-1]


def test_writing_needs_no_reader_no_engine_and_no_catalogue():
    """What the import contract says of the code holds of the running program as well."""
    code = (
        "import sys, pathology.outputs.slide_folder;"
        "bad = [m for m in sys.modules if m.startswith(('pathology.slide.open', 'pathology.inference',"
        " 'pathology.bundle.catalogue', 'pathology.scoring', 'torch', 'openvino'))];"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_density_is_of_the_tissue_that_could_be_read(facts, tmp_path):
    known, pixels = facts
    known = replace(known, record={**known.record, "unreadable_tiles": 7}, max_unreadable=0.9)
    card = constructed_card(classes=("mitosis",))
    outputs = np.zeros((len(known.plan), 10), np.float32)
    outputs[known.plan.coords[:, 0] < DIMENSIONS[0] // 2] = np.nan
    found = random_detections("s", DIMENSIONS, 40)
    scored = decide_detected(card, known, DetectorOutputs(outputs), found, ArrayReader(pixels))
    count, whole = scored.result.mitoses, known.record["tissue_mm2"]
    assert 0.4 * whole < count.tissue_mm2 < 0.65 * whole
    assert count.overall_per_mm2 == pytest.approx(count.total / count.tissue_mm2)
    assert any("was not examined" in warning for warning in scored.result.warnings)
    write_slide(tmp_path / "slides" / "s", scored)
    stored = open_slide_folder(tmp_path / "slides" / "s").count()
    assert stored.tissue_mm2 == pytest.approx(count.tissue_mm2)
    assert stored.per_mm2 == pytest.approx(count.overall_per_mm2)

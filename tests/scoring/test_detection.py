"""Slides scored by a detector: each object once, the same whoever computes it, and a report that says what it is."""

import json

import numpy as np
import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.findings.detections import Detections, suppress
from pathology.outputs.export.geojson import read_geojson
from pathology.outputs.results.detection_file import read_detections
from pathology.outputs.results.tables import read_results
from pathology.progress import SilentProgress
from pathology.scoring.batch import score
from pathology.scoring.detections import patch_scores, slide_detections
from pathology.settings import GridSettings, ScoreSettings
from pathology.testing.random_detector import write_random_detector
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return load_bundle(write_random_detector(tmp_path_factory.mktemp("models") / "random-detector")).directory


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    picture = TissuePicture(900, 700, seed=3, tissue=0.8)
    return write_svs(tmp_path_factory.mktemp("slides") / "one.svs", picture, factors=(1,), mpp=0.25)


@pytest.fixture(scope="module")
def scored(detector, slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    result = score(slide, detector, out, engine="torch", device="cpu", settings=ScoreSettings(block=512))
    assert [r.status for r in result.slides] == ["scored"], result.slides[0].error
    return out / "slides" / "one"


def test_the_record_is_a_count(scored):
    record = json.loads((scored / "slide.json").read_text())
    assert record["prediction"] is None
    assert record["classes"] == []
    found = record["mitoses"]
    detections = read_detections(scored)
    assert found["candidates"] == len(detections) > 20
    assert found["total"] == int(detections.counted().sum())
    assert found["hotspot"]["count"] == len(found["hotspot"]["members"])
    assert detections.header.threshold == found["threshold"] == 0.5
    assert record["tissue_mm2"] > 0
    assert found["overall_per_mm2"] == pytest.approx(found["total"] / record["tissue_mm2"])


def test_the_line_of_the_slide_says_the_count(detector, slide, tmp_path):
    said = []

    class Saying(SilentProgress):
        def finished(self, slide_id, outcome, *, failed):
            said.append(outcome.split(" (")[0])

    settings = ScoreSettings(block=512)
    found = score(slide, detector, tmp_path, engine="torch", device="cpu", settings=settings, progress=Saying())
    assert said == [found.slides[0].finding]


def test_every_object_once_in_level_0_pixels(scored):
    found = read_detections(scored).found
    np.testing.assert_array_equal(suppress(found, distance=15).boxes, found.boxes)
    centres = found.centres
    assert (centres >= 0).all()
    assert (centres < (900, 700)).all()
    assert (np.diff(found.scores) <= 0).all()


def test_blocks_and_workers_change_nothing(detector, slide, scored, tmp_path):
    other = tmp_path / "other"
    score(slide, detector, other, engine="torch", device="cpu", workers=2, settings=ScoreSettings(block=1024))
    first, second = read_detections(scored), read_detections(other / "slides" / "one")
    np.testing.assert_array_equal(first.found.boxes, second.found.boxes)
    np.testing.assert_array_equal(first.found.scores, second.found.scores)


def test_the_report_shows_count_hotspot_gallery_and_what_a_grade_lacks(scored):
    page = (scored / "report.html").read_text()
    found = json.loads((scored / "slide.json").read_text())["mitoses"]
    assert "Mitotic count, not reviewed" in page
    assert f"{found['hotspot']['per_mm2']:.1f} per mm²" in page
    assert "0.1734 mm²" in page
    assert "The hotspot is outlined in red" in page
    assert page.count('alt="Candidate ') == min(60, found["hotspot"]["count"])
    assert "confirmation of the histotype" in page
    assert "Research use only" in page


def test_what_qupath_gets(scored):
    features = list(read_geojson(scored / "annotations.geojson"))
    kinds = [feature.classification for feature in features]
    assert kinds.count("hotspot") == 1
    assert len([f for f in features if f.kind == "detection"]) == len(read_detections(scored))


def plan_of(width, height, patch=100, stride=80):
    settings = GridSettings(patch=patch, stride=stride, mpp=0.25, min_tissue=0, block=256)
    grid = Grid(settings, (width, height), 0.25)
    return plan_tiles(grid, TissueShare(np.ones((4, 4), bool), (width, height)))


def test_one_object_seen_by_four_patches_counts_once(detector):
    card = load_bundle(detector).card
    plan = plan_of(180, 180)
    assert len(plan.coords) == 4
    outputs = np.zeros((4, 3, 5), np.float32)
    for index, (x, y) in enumerate(plan.coords):
        # The same square about (90, 90), cut where the patch ends.
        box = np.clip(np.array([78 - x, 78 - y, 102 - x, 102 - y]), 0, 100)
        outputs[index, 0] = (*box, 0.9 - 0.1 * index)
    found = slide_detections(card, plan, outputs.reshape(4, -1), slide_id="s", fingerprint="f")
    assert found.found.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_allclose(patch_scores(outputs.reshape(4, -1))[:, 0], [0.9, 0.8, 0.7, 0.6], atol=1e-6)


def test_unreadable_patches_and_boxes_beyond_the_slide(detector):
    card = load_bundle(detector).card
    plan = plan_of(130, 90)
    outputs = np.zeros((len(plan.coords), 2, 5), np.float32)
    outputs[0] = np.nan
    outputs[1, 0] = (80, 10, 99, 30, 0.9)
    outputs[1, 1] = (10, 10, 30, 30, 0.8)
    flat = outputs.reshape(len(outputs), -1)
    found = slide_detections(card, plan, flat, slide_id="s", fingerprint="f").found
    assert found.centres.tolist() == [[100, 20]]
    assert np.isnan(patch_scores(flat)[0])
    assert len(Detections.none()) == 0


@pytest.mark.parametrize(("limit", "status"), [(1e-6, "abstained"), (1e9, "scored")])
def test_a_count_outside_the_training_domain_says_so_everywhere(slide, tmp_path, limit, status):
    folder = write_random_detector(tmp_path / "detector", domain_limit=limit)
    settings = ScoreSettings(block=512)
    (result,) = score(slide, folder, tmp_path / "out", engine="torch", device="cpu", settings=settings).slides
    assert (result.status, result.out_of_domain) == (status, status == "abstained")
    assert result.domain_score > 0
    assert result.mitoses.total >= 0
    out = tmp_path / "out" / "slides" / "one"
    row = read_results(tmp_path / "out" / "results.csv").iloc[0]
    assert (row["status"], row["domain_score"]) == (status, pytest.approx(result.domain_score))
    hotspot = next(f for f in read_geojson(out / "annotations.geojson") if f.classification == "hotspot")
    page = " ".join((out / "report.html").read_text(encoding="utf-8").split())
    for said in (hotspot.name, page):
        assert ("model abstained" in said) == (status == "abstained")
    assert ("Outside this model" in page) == (status == "abstained")

"""Reviews made in QuPath: what becomes of every object, and where added mitoses count."""

import csv
import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from pathology.cli.app import app
from pathology.errors import StoreError, UsageError
from pathology.findings.detections import Detections
from pathology.findings.reviewed_count import count_reviewed
from pathology.findings.slide_detections import DetectionClass, DetectionHeader, SlideDetections
from pathology.outputs.export.annotations import detection_features
from pathology.outputs.export.detection_table import read_detection_table, write_detection_table
from pathology.outputs.export.geojson import Feature, read_objects, rectangle
from pathology.outputs.export.qupath_review import read_review
from pathology.outputs.results.detection_file import read_decisions, read_detections, write_decisions
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results
from pathology.viewer.batch import SlideView

BOXES = [
    (466.586, 320.029, 515.16, 367.56),
    (117.192, 97.126, 167.696, 147.759),
    (120.617, 318.149, 172.556, 371.252),
    (118.343, 544.621, 168.437, 596.138),
    (464.527, 99.915, 515.818, 150.498),
]
"""The detections that the test files were exported from."""


@pytest.fixture
def detections():
    header = DetectionHeader(
        slide_id="s",
        model="m 1",
        model_sha256="0" * 64,
        classes=(DetectionClass(name="mitosis", colour="#d7191c"),),
        threshold=0.5,
    )
    scores = np.array([0.999966, 0.99961, 0.999454, 0.999106, 0.995873], np.float32)
    return SlideDetections(header, Detections(np.array(BOXES, np.float32), scores), np.zeros(5, np.uint8))


def accepted_class(name, **changes):
    return Feature((rectangle(600, 600, 650, 650),), classification=name, **changes)


CASES = {
    "added_polygon": (1, 5, 0, 6),
    "as_is": (0, 5, 0, 5),
    "bom_crlf": (0, 5, 0, 5),
    "class_string": (0, 5, 0, 5),
    "colorRGB": (0, 5, 0, 5),
    "compressed": (0, 5, 0, 5),
    "derived": (0, 5, 0, 5),
    "list": (0, 5, 0, 5),
    "nan": (0, 5, 0, 5),
    "no_class": (0, 4, 1, 5),
    "no_ids": (0, 5, 0, 5),
    "null_class": (0, 4, 1, 5),
    "odd_geometry": (0, 5, 0, 5),
    "old_qupath_ids": (0, 5, 0, 5),
    "text_measurement": (0, 5, 0, 5),
}
"""Per file: mitoses added, objects unchanged, objects not understood, mitoses counted afterwards."""

REFUSED = {
    "empty_polygon": "none of this slide's detections",
    "ignore": "none of this slide's detections",
    "selected_only": "4 of this slide's 5 detections are not in the file",
}


def as_exported_from(detections, path, folder):
    """Copy a file under the UUIDs of these detections."""
    data = path.read_bytes()
    zipped = data[:2] == b"\x1f\x8b"
    text = gzip.decompress(data) if zipped else data
    text = text.replace(b"2d232fea-3a66-84ee-8000-", detections.uuid(0)[:24].encode())
    copy = folder / path.name
    copy.write_bytes(gzip.compress(text) if zipped else text)
    return copy


def test_files_as_qupath_writes_them(data_dir, detections, tmp_path):
    paths = {path.name.split(".")[0]: path for path in (data_dir / "cases" / "qupath-decisions").glob("*.geojson*")}
    assert paths.keys() == CASES.keys() | REFUSED.keys()
    for name, (added, unchanged, unclear, total) in CASES.items():
        review = read_review(read_objects(as_exported_from(detections, paths[name], tmp_path)), detections, mpp=0.5)
        assert (review.added, review.unchanged, len(review.not_understood)) == (added, unchanged, unclear), name
        assert (review.accepted, review.rejected, review.deleted) == (0, 0, 0), name
        assert count_reviewed(detections, review.decisions, mpp=0.5, tissue_mm2=1.0).total == total, name
    for name, message in REFUSED.items():
        with pytest.raises(UsageError, match=message):
            read_review(read_objects(as_exported_from(detections, paths[name], tmp_path)), detections)
    selected = as_exported_from(detections, paths["selected_only"], tmp_path)
    kept = read_review(read_objects(selected), detections, missing="unchanged")
    assert (kept.unchanged, kept.absent, kept.decisions) == (1, 4, {})
    deleted = read_review(read_objects(selected), detections, missing="rejected")
    assert (deleted.unchanged, deleted.deleted, len(deleted.decisions)) == (1, 4, 4)


def review_with(detections, *more, earlier=None, **options):
    return read_review([*detection_features(detections, earlier), *more], detections, earlier, mpp=0.5, **options)


@pytest.mark.parametrize("name", ["mitosis", "Mitosis", " MITOSIS ", "Mitosis: Positive", "Mitoses", "Mitotic figure"])
def test_classes_match_however_they_are_written(detections, name):
    assert review_with(detections, accepted_class(name)).added == 1


@pytest.mark.parametrize("name", ["Mitosis: Negative", "Tumor", None, "Ignore*", "non-mitosis"])
def test_other_new_objects_are_not_understood(detections, name):
    review = review_with(detections, accepted_class(name))
    assert (review.added, review.decisions, len(review.not_understood)) == (0, {}, 1)


def test_points_and_areas(detections):
    points = Feature((), classification="Mitosis", points=((600.0, 600.0), (700.0, 20.0)))
    review = review_with(detections, points, dimensions=(800, 800))
    assert review.added == 2
    large = Feature((rectangle(0, 0, 900, 900),), classification="mitosis")
    nowhere = Feature((), classification="mitosis", points=((float("nan"), 1.0),))
    beyond = Feature((), classification="mitosis", points=((5000.0, 1.0),))
    review = review_with(detections, large, nowhere, beyond, dimensions=(800, 800))
    assert review.added == 0
    assert [line.partition(": ")[2] for line in review.not_understood] == [
        "this area is too large for one mitosis",
        "(nan, 1) is not on the slide",
        "(5000, 1) is not on the slide",
    ]


def test_a_mitosis_drawn_over_a_detection_is_not_counted_twice(detections):
    over = Feature((), classification="mitosis", points=((140.0, 120.0),))
    review = review_with(detections, over)
    assert (review.added, review.unchanged, review.decisions) == (0, 6, {})
    weak = replace(detections, found=Detections(detections.found.boxes, np.full(5, 0.2, np.float32)))
    review = review_with(weak, over)
    assert (review.added, review.accepted) == (0, 1)
    assert review.decisions[1].verdict == "accepted"


def test_the_same_file_again_adds_nothing(detections):
    first = review_with(detections, accepted_class("mitosis"))
    again = read_review(
        [*detection_features(detections), accepted_class("mitosis")], detections, first.decisions, mpp=0.5
    )
    assert again.decisions == first.decisions
    assert (again.added, again.unchanged) == (0, 6)


def test_an_added_mitosis_survives_a_round_trip_and_can_be_deleted(detections):
    first = review_with(detections, accepted_class("mitosis")).decisions
    exported = list(detection_features(detections, first))
    assert len(exported) == 6
    assert read_review(exported, detections, first).decisions == first
    without = read_review(exported[:-1], detections, first)
    assert (without.decisions, without.deleted) == ({}, 1)
    relabelled = read_review([*exported[:-1], replace(exported[-1], classification="Other")], detections, first)
    assert (relabelled.decisions, relabelled.rejected) == ({}, 1)


def test_the_count_and_the_hotspot_include_added_mitoses(detections):
    decisions = review_with(detections, accepted_class("mitosis")).decisions
    count = count_reviewed(detections, decisions, mpp=0.5, tissue_mm2=2.0)
    assert (count.total, count.added, count.accepted, count.per_mm2) == (6, 1, 0, 3.0)
    assert count.hotspot.count == 6
    assert set(count.hotspot.members) == set(range(6))


def test_added_mitoses_in_the_table(detections, tmp_path):
    decisions = review_with(detections, accepted_class("mitosis")).decisions
    path = tmp_path / "t.csv"
    write_detection_table(path, detections, decisions, hotspot=None)
    assert read_detection_table(path, detections, decisions) == decisions
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[-1][-1] == "added"
    rows[-1][-1] = "rejected"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert read_detection_table(path, detections, decisions) == {}


def test_a_damaged_gzipped_file_is_refused(tmp_path):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(b'{"type":"FeatureCollection","features":[]}')[:-12])
    with pytest.raises(StoreError, match="compressed file is damaged"):
        list(read_objects(path))


def test_from_the_command_to_exports_and_the_viewer(tmp_path):
    out = write_constructed_results(tmp_path / "out", detections=20, dimensions=(1500, 1200))
    run = CliRunner().invoke
    assert run(app, ["export", str(out), "-f", "detections", "--slide", "square"]).exit_code == 0
    path = out / "exports" / "square.detections.geojson"
    content = json.loads(path.read_text())
    mark = {
        "type": "Feature",
        "id": "11111111-2222-4333-8444-555555555555",
        "geometry": {"type": "Point", "coordinates": [3, 1190]},
        "properties": {"objectType": "annotation", "classification": {"name": "Mitosis"}},
    }
    content["features"] += [mark, {**mark, "properties": {"classification": {"name": "Tumor"}}}]
    (tmp_path / "r.geojson.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    before = open_results(out)["square"].count()
    done = run(app, ["import-review", str(out), "square", str(tmp_path / "r.geojson.gz")])
    assert done.exit_code == 0, done.output
    assert "Objects: 0 accepted, 0 rejected, 1 added, 20 unchanged, 1 not understood." in done.output
    assert "object 22: neither a detection of this slide nor a mitosis (class 'Tumor')" in done.output
    slide = open_results(out)["square"]
    assert (slide.count().total, slide.count().added) == (before.total + 1, 1)
    assert run(app, ["export", str(out), "-f", "detections", "-f", "count", "--slide", "square"]).exit_code == 0
    assert json.loads((out / "exports" / "square.count.json").read_text())["added"] == 1
    assert len(json.loads(path.read_text())["features"]) == 21
    view = SlideView(slide)
    assert view.count()["total"] == before.total + 1
    assert view.one_detection(20)["counted"]
    assert view.detections_within((0, 1180, 10, 1200), 0)[:8] == b"\0\0\0\0\1\0\0\0"
    with pytest.raises(UsageError, match="added this mitosis"):
        view.decide(20, "rejected")
    view.decide(0, "rejected")
    assert open_results(out)["square"].count().added == 1


def test_decisions_on_disk_hold_added_mitoses(detections, tmp_path):
    decisions = review_with(detections, accepted_class("mitosis")).decisions
    write_decisions(tmp_path, detections, decisions.values())
    assert read_decisions(tmp_path, detections) == decisions
    assert read_detections(tmp_path) is None

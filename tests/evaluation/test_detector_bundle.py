"""A detector on annotated slides: the arithmetic, and the command from boxes to the report."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from pathology.annotations import BrokenBoxesError
from pathology.cli.app import app
from pathology.errors import UsageError
from pathology.evaluation.detector_bundle import DetectorEvaluation, ExaminedSlide, summarise
from pathology.findings.detections import Detections
from pathology.outputs.results.detection_file import read_detections
from pathology.testing.random_bundle import SMALL_NETWORK, write_random_bundle
from pathology.testing.random_detector import write_random_detector
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture

NONE = np.empty((0, 4))


def boxes(*centres, half=6.0):
    return np.array([(x - half, y - half, x + half, y + half) for x, y in centres], np.float64).reshape(-1, 4)


def slide(name, found, scores, seen, *, look_alikes=NONE, area=1.0, hot=(), hot_mm2=0.0, whole=True):
    detections = Detections(boxes(*found).astype(np.float32), np.array(scores, np.float32))
    inside = np.isin(np.arange(len(found)), hot)
    return ExaminedSlide(name, detections, boxes(*seen), look_alikes, area, inside, hot_mm2, whole)


def test_known_counts_give_known_rates():
    first = slide(
        "S1",
        [(0, 0), (100, 0), (200, 0), (300, 0)],
        [0.9, 0.8, 0.7, 0.3],
        [(0, 0), (105, 0), (300, 0)],
        look_alikes=boxes((200, 0), (500, 0)),
        area=2.0,
        hot=[2],
        hot_mm2=0.5,
    )
    second = slide("S2", [(0, 0)], [0.6], [(50, 50)], area=3.0, whole=False)
    found = summarise([first, second], 0.5)
    by_distance, by_iou = found.agreement
    # 5 µm apart is the same mitosis by distance, and by overlap (7 of 17 µm) it is not.
    assert (by_distance.found, by_distance.missed, by_distance.false) == (2, 2, 2)
    assert (by_iou.found, by_iou.missed, by_iou.false) == (1, 3, 3)
    assert by_distance.recall.value == 0.5
    assert by_distance.precision.value == 0.5
    assert by_distance.f1.value == 0.5
    assert by_distance.recall.n == 2
    assert (found.slides, found.mitoses, found.look_alikes, found.regions_only) == (2, 4, 2, 1)
    assert found.false_per_mm2.value == pytest.approx(2 / 5)
    assert found.false_per_mm2_in_hotspots.value == pytest.approx(1 / 0.5)
    assert found.false_per_mm2_elsewhere.value == pytest.approx(1 / 4.5)
    assert found.look_alikes_counted.value == 0.5
    assert found.curve_recall[-1] == 0.75  # below the threshold the last mitosis is found
    assert found.curve_false_per_mm2[-1] == pytest.approx(2 / 5)


def test_what_is_not_defined_is_not_a_number():
    empty = summarise([slide("S1", [], [], [])], 0.5)
    assert [(a.recall, a.precision, a.f1) for a in empty.agreement] == [(None, None, None)] * 2
    assert empty.false_per_mm2.value == 0
    assert empty.false_per_mm2.high > 3  # 3.69 per mm²: nothing found in 1 mm² proves little
    assert empty.look_alikes_counted is None
    assert empty.curve_recall == ()
    with pytest.raises(UsageError, match="no tissue was examined"):
        summarise([slide("S1", [], [], [], area=0.0)], 0.5)


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_intervals_hold_the_value_and_resample_slides(slides, seed):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(slides):
        seen = [(40.0 * n, 0.0) for n in range(rng.integers(1, 6))]
        found = [place for place in seen if rng.random() < 0.7] + [(0.0, 900.0)] * int(rng.integers(0, 2))
        made.append(slide(f"S{number}", found, rng.uniform(0.5, 1, len(found)), seen))
    result = summarise(made, 0.5, seed=seed).agreement[0]
    for interval in (result.recall, result.precision, result.f1):
        if interval is not None:
            assert interval.low <= interval.value <= interval.high
            assert interval.n == slides
            assert "by slide" in interval.method


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "slides").mkdir()
    for name, seed in (("one", 3), ("two", 4)):
        picture = TissuePicture(700, 600, seed=seed, tissue=0.8)
        write_svs(folder / "slides" / f"{name}.svs", picture, factors=(1,), mpp=0.25)
    write_random_detector(folder / "models" / "random-detector")
    return folder


def evaluate(folder, out, *more, model="random-detector"):
    command = ["evaluate", "--model", folder / "models" / model, "--slides", folder / "slides", "--out", out]
    return CliRunner().invoke(app, list(map(str, [*command, "--workers", "1", "--device", "cpu", *more])))


def test_from_boxes_to_a_report(folder, tmp_path):
    # Some of what it finds is the truth on one slide; the other holds one in a corner.
    table, out = tmp_path / "boxes.csv", tmp_path / "out"
    table.write_text("slide,left,top,right,bottom,label\none,300,300,350,350,mitosis\ntwo,1,1,40,40,mitosis\n")
    result = evaluate(folder, out, "--boxes", table, "--whole")
    assert result.exit_code == 0, result.output
    stored = read_detections(out / "scores" / "slides" / "one")
    counted = stored.found.at_least(json.loads((out / "evaluation.json").read_text())["threshold"])
    taken = counted.centres[:1]
    for place in counted.centres:  # far enough apart that none takes another's match
        if len(taken) < 5 and np.hypot(*(taken - place).T).min() > 80 and min(place) > 80:
            taken = np.vstack([taken, place])
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "x", "y", "label"])
        writer.writerows(["one", *place, "mitosis"] for place in taken.tolist())
        writer.writerow(["two", 30, 30, "mitosis"])
    result = evaluate(folder, out, "--boxes", table, "--whole", "--box-size", "10")
    assert result.exit_code == 0, result.output
    assert "external: 2 slides" in result.output
    measured = json.loads((out / "evaluation.json").read_text())
    assert 1 <= measured["agreement"][0]["found"] <= len(taken)
    assert sum(measured["agreement"][0][what] for what in ("found", "missed")) == len(taken) + 1
    assert measured["mitoses"] == len(taken) + 1
    assert measured["not_scored"] == {}
    page = (out / "report.html").read_text()
    assert "Matched: centres at most 7.5 µm apart" in page
    assert "own figures, from its card" in page
    with Image.open(out / "pictures" / "free-response.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_what_does_not_fit_is_refused_before_any_work(folder, tmp_path):
    write_random_bundle(folder / "models" / "classifier", **SMALL_NETWORK)
    table = tmp_path / "boxes.csv"
    table.write_text("slide,x,y,label\none,100,100,mitosis\nthree,1,1,mitosis\n")
    out = tmp_path / "out"
    assert isinstance(evaluate(folder, out, "--boxes", table, "--whole").exception, BrokenBoxesError)
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,patient_id,label\none,1,a\n")
    for more, said in (
        (["--boxes", table, "--labels", labels], "exclude each other"),
        ([], "--boxes for a detector"),
        (["--labels", labels], "Give --boxes instead of --labels"),
        (["--labels", labels, "--time", "t", "--event", "e"], "Give --boxes instead of --labels"),
        (["--boxes", table, "--aggregator", "mean"], "--aggregator is for classifiers"),
    ):
        error = evaluate(folder, out, *more).exception
        assert isinstance(error, UsageError)
        assert said in str(error)
    error = evaluate(folder, out, "--boxes", table, model="classifier").exception
    assert "Give --labels instead of --boxes" in str(error)
    assert not out.exists()


def test_false_positives_that_gather_on_one_slide_widen_the_interval():
    places = [(40.0 * n, 0.0) for n in range(40)]
    slides = [slide(f"S{n}", places if n == 0 else [], [0.9] * (40 if n == 0 else 0), []) for n in range(10)]
    rate = summarise(slides, 0.5).false_per_mm2
    assert rate.value == 4
    assert rate.low < 0.5
    assert rate.high >= 8  # of the count alone, 5.4
    assert "by slide" in rate.method


def test_one_slide_has_intervals_and_can_be_read_back():
    found = summarise([slide("S1", [(0, 0), (90, 0)], [0.9, 0.8], [(0, 0), (200, 0)])], 0.5)
    f1 = found.agreement[0].f1
    assert f1.low < f1.value == 0.5 < f1.high
    assert DetectorEvaluation.model_validate_json(found.model_dump_json()) == found


def test_a_detection_of_a_mitosis_is_no_look_alike():
    found = summarise([slide("S1", [(0, 0)], [0.9], [(0, 0)], look_alikes=boxes((5, 0)))], 0.5)
    assert (found.agreement[0].found, found.look_alikes_counted.value) == (1, 0)

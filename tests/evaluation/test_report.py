"""The page of an evaluation: the model's own rule first, and no interval where a bootstrap gives none."""

import re

import numpy as np
import pytest

from pathology.bundle.card import Metric
from pathology.evaluation.classifier import SlidePrediction, evaluate_slides, slide_scores
from pathology.evaluation.history import EpochRecord
from pathology.evaluation.plots import draw_curves, draw_reliability, draw_roc
from pathology.evaluation.report import evaluation_pictures, metrics_section, write_evaluation_report

CLASSES = ("ARMS", "ERMS")


def findings(surely_right):
    random = np.random.default_rng(0)
    found = []
    for number in range(8):
        p = random.uniform(0.6, 0.9, 5) if surely_right else random.uniform(0.2, 0.8, 5)
        patches = np.stack([p, 1 - p] if number % 2 == 0 else [1 - p, p], axis=1)
        found.append(SlidePrediction(f"s{number}", f"p{number}", number % 2, patches))
    return found


def record(stage, epoch, validation_loss, best):
    return EpochRecord(
        stage=stage,
        epoch=epoch,
        steps=3,
        loss=0.7,
        learning_rate=1e-3,
        validation_loss=validation_loss,
        validation_accuracy=0.5,
        validation_slide_loss=validation_loss,
        best=best,
        seconds=2.0,
        waiting=0.25,
        patches_per_second=4.0,
    )


def test_the_page_begins_with_the_models_own_rule_and_then_shows_pictures(tmp_path):
    found = findings(surely_right=False)
    evaluation = evaluate_slides(found, CLASSES, name="internal", data="drawn", threshold_rule="share", resamples=100)
    pictures = evaluation_pictures(tmp_path / "pictures", evaluation, found, rule="share", temperature=1.5)
    history = [record(1, 1, 0.9, best=True), record(1, 2, 0.8, best=True)]
    page = tmp_path / "report.html"
    write_evaluation_report(page, "A model", [evaluation], pictures, rule="share", history=history)
    headings = re.findall(r"<h2>(.*?)</h2>", page.read_text())
    assert headings[:5] == [
        "Evaluations",
        "By patient: fraction of patches predicted as each class",
        "By slide: fraction of patches predicted as each class",
        "Training",
        "Pictures",
    ]
    assert "By slide: mean patch probability" in headings[5:]
    assert len(headings) == len(set(headings))
    assert "25% of the time waiting for patches" in page.read_text()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 6


def test_a_perfect_result_is_not_given_an_interval_without_width(tmp_path):
    found = findings(surely_right=True)
    evaluation = evaluate_slides(found, CLASSES, name="internal", data="drawn", resamples=100)
    report = evaluation.at("slide", "mean").report
    assert (report.balanced_accuracy.low, report.balanced_accuracy.high) == (1, 1)
    page = tmp_path / "report.html"
    write_evaluation_report(page, "A model", [evaluation], [])
    assert "no interval: all resamples agree, n = 8" in page.read_text()
    assert "1.000 to 1.000" not in page.read_text()
    figure = draw_roc(np.array([f.label for f in found]), slide_scores(found, "mean"), evaluation.at("slide", "mean"))
    (legend,) = [axes.get_legend() for axes in figure.axes]
    assert [text.get_text() for text in legend.get_texts()] == [
        "ARMS: 1.00 (no interval), n = 4",
        "ERMS: 1.00 (no interval), n = 4",
    ]


def test_figures_of_a_card_become_a_table():
    common = {"method": "x", "unit": "patients", "data": "drawn"}
    section = metrics_section(
        "Beside it",
        [
            Metric(metric="area", value=0.8, interval=(0.7, 0.9), n=20, **common),
            Metric(metric="share", value=1.0, interval=(1.0, 1.0), n=3, **common),
            Metric(metric="coverage", value=None, interval=None, n=2, note="too few patients", **common),
        ],
    )
    assert [(row[1].value, row[1].ci) for row in section.table.rows] == [
        ("0.800", "0.700 to 0.900, n = 20 patients"),
        ("1.000", "no interval: all resamples agree, n = 3 patients"),
        ("not available", "too few patients"),
    ]


@pytest.mark.parametrize(("first", "scale"), [(1.2, "linear"), (230.0, "log")])
def test_one_wild_epoch_does_not_flatten_the_curves(first, scale):
    figure = draw_curves([record(1, 1, first, best=True), *(record(2, k, 0.5, best=True) for k in (1, 2, 3))])
    assert figure.axes[0].get_yscale() == scale
    chosen = [text for text in figure.axes[1].texts if text.get_text() == "chosen"]
    assert [text.get_horizontalalignment() for text in chosen] == ["right"]  # the last epoch: inside the picture


def test_calibration_shows_both_sets_by_their_size():
    truth = np.array([0, 0, 1, 1])
    sure = np.array([[0.95, 0.05], [0.95, 0.05], [0.05, 0.95], [0.95, 0.05]])
    figure = draw_reliability(truth, sure, 0.5 * sure + 0.25)
    dots = figure.axes[0].collections
    assert [tuple(dot.get_offsets()[0]) for dot in dots] == [
        (pytest.approx(0.95), pytest.approx(0.75)),
        (pytest.approx(0.725), pytest.approx(0.75)),
    ]

"""The whole way from a folder of slides and a table: train, kill, resume, evaluate, score."""

import csv
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pathology.bundle.card import read_card
from pathology.bundle.verify import verify_bundle
from pathology.cli.app import app
from pathology.errors import LeakageError, OutputError, PathologyError, UsageError
from pathology.folder_lock import locked_folder
from pathology.stats.intervals import Interval
from pathology.testing.constructed_slides import construct_cohort, drawn_tiles

SMALL = ["--set", "patch=96", "--set", "epochs=1", "--set", "batch=4", "--set", "patches-per-slide=8"]
OPTIONS = {
    "foersch-2021": ["--set", "stain=none", "--set", "lowest_rate=0.00001", "--aggregator", "attention"],
    "zhang-2022": ["--set", "network.aux_logits=false", "--pixels", "reference", "--aggregator", "share"],
    "frankel-2022": ["--set", "network.aux_logits=false", "--aggregator", "transformer"],
}
# Converting a network for OpenVINO takes longer than all the rest of such a test: one system does it for all.
ENGINES = {"foersch-2021": [], "zhang-2022": ["--engine", "torch"], "frankel-2022": ["--engine", "torch"]}
EXPLAIN = Path(__file__).parents[2] / "scripts" / "explain_slide.py"
CLASSES = ("ARMS", "ERMS")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    tiles = drawn_tiles(CLASSES, 4, tiles_per_patient=1, side=192, seed=3)
    construct_cohort(folder, tiles, slides_per_patient=1, rows=2, columns=2, cell=192, margin=48, seed=3)
    return folder


def arguments(system, cohort, out, *more):
    return [
        *("train", system, "--slides", str(cohort), "--labels", str(cohort / "labels.csv"), "--out", str(out)),
        *("--init", "random", "--classes", ",".join(CLASSES), "--target-mpp", "1", "--loaders", "0", "--workers", "1"),
        *("--data-name", "drawn slides", "--device", "cpu"),
        *SMALL,
        *OPTIONS[system],
        *more,
    ]


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    """One bundle of each system."""
    folder = tmp_path_factory.mktemp("models")
    for system in OPTIONS:
        result = CliRunner().invoke(app, arguments(system, cohort, folder / system), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "loss" in result.stderr
    return folder


@pytest.mark.parametrize("system", OPTIONS)
def test_a_training_leaves_a_bundle_that_says_what_it_is(trained, system):
    folder = trained / system
    assert all(check.error is None for check in verify_bundle(folder))
    card = read_card(folder / "card.yaml")
    assert card.classes == CLASSES
    assert card.patch == 96
    assert card.initialisation == "random weights"
    assert card.training_data[0].patients == 6
    assert "no rows, patients, slide fingerprints in two sets" in card.split
    assert any("colour baseline" in figure.metric for figure in card.metrics)
    assert {"mean", "share"} <= {word for f in card.metrics for word in f.metric.replace(",", "").split()}
    for figure in card.metrics:
        assert (figure.value is None) == (figure.interval is None)
    assert card.trust is not None
    aggregator = {"foersch-2021": "attention", "zhang-2022": "share", "frankel-2022": "transformer"}[system]
    assert card.trust.aggregator == aggregator
    assert [a.name for a in card.aggregators] == ([] if aggregator == "share" else [aggregator])
    assert card.calibration["temperature"] > 0
    assert set(card.calibration["thresholds"]) <= set(CLASSES)
    written = (folder / "card.yaml").read_text() + (folder / "evaluation.json").read_text()
    assert "patient-0" not in written  # nobody's identity travels with a model
    for name in ("curves", "internal-confusion", "internal-roc", "internal-precision-recall", "internal-calibration"):
        with Image.open(folder / "pictures" / f"{name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    page = (folder / "report.html").read_text()
    assert "Research use only" in page
    assert "waiting for patches" in page


@pytest.mark.parametrize("system", OPTIONS)
def test_its_bundle_scores_and_is_evaluated_beside_its_own_figures(trained, cohort, tmp_path, system):
    table = tmp_path / "labels.csv"
    with (cohort / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[3:5]
    followed = [{**row, "months": 10 + 7 * i, "event": i % 2} for i, row in enumerate(rows)]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["slide_id", "patient_id", "label", "months", "event"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(followed)
    out = tmp_path / "evaluation"
    command = ["evaluate", "--model", str(trained / system), "--slides", str(cohort), "--labels", str(table)]
    command += ["--out", str(out), "--workers", "1", "--device", "cpu"]
    followed_up = ["--time", "months", "--event", "event"]
    groups = read_card(trained / system / "card.yaml").calibration.get("risk_groups")
    if groups is None:  # so short a training may give every patient the same share of patches, and no cut-off
        with pytest.raises(UsageError, match="has no risk cut-off"):
            CliRunner().invoke(app, [*command, *followed_up], catch_exceptions=False)
        assert not out.exists()
        followed_up = []
    result = CliRunner().invoke(app, [*command, *followed_up], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "internal: 2 slides" in result.output
    assert "external: 2 slides" in result.output
    page = (out / "report.html").read_text()
    assert "internal (2 slides, 2 patients)" in page
    assert "external (2 slides, 2 patients)" in page
    assert "fraction of patches predicted as each class" in page
    measured = json.loads((out / "evaluation.json").read_text())
    assert {(level["level"], level["rule"]) for level in measured["levels"]} >= {
        *(("patch", "none"), ("slide", "mean"), ("slide", "share"), ("patient", "mean"), ("slide", "model"))
    }
    accuracy = Interval.model_validate(measured["levels"][1]["report"]["accuracy"])
    assert accuracy.n == 2
    if groups is not None:
        risk = json.loads((out / "risk.json").read_text())
        assert (risk["patients"], risk["events"]) == (2, 1)
        assert risk["cut"] == groups["cuts"][0]
    with (out / "scores" / "results.csv").open() as file:
        scored = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert set(scored) == {row["slide_id"] for row in rows}
    assert all(row["status"] in ("scored", "abstained") for row in scored.values())


@pytest.mark.parametrize("system", OPTIONS)
def test_its_bundle_scores_by_itself_and_can_be_explained(trained, cohort, tmp_path, system, capsys, monkeypatch):
    folder, out = trained / system, tmp_path / "scored"
    aggregator = read_card(folder / "card.yaml").trust.aggregator
    slide = sorted(cohort.glob("*.tiff"))[0]
    command = ["score", str(slide), "--model", str(folder), "--out", str(out), "--workers", "1", "--device", "cpu"]
    command += ENGINES[system]
    result = CliRunner().invoke(app, [*command, "--aggregator", aggregator], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with (out / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["status"] == "abstained"
    assert row["prediction"] == ""
    assert row["most_probable_class"] in CLASSES
    assert sum(float(row[f"p_{name}"]) for name in CLASSES) == pytest.approx(1, abs=1e-4)
    # Two calibration patients are too few for any stated coverage: the set is full and the slide comes back unsure.
    assert set(row["prediction_set"].split(" | ")) == set(CLASSES)

    picture = tmp_path / "explained.png"
    told = ["explain", str(out), slide.stem, "--model", str(folder), "--out", str(picture), "--patches", "3"]
    monkeypatch.setattr(sys, "argv", told)
    assert runpy.run_path(str(EXPLAIN))["main"]() == 0
    said = capsys.readouterr().out
    assert f"{row['most_probable_class']}: 3 patches" in said
    # InceptionV3 has one square of features at 96 px: a flat map, of which nothing can be said.
    assert "flat" in said or system == "foersch-2021"
    assert "not whether it is correct" in said
    with Image.open(picture) as drawn:
        assert len(np.unique(np.asarray(drawn))) > 20
    monkeypatch.setattr(sys, "argv", [*told, "--class", "none such"])
    assert runpy.run_path(str(EXPLAIN))["main"]() == 2
    assert "Choose from: ARMS, ERMS" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_trains_one_bundle_with_two_processes(cohort, tmp_path):
    """Under gloo on processors; the same code runs under NCCL where there are several GPUs."""
    out = tmp_path / "foersch-2021"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = [*launcher, "-m", "pathology", *arguments("foersch-2021", cohort, out)]
    done = subprocess.run(
        call, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Bundle:") == 1
    assert done.stderr.count("stage 2, epoch 1:") == 1
    assert all(check.error is None for check in verify_bundle(out))
    assert json.loads((out / "evaluation.json").read_text())["processes"] == 2


def test_a_killed_training_goes_on_and_ends_alike(trained, cohort, tmp_path):
    system, out = "foersch-2021", tmp_path / "foersch-2021"
    command = [sys.executable, "-m", "pathology", *arguments(system, cohort, out)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("stage 1, epoch 1"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    state = out / "training" / "final" / "checkpoint.json"
    until = time.monotonic() + 30
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert len(json.loads(state.read_text())["history"]) == 1
    assert not (out / "card.yaml").exists()
    result = CliRunner().invoke(app, arguments(system, cohort, out), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "stage 2, epoch 1" in result.stderr
    assert "stage 1, epoch 1" not in result.stderr
    whole, resumed = (json.loads((f / "evaluation.json").read_text()) for f in (trained / system, out))
    for a, b in zip(whole["history"], resumed["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-2)
    # Another training is not mixed with it.
    with pytest.raises(PathologyError, match="another training"):
        CliRunner().invoke(app, arguments(system, cohort, out, "--seed", "9"), catch_exceptions=False)


def test_the_settings_beside_a_bundle_train_it_again(trained, tmp_path):
    system, out = "foersch-2021", tmp_path / "foersch-2021"
    written = yaml.safe_load((trained / system / "config.yaml").read_text())
    assert (written["system"], written["classes"], written["init"]) == (system, list(CLASSES), "random")
    assert (written["recipe"]["patch"], written["recipe"]["mpp"], written["recipe"]["aggregator"]) == (
        96,
        1,
        "attention",
    )
    assert written["seed"] == 0
    told = ["train", "--config", str(trained / system / "config.yaml"), "--out", str(out)]
    result = CliRunner().invoke(app, told, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    cards = [read_card(folder / "card.yaml") for folder in (trained / system, out)]
    assert cards[0].weights_sha256 == cards[1].weights_sha256
    assert cards[0].metrics == cards[1].metrics
    assert (out / "config.yaml").read_text() == (trained / system / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("fold: 3", [], "config.yaml: fold: there is no such setting. Did you mean folds"),
        ("recipe: {pach: 96}", [], "config.yaml: recipe.pach: there is no such setting. Did you mean patch"),
        ("recipe: {patch: wide}", [], "config.yaml: recipe.patch: "),
        ("recipe: {batch: 0}", [], "config.yaml: recipe.batch: "),
        ("workers: 0", [], "config.yaml: workers: "),
        ("workers: 0", ["--workers", "1", "--set", "pach=3"], "--set pach"),  # the command line goes before the file
        ("recipe: {patch: 96}", ["--set", "patch=banana"], "--set patch"),
    ],
)
def test_a_wrong_file_of_settings_is_one_clear_error(cohort, tmp_path, text, more, said):
    (tmp_path / "config.yaml").write_text(text)
    call = ["train", "foersch-2021", "--slides", str(cohort), "--labels", str(cohort / "labels.csv")]
    call += ["--out", str(tmp_path / "model"), "--config", str(tmp_path / "config.yaml"), *more]
    with pytest.raises(UsageError, match=said) as caught:
        CliRunner().invoke(app, call, catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def edited(cohort, tmp_path, change):
    with (cohort / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = change(rows)
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: [*rows, {**rows[0], "slide_id": "gone"}], "1 labelled slides not found: gone"),
        (lambda rows: [{**r, "patient_id": "same"} for r in rows], "have two classes: same is"),
        (lambda rows: rows[2:], "class ARMS has 2 patients"),
        (lambda rows: [{k: v for k, v in r.items() if k != "label"} for r in rows], "no column 'label'"),
        (lambda rows: [{**rows[0], "label": "LMS"}, *rows[1:]], "not one of the classes"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(cohort, tmp_path, change, what):
    table = edited(cohort, tmp_path, change)
    out = tmp_path / "model"
    call = arguments("frankel-2022", cohort, out)
    call[call.index("--labels") + 1] = str(table)
    with pytest.raises(PathologyError, match=what) as caught:
        CliRunner().invoke(app, call, catch_exceptions=False)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--set", "patch=banana"], "patch"),
        (["--set", "pach=96"], "Did you mean patch"),
        (["--set", "patch"], "NAME=VALUE"),
        (["--set", "network.aux_logits=true"], "needs 299 px"),
        (["--init", "nowhere"], "Use random, imagenet"),
        (["--folds", "1"], "folds: expected 0 or at least 2"),
        (["--pixels", "jpeg"], "--pixels: .*'decoded' or 'reference', not 'jpeg'"),
        (["--workers", "0"], "--workers: "),
        (["--folds", "5"], "needs at least 5"),
        (["--keep-sites"], "Fill in the column 'site'"),
    ],
)
def test_wrong_options_are_refused_before_any_work(cohort, tmp_path, more, what):
    with pytest.raises(PathologyError, match=what):
        CliRunner().invoke(app, arguments("frankel-2022", cohort, tmp_path / "model", *more), catch_exceptions=False)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_another_training_holds_is_refused(cohort, tmp_path):
    with locked_folder(tmp_path / "out"):
        result = CliRunner().invoke(app, arguments("foersch-2021", cohort, tmp_path / "out"))
    assert isinstance(result.exception, OutputError)
    assert "another run" in str(result.exception)
    assert not list((tmp_path / "out").iterdir())


def test_a_planted_leak_is_caught_before_any_work(cohort, tmp_path):
    """One slide's file under another name, of another patient, in another set."""
    sets = ("train", "validation", "calibration", "test")
    shutil.copy(cohort / "patient-01-1.tiff", tmp_path / "other.tiff")

    def plant(rows):
        fixed = [{**row, "set": sets[i % 4]} for i, row in enumerate(rows)]
        return [*fixed, {**fixed[0], "slide_id": "other", "patient_id": "somebody else", "set": "test"}]

    call = arguments("frankel-2022", cohort, tmp_path / "model", "--slides", str(tmp_path / "other.tiff"))
    call[call.index("--labels") + 1] = str(edited(cohort, tmp_path, plant))
    with pytest.raises(LeakageError, match=r"1 slide fingerprints in two parts of the split.*in train.*in test"):
        CliRunner().invoke(app, call, catch_exceptions=False)
    assert not (tmp_path / "model").exists()


def test_a_nested_cross_validation_tests_every_slide_once(cohort, tmp_path):
    out = tmp_path / "folds"
    more = ["--folds", "4", "--set", "stages=1", "--set", "patches-per-slide=4"]
    result = CliRunner().invoke(app, arguments("foersch-2021", cohort, out, *more), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads((out / "evaluation.json").read_text())["internal"]
    assert (record["slides"], record["patients"]) == (8, 8)
    card = read_card(out / "card.yaml")
    assert "4-fold patient-level cross-validation" in card.split
    assert card.training_data[0].patients == 8
    assert any("mean over folds" in figure.metric for figure in card.metrics)
    with (out / "predictions.csv").open() as file:
        assert len({row["slide_id"] for row in csv.DictReader(file)}) == 8


def test_a_system_without_a_published_scale_asks_for_one(cohort, tmp_path):
    call = arguments("foersch-2021", cohort, tmp_path / "model")
    place = call.index("--target-mpp")
    del call[place : place + 2]
    with pytest.raises(PathologyError, match="--target-mpp"):
        CliRunner().invoke(app, call, catch_exceptions=False)


def test_an_unknown_system_and_a_bad_name_are_refused(cohort, tmp_path):
    with pytest.raises(PathologyError, match=r"foersch-2021, .*frankel-2022"):
        CliRunner().invoke(
            app, ["train", "forsch", *arguments("foersch-2021", cohort, tmp_path)[2:]], catch_exceptions=False
        )
    with pytest.raises(PathologyError, match="is not a valid bundle name"):
        CliRunner().invoke(app, arguments("foersch-2021", cohort, tmp_path / "My Model"), catch_exceptions=False)

"""The comparison of recipes on real tiles: split by case, nothing held out is looked at, figures as by hand."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathology.errors import LeakageError
from pathology.stats.intervals import wilson
from pathology.systems.slide_classifier import find_classifier
from pathology.testing.synthetic_tissue import TISSUE_KINDS, tissue_tile
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles
from pathology.training.tile_classifier.osteosarcoma import (
    OSTEOSARCOMA_CLASSES,
    OSTEOSARCOMA_FOLDERS,
    read_osteosarcoma,
)

SCRIPT = Path(__file__).parents[3] / "scripts" / "evaluate_osteosarcoma_recipes.py"
CASES = ("Case-3", "Case-48", "P9")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Drawn tiles, named as the public ones: every class of every case."""
    root = tmp_path_factory.mktemp("osteosarcoma")
    for label, name in enumerate(OSTEOSARCOMA_FOLDERS):
        (root / name).mkdir()
        for number, case in enumerate(CASES):
            tile = tissue_tile(TISSUE_KINDS[label], 300, mpp=1.0, seed=10 * label + number, stain=(1.0, 1.0))
            Image.fromarray(tile).save(root / name / f"{case}-A{number + 1}-1-{label}.jpg", quality=95)
    return root


def test_each_case_is_left_out_once_and_is_nowhere_else(script, folder):
    tiles = read_osteosarcoma(folder)
    folds = script.folds_of(tiles)
    cases = np.array(tiles.patients)
    assert [set(cases[fold.test]) for fold in folds] == [{case} for case in CASES]
    for fold in folds:
        assert set(cases[fold.train]).isdisjoint(cases[fold.test])
        assert sorted([*fold.train, *fold.test]) == list(range(len(tiles)))
    labelled = script.as_slides(tiles, folder)
    assert [slide.patient_id for slide in labelled.slides] == list(tiles.patients)
    assert all(slide.path.is_file() for slide in labelled.slides)


def test_a_tile_filed_under_two_cases_is_caught(script, folder):
    tiles = read_osteosarcoma(folder)
    pixels = tiles.pixels.copy()
    pixels[1] = pixels[0]  # of another case
    copied = LabelledTiles(pixels, tiles.labels, tiles.classes, tiles.patients, tiles.slides, tiles.names)
    with pytest.raises(LeakageError, match="contents in two parts"):
        script.folds_of(copied)


@pytest.mark.parametrize("system", ["foersch-2021", "zhang-2022", "frankel-2022"])
def test_a_small_budget_changes_nothing_else(script, system):
    recipe = find_classifier(system).recipe
    small = script.small(recipe, epochs=2, patches=3)
    kept = {"architecture", "stain", "optimiser", "weight_decay", "schedule", "augmentation", "class_weights", "mean"}
    assert small.model_dump(include=kept) == recipe.model_dump(include=kept)
    assert len(small.stages) == len(recipe.stages)
    assert [stage.frozen for stage in small.stages] == [stage.frozen for stage in recipe.stages]
    assert sum(stage.epochs for stage in small.stages) == 3
    assert small.patience is None


def test_figures_by_hand(script, folder):
    tiles = read_osteosarcoma(folder)
    called = np.array([0, 0, 1, 1, 1, 1, 0, 2, 2])  # tiles stand by class, then by case
    found = script.metrics(tiles, np.eye(3)[called])
    recall, right = found["recall of non-tumour"], found["accuracy over the three classes"]
    expected = wilson(2, 3)
    assert (recall["value"], recall["low"], recall["n"]) == (expected.value, expected.low, 3)
    assert right["value"] == pytest.approx(7 / 9)
    # Case-3: its normal tile is called normal, one of its two tumours is too: a tie counts half.
    areas = [found[f"area under the ROC curve, tumour against non-tumour, {case} held out"]["value"] for case in CASES]
    assert areas == [0.75, 1.0, 0.5]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_from_tiles_to_figures_and_again(script, folder, tmp_path, monkeypatch, capsys):
    out, two = tmp_path / "figures.json", tmp_path / "two cases"
    shutil.copytree(folder, two, ignore=shutil.ignore_patterns("P9*"))
    given = ["--data", two, "--work", tmp_path / "work", "--out", out, "--systems", "foersch-2021"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, given), "--epochs", "1", "--patches", "1"])
    assert script.main() == 0
    shown = capsys.readouterr().out
    assert [f"{case} held out: stage 2, epoch 1" in shown for case in CASES] == [True, True, False]
    record = json.loads(out.read_text())
    assert record["data"] == "6 osteosarcoma tiles, 2 cases, leave one case out"
    assert len(record["foersch-2021"]["last training losses"]) == 2
    assert record["foersch-2021"]["accuracy over the three classes"]["n"] == 6
    assert record["colour baseline"]["accuracy over the three classes"]["n"] == 6
    assert script.main() == 0
    assert "stage" not in capsys.readouterr().out, "a finished training was done again"
    assert json.loads(out.read_text()) == record
    assert read_osteosarcoma(folder).classes == OSTEOSARCOMA_CLASSES

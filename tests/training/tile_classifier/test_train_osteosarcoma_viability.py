"""The program that made the shipped bundle runs from tiles to a bundle that loads, and goes on where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.verify import verify_bundle

SCRIPT = Path(__file__).parents[3] / "scripts" / "train_osteosarcoma_viability.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--device", "cpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def small_tiles(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real tiles, their middle 192 px only, so that a run takes seconds."""
    folder = tmp_path_factory.mktemp("tiles")
    for source in sorted((data_dir / "osteosarcoma").glob("*/*.jpg")):
        target = folder / source.parent.name / source.name
        target.parent.mkdir(exist_ok=True)
        with Image.open(source) as image:
            image.crop((416, 416, 608, 608)).save(target, quality=95)
    return folder


@pytest.mark.long
@pytest.mark.timeout(600)
def test_from_tiles_to_a_bundle_and_again(small_tiles, tmp_path):
    out, work = tmp_path / "osteosarcoma-viability", tmp_path / "work"
    arguments = ("--data", small_tiles, "--out", out, "--work", work, "--quick")
    first = run(*arguments, "--fits-only")
    assert first.returncode == 0, first.stderr
    assert not out.exists()
    assert len(list(work.glob("*.json"))) == 8  # All tiles, three cases, four folds of slides.
    second = run(*arguments)
    assert second.returncode == 0, second.stderr
    assert "step" not in second.stdout, "a finished fit was done again"

    assert all(check.error is None for check in verify_bundle(out))
    bundle = load_bundle(out)
    assert bundle.card.classes == ("non-tumour", "non-viable tumour", "viable tumour")
    assert bundle.card.weights_sha256 in (work / "all-tiles-seed0.json").read_text()
    assert all(figure.n > 0 and figure.data for figure in bundle.card.metrics)
    recalls = {figure.metric: figure for figure in bundle.card.metrics}
    # A class that training has not seen cannot be named by the baseline at all.
    assert recalls["recall of viable tumour, Case-48 held out (colour baseline)"].value == 0
    assert recalls["recall of non-tumour, all cases (network)"].n == 17

    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    for design in ("case", "slide"):
        held_out = [name for fit in evaluation["fits"] if fit["design"] == design for name in fit["tiles"]]
        assert len(held_out) == len(set(held_out)) == 45
    for fit in evaluation["fits"]:
        assert np.allclose(np.sum(fit["probabilities"], axis=1), 1, atol=1e-4)
        if fit["design"] == "case":
            assert all(fit["held_out"] in name for name in fit["tiles"])

    # A fit whose record is gone is done again and gives the same answers.
    record = work / "case-P9-seed0.json"
    before = json.loads(record.read_text())
    record.unlink()
    third = run(*arguments, "--fits-only")
    assert third.returncode == 0, third.stderr
    assert json.loads(record.read_text())["probabilities"] == before["probabilities"]


def test_a_folder_without_tiles(tmp_path):
    done = run("--data", tmp_path, "--out", tmp_path / "out", "--work", tmp_path / "work", "--quick")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("no tiles in Non-Tumor. Pass its parent folder.")
    assert not (tmp_path / "out").exists()

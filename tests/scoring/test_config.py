"""Scoring from a YAML file, and the file that a scoring writes."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
import zarr
from typer.testing import CliRunner

from pathology.cli.app import app
from pathology.errors import UsageError
from pathology.scoring.batch import score
from pathology.slide.remote import without_access
from pathology.testing import synthetic_slides
from pathology.testing.synthetic_tissue import TissuePicture


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(2):
        picture = TissuePicture(700, 600, seed=seed, tissue=0.8)
        synthetic_slides.write_svs(folder / f"slide {seed}.svs", picture, factors=(1,))
    return folder


def rows(out):
    with (out / "results.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_the_file_written_gives_the_same_results(slides, model, tmp_path, monkeypatch):
    monkeypatch.chdir(slides.parent)
    one, other = tmp_path / "one", tmp_path / "other"
    call("score", slides.name, "-m", model, "-o", one, "--stride", 96, "--quality", "--engine", "torch", "--workers", 1)
    written = yaml.safe_load((one / "config.yaml").read_text())
    assert (written["slides"], written["model"]) == ([str(slides)], str(model))
    assert (written["stride"], written["engine"], written["mpp"]) == (96, "torch", None)
    assert written["quality"]["max_pen"] == 0.2
    monkeypatch.chdir(tmp_path)
    call("score", "--config", one / "config.yaml", "--out", other)
    assert rows(one) == rows(other)
    assert (one / "config.yaml").read_text() == (other / "config.yaml").read_text()
    for folder in sorted((one / "slides").iterdir()):
        groups = [zarr.open_group(out / "slides" / folder.name / "predictions.zarr", mode="r") for out in (one, other)]
        names = sorted(groups[0].array_keys())
        assert names == sorted(groups[1].array_keys())
        for name in names:
            np.testing.assert_array_equal(groups[0][name][...], groups[1][name][...])
        keys = [json.loads((out / "slides" / folder.name / "slide.json").read_text())["key"] for out in (one, other)]
        assert keys[0] == keys[1]
    # Python, by the same names, finds that nothing is to do; so does the file given back into its own folder.
    assert score(slides, model, one, stride=96, quality=True, engine="torch").unchanged == 2
    assert "Nothing to do" in call("score", "--config", one / "config.yaml", "--out", one)
    assert "Nothing to do" not in call("score", "--config", one / "config.yaml", "--out", other, "--stride", 128)
    assert yaml.safe_load((other / "config.yaml").read_text())["stride"] == 128


def test_wrong_usage_ends_before_any_work(slides, model, tmp_path):
    (tmp_path / "c.yaml").write_text(f"model: {model}\nslides: [{slides}]\nstrid: 3\n")
    command = [sys.executable, "-m", "pathology", "score", "--config", "c.yaml", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ))
    assert done.returncode == 2
    assert done.stderr.startswith("pathology: c.yaml: strid: there is no such setting. Did you mean stride?")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strid": 3}, "strid: there is no such setting. Did you mean stride"),
        ({"workers": 0}, "workers: .* not 0"),
        ({"readers": -1}, "readers: "),
        ({"mpp": -0.5}, "mpp: .* not -0.5"),
        ({"engine": "steam"}, "unknown engine 'steam'"),
    ],
)
def test_python_gets_the_same_errors(slides, model, tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        score(slides, model, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://me:secret@host/a/slide.svs?sig=abc#x", "https://host/a/slide.svs"),
        ("s3://key:secret@bucket/folder", "s3://bucket/folder"),
        ("s3://bucket/who@where/slide.svs", "s3://bucket/who@where/slide.svs"),
        ("https://host?sig=abc", "https://host"),
    ],
)
def test_no_access_to_an_address_is_written(given, kept):
    assert without_access(given) == kept

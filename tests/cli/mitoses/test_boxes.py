"""``pathology boxes``, as a user meets it."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pathology.annotations import BrokenBoxesError
from pathology.cli.app import app
from pathology.errors import UsageError


@pytest.fixture
def given(tmp_path):
    for name in ("a", "b", "c"):
        Image.fromarray(np.full((128, 128, 3), 200, np.uint8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "boxes.csv"
    table.write_text("slide,label,x,y\na,mitosis,60,60\na,apoptosis,100,30\nb,,,\n")
    fields = [part for name in ("a", "b", "c") for part in ("--slides", str(tmp_path / f"{name}.png"))]
    return ["boxes", *fields, "--boxes", str(table), "--mpp", "0.25", "--box-size", "12.5"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_what_was_read_is_said(given):
    result = run(*given, "--whole", "--class", "apoptosis=look-alike")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "a: 1 mitoses, 1 look-alikes, looked at: all of it, 0.25 µm per pixel",
        "b: 0 mitoses, 0 look-alikes, looked at: all of it, 0.25 µm per pixel",
        "2 slides, 1 mitoses, 1 look-alikes; CSV.",
        "1 slides have no annotations and are left out; first: c",
    ]


def test_broken_boxes_are_listed(given):
    error = run(*given).exception
    assert isinstance(error, BrokenBoxesError)
    assert [kind for kind, _ in error.problems] == ["unknown class", "looked-at tissue unknown"]


@pytest.mark.parametrize("text", ["apoptosis", "apoptosis=dead", "=mitosis"])
def test_a_class_needs_a_meaning(given, text):
    error = run(*given, "--class", text).exception
    assert isinstance(error, UsageError)
    assert "NAME=MEANING" in str(error)

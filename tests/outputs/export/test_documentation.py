"""The page about exports: its code runs, and it lists every format and no other."""

import re
from pathlib import Path

import pytest

from pathology.outputs.export.exports import BATCH_FORMATS, FORMATS
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "exports.md").read_text(encoding="utf-8")


def test_its_code_runs(tmp_path):
    out = write_constructed_results(tmp_path / "out", detections=20, dimensions=(1500, 1200))
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 4
    names = {"OUT": out, "FOLDER": tmp_path / "exports"}
    exec("\n".join(blocks), names)
    assert names["path"].exists()
    assert max(names["picture"].shape[:2]) >= 800
    assert open_results(out)["square"].decisions()[0].verdict == "rejected"


def test_it_lists_every_format_with_its_file():
    listed = dict(re.findall(r"^\| `([\w-]+)` \| `([^`]+)` \|", PAGE, re.MULTILINE))
    expected = {name: f"<slide>{kind.suffix}" for name, kind in FORMATS.items()}
    assert listed == expected | {name: kind.file for name, kind in BATCH_FORMATS.items()}


def test_the_viewers_page_lists_its_keys():
    source = DOCS.parent / "viewer-src" / "src" / "slide_page.ts"
    if not source.exists():
        pytest.skip("needs the source tree")
    text = source.read_text(encoding="utf-8")
    keys = {
        key for line in re.findall(r'^  \["([^"]+)", "', text, re.MULTILINE) for key in re.findall(r"\b[a-z]\b", line)
    }
    page = (DOCS / "viewer.md").read_text(encoding="utf-8")
    assert keys
    assert all(f"`{key}`" in page for key in keys)


def test_the_command_exports_and_imports_a_review(tmp_path):
    from typer.testing import CliRunner

    from pathology.cli.app import app

    out = write_constructed_results(tmp_path / "out", failed=("bad",), detections=20, dimensions=(1500, 1200))
    run = CliRunner().invoke
    done = run(app, ["export", str(out), "-f", "detections", "-f", "excel", "--slide", "square"])
    assert done.exit_code == 0, done.output
    edited = out / "exports" / "square.detections.geojson"
    assert (out / "exports" / "results.xlsx").exists()
    lines = edited.read_text().splitlines(keepends=True)
    counted = next(index for index, line in enumerate(lines) if '"name":"mitosis"' in line)
    edited.write_text("".join(line for index, line in enumerate(lines) if index != counted))
    done = run(app, ["import-review", str(out), "square", str(edited)])
    assert done.exit_code == 0, done.output
    assert "0 accepted, 1 rejected" in done.output
    done = run(app, ["export", str(out), "-f", "geojson"])
    assert done.exit_code == 1
    assert "bad: not exported as geojson: the slide was not scored" in done.output

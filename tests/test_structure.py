"""The import contracts see every room, and a heavy library is imported in one file."""

import ast
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import pathology

PACKAGE = Path(pathology.__file__).parent
ROOT = Path(__file__).parents[1]

IN_ONE_FILE = (
    "SimpleITK",
    "albumentations",
    "dask_jobqueue",
    "highdicom",
    "idc_index_data",
    "lifelines",
    "mirp",
    "monai",
    "nncf",
    "openslide",
    "openvino",
    "tiatoolbox",
    "torchsurv",
    "ultralytics",
    "wsidicom",
)
"""Heavy or copyleft."""

TESTS_ONLY = ("mapie", "ome_zarr", "playwright", "pytorch_grad_cam", "sksurv", "torchmetrics")


@cache
def imports():
    """Return each module imported anywhere in the package, with the file that does."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are written out in full"
                names = [node.module]
            found.extend((path.relative_to(PACKAGE), name) for name in names)
    return found


_LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder):
    """Check the contracts of pyproject.toml on a copy of the package."""
    return subprocess.run(
        [sys.executable, "-c", _LINT, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(PACKAGE, folder / "pathology", ignore=lambda _, names: [n for n in names if n == "static"])
    return folder


PLANTED = {
    "slide/thumbnail.py": "pathology.training.common.checkpoint",
    "survival/groups.py": "pathology.radiology.io.cohort",
    "cohorts/selection.py": "pathology.systems.system",
    "outputs/reports/batch.py": "pathology.slide.open",
    "radiology/io/geometry.py": "pathology.radiology.models.recipe",
}


def test_the_contracts_hold(copied):
    found = lint(copied)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_import_is_found(copied, where):
    path = copied / "pathology" / where
    kept = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{kept}\n\ndef planted():\n    import {PLANTED[where]}\n", encoding="utf-8")
        found = lint(copied)
    finally:
        path.write_text(kept, encoding="utf-8")
    assert found.returncode == 1
    assert PLANTED[where] in found.stdout


def test_a_heavy_library_is_met_in_one_file():
    where = defaultdict(set)
    for path, name in imports():
        where[name.split(".")[0]].add(str(path))
    assert not {name: where[name] for name in IN_ONE_FILE if len(where[name]) > 1}
    assert not {name: where[name] for name in TESTS_ONLY if where[name]}


def test_no_folder_is_too_full():
    crowded = {
        str(folder.relative_to(ROOT)): len(files)
        for top in (PACKAGE, ROOT / "tests")
        for folder in (top, *(path for path in top.rglob("*") if path.is_dir()))
        if len(files := list(folder.glob("*.py"))) > 20
    }
    assert not crowded

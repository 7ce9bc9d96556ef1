"""The rules of the house: which room may use which, and where a heavy library may be met."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

import pathology

PACKAGE = Path(pathology.__file__).parent

ROOMS = ("slide", "tiling", "networks", "bundle", "inference", "findings", "outputs", "viewer")
"""In the order in which data walks through them; each may use those before it."""

EVERYBODYS = {"errors", "settings", "training"}

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


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_only_those_before_it(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *EVERYBODYS}
    if room == "networks":
        allowed = {"networks", "errors"}
    used = {
        f"{path} uses {name}"
        for path, name in imports()
        if path.parts[0] == room and name.startswith("pathology.") and name.split(".")[1] not in allowed
    }
    assert not used


def test_nothing_uses_the_command_line_or_the_test_suites():
    used = {
        f"{path} uses {name}"
        for path, name in imports()
        if name.startswith(("pathology.cli", "pathology.testing"))
        and path.parts[0] not in ("cli", "testing", "__main__.py")
    }
    assert not used


def test_a_heavy_library_is_met_in_one_file():
    where = defaultdict(set)
    for path, name in imports():
        where[name.split(".")[0]].add(str(path))
    assert not {name: where[name] for name in IN_ONE_FILE if len(where[name]) > 1}
    assert not {name: where[name] for name in TESTS_ONLY if where[name]}


def test_errors_and_settings_stand_below_everything():
    used = {
        f"{path} uses {name}"
        for path, name in imports()
        if str(path) in ("errors.py", "settings.py") and name.startswith("pathology.") and name != "pathology.errors"
    }
    assert not used

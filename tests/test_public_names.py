"""The public names: what `dir` shows, that every name is there, documented, and cheap to reach."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import pathology

INNER = sorted(module.name for module in pkgutil.walk_packages(pathology.__path__, "pathology.") if module.ispkg)
ROOMS = ["pathology", *INNER]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_shows_its_public_names_and_nothing_else(room):
    module = importlib.import_module(room)
    assert module.__doc__
    assert module.__all__
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        # A constant has the documentation of its type, which says nothing of it.
        if not isinstance(value, str | int | float | tuple | frozenset | dict):
            assert inspect.getdoc(value), f"{room}.{name} has no docstring"
    assert dir(module) == sorted(module.__all__)  # also after their modules have been imported
    assert not hasattr(module, "no_such_name")


def test_a_function_named_like_its_module_stays_a_function():
    code = (
        "import pathology.stats.bootstrap, pathology.scoring.tile, pathology\n"
        "assert callable(pathology.stats.bootstrap) and callable(pathology.scoring.tile) and callable(pathology.tile)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, pathology; dir(pathology)\n"
        "heavy = {'numpy', 'pandas', 'torch', 'zarr', 'dask', 'cv2', 'scipy', 'pydantic', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "own = {m for m in sys.modules if m.startswith('pathology.')}\n"
        "assert own == {'pathology.lazy_names', 'pathology.nameless_user'}, own"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom pathology.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'pandas', 'torch', 'zarr', 'dask', 'cv2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The examples in docstrings: every public function has one, and all of them run."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import pathology
from pathology.testing.constructed_results import write_constructed_results
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture

INNER = sorted(module.name for module in pkgutil.walk_packages(pathology.__path__, "pathology.") if module.ispkg)


def _with_examples():
    """Public functions, and public classes whose own docstrings or methods have an example, each once."""
    found = {}
    for room in ("pathology", *INNER):
        module = importlib.import_module(room)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or (inspect.isclass(value) and value.__module__.startswith("pathology")):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


PUBLIC = _with_examples()
FUNCTIONS = sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value) and name.split(".")[1] != "cli")
finder = doctest.DocTestFinder(exclude_empty=True)
EXAMPLES = {
    test.name: test
    for name, value in sorted(PUBLIC.items())
    for test in finder.find(value, name, module=importlib.import_module(value.__module__))
    if test.examples
}


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """What examples may use by name: a slide, a model with random weights, and a results folder."""
    root = tmp_path_factory.mktemp("examples")
    (root / "slides").mkdir()
    picture = TissuePicture(1024, 768, seed=1)
    return {
        "np": np,
        "slide_path": write_svs(root / "slides" / "slide.svs", picture, mpp=0.5, factors=(1, 4)),
        "bundle_path": write_random_bundle(root / "models" / "example"),
        "results_path": write_constructed_results(
            root / "scored" / "results", slide_ids=("first", "second"), failed=("broken",)
        ),
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example(name):
    assert name in EXAMPLES, f"give {name} an example in its docstring"


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, material, tmp_path, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_ENCODERS", str(tmp_path / "encoders"))
    test = EXAMPLES[name]
    test.globs = {**test.globs, **material, "folder": tmp_path}
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(test, out=said.append)
    assert result.failed == 0, "".join(said)

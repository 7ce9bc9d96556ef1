import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pathology.errors import MissingDependencyError, UsageError
from pathology.extras import EXTRAS, extra_of, missing_libraries, require_extras

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
DECLARED = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"all", "bench", "dev", "lint", "test"}


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def test_registry_and_project_name_the_same_extras_and_libraries():
    assert set(DECLARED) - FOR_DEVELOPERS == set(EXTRAS)
    for name, extra in EXTRAS.items():
        assert names(DECLARED[name]) == set(map(canonicalize_name, extra.libraries.values())), name


def test_no_library_of_an_extra_is_in_the_base():
    base = names(PROJECT["dependencies"])
    for extra in EXTRAS.values():
        assert base.isdisjoint(map(canonicalize_name, extra.libraries.values()))


def test_all_brings_every_extra_but_the_copyleft_and_those_that_cap_libraries():
    (everything,) = (Requirement(text) for text in DECLARED["all"])
    assert everything.extras == set(EXTRAS) - {"tiatoolbox", "ultralytics"}


def test_missing_library_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lifelines", None)
    assert missing_libraries("survival") == ("lifelines",)
    with pytest.raises(MissingDependencyError) as raised:
        require_extras("training", "survival", what="pathology survival fit")
    assert str(raised.value) == (
        "pathology survival fit needs lifelines. Install it: pip install 'sarcoma-pathology[survival]'."
    )


def test_unknown_extra_and_unknown_module():
    with pytest.raises(UsageError, match="unknown extra 'everything'"):
        missing_libraries("everything")
    assert extra_of("numpy.linalg") is None


def test_documentation_lists_every_extra():
    page = (Path(__file__).parents[1] / "docs" / "install.md").read_text()
    rows = {row.split("|")[1].strip(" `"): row for row in page.splitlines() if row.startswith("| `")}
    assert set(rows) == set(EXTRAS)
    for name, extra in EXTRAS.items():
        assert extra.purpose in rows[name]
        assert ", ".join(extra.libraries.values()) in rows[name]
        assert extra.licence in rows[name]

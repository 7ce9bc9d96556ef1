"""The command line shows the library's warnings; the library itself shows nothing."""

import subprocess
import sys

WARN = "import logging; logging.getLogger('pathology.slide.slide').warning('%s', 'a tile is lost')"


def _stderr(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr


def test_the_library_says_nothing_by_itself():
    assert _stderr(f"import pathology; {WARN}") == ""


def test_the_command_line_shows_warnings():
    code = f"import pathology.cli.app as cli\ncli.app = lambda: exec({WARN!r})\ncli.main()"
    assert _stderr(code) == "pathology: WARNING: a tile is lost\n"

"""Public names from stubs."""

import subprocess
import sys
from pathlib import Path

import lazy_loader
import pytest

from pathology.lazy_names import attach_stub

ROOT = Path(__file__).parents[1] / "pathology"
STUBS = sorted(ROOT.rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_every_stub_is_read_as_the_library_reads_it(stub):
    package = ".".join(stub.parent.relative_to(ROOT.parent).parts)
    ours = attach_stub(package, str(stub.with_suffix(".py")))
    theirs = lazy_loader.attach_stub(package, str(stub.with_suffix(".py")))
    assert ours[2] == theirs[2]
    assert ours[2]
    for name in ours[2]:
        assert ours[0](name) is theirs[0](name)


def test_no_room_parses_its_stub():
    """CPython 3.11 fails when threads parse at once, so importing our rooms must not."""
    code = (
        "import ast, importlib, sys\n"
        "def refuse(*_, **__): raise SystemError('AST constructor recursion depth mismatch')\n"
        "import lazy_loader; ast.parse = refuse\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
    )
    packages = [".".join(stub.parent.relative_to(ROOT.parent).parts) for stub in STUBS]
    subprocess.run([sys.executable, "-c", code, *packages], check=True)

"""Faults of the machine, made by replacing one system call in a child process: a full disk, a failing flush, no memory.

The child scores one slide twice: with the fault, which must end in a row with a reason or in one of the package's
errors, and then without it, which must score the slide.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["FAULTS", "torture_fault"]

FAULTS: Final = {
    "full disk": ("fsync", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "failing flush": ("fsync", OSError(errno.EIO, os.strerror(errno.EIO))),
    "refused rename": ("replace", PermissionError(errno.EACCES, os.strerror(errno.EACCES))),
    "vanishing files": ("pread", FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))),
    "no memory": ("pread", MemoryError()),
    "no descriptors": ("open", OSError(errno.EMFILE, os.strerror(errno.EMFILE))),
}
"""System call that fails, and how, by the fault's name."""


@contextmanager
def _failing(call: str, error: BaseException, after: int) -> Iterator[None]:
    """Make a function of :mod:`os` fail from its so-manieth use on."""
    whole, used = getattr(os, call), 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal used
        used += 1
        if used > after:
            raise error
        return whole(*args, **kwargs)

    setattr(os, call, fail)
    try:
        yield
    finally:
        setattr(os, call, whole)


def torture_fault(name: str, after: int, folder: Path) -> str:
    """Prepare a slide and write a result file while a system call fails; return what happened.

    Parameters
    ----------
    name
        A key of :data:`FAULTS`.
    after
        Uses of the call that succeed before it fails.
    folder
        Empty.

    Returns
    -------
    str
        ``ended well``, ``refused`` (one of the package's errors, and nothing half written), or what went wrong.
    """
    from pathology.atomic_files import write_bytes
    from pathology.errors import PathologyError
    from pathology.slide.open import open_reader
    from pathology.testing import synthetic_slides
    from pathology.testing.synthetic_tissue import TissuePicture

    slide, result = folder / "a.svs", folder / "result.bin"
    synthetic_slides.write_svs(slide, TissuePicture(600, 500, seed=1, tissue=0.6), factors=(1,), mpp=0.5)
    write_bytes(result, b"earlier")
    call, error = FAULTS[name]
    what = "ended well"
    with _failing(call, error, after):
        try:
            with open_reader(slide) as reader:
                reader.read_masked(0, 0, 0, 500, 400)
            write_bytes(result, b"later!!")
        except (PathologyError, MemoryError):  # which the guard of a worker's steps turns into a row
            what = "refused"
        except Exception as unexpected:
            return f"raised {type(unexpected).__name__}: {unexpected}"
    if result.read_bytes() not in (b"earlier", b"later!!") or len(list(folder.iterdir())) != 2:
        return "left something half written"
    return what


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(torture_fault(sys.argv[1], int(sys.argv[2]), Path(scratch)))

"""Public names of a package, read from its ``__init__.pyi`` and imported on first use."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazy_loader

_IMPORT = re.compile(r"^from \.([\w.]*) import (?:\(([^)]*)\)|([^(\n]*))$", re.MULTILINE)


def attach_stub(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the ``__getattr__``, ``__dir__`` and ``__all__`` that a package's stub describes.

    ``lazy_loader.attach_stub`` does the same with :func:`ast.parse`, whose recursion depth CPython 3.11 counts for all
    threads together: worker threads that import rooms side by side ended in ``SystemError: AST constructor recursion
    depth mismatch``.  Stubs hold nothing but imports and ``__all__``, so a regular expression reads them.

    Parameters
    ----------
    package
        The package's ``__name__``.
    file
        Its ``__file__``, beside which the stub lies.

    Examples
    --------
    >>> import pathology.stats
    >>> _, _, names = attach_stub("pathology.stats", pathology.stats.__file__)
    >>> names == sorted(pathology.stats.__all__)
    True
    """
    stub = Path(file).with_suffix(".pyi").read_text(encoding="utf-8")
    rooms: set[str] = set()
    names: dict[str, list[str]] = {}
    for module, several, one in _IMPORT.findall(stub):
        found = [name.strip() for name in (several or one).split(",") if name.strip()]
        if module:
            names.setdefault(module, []).extend(found)
        else:
            rooms.update(found)
    attached: tuple[Callable[[str], Any], Callable[[], list[str]], list[str]] = lazy_loader.attach(
        package, rooms, names
    )
    return attached

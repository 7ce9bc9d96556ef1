"""Names and paths as text that can be printed, stored and sent, whatever bytes a file's name is made of."""

from __future__ import annotations

from os import PathLike, fspath

__all__ = ["path_text", "valid_text"]


def valid_text(text: str) -> str:
    r"""Return text that can be written as UTF-8.

    Bytes of a file name that are not valid text (lone surrogates in Python) become ``\udcNN``.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def path_text(path: str | PathLike[str]) -> str:
    r"""Return a path as text for tables, pages and messages; the path itself opens the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> path_text(Path("slides") / "caf\udce9.svs")
    'slides/caf\\udce9.svs'
    """
    return valid_text(fspath(path))

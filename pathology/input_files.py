"""Files and folders from elsewhere: only regular files are opened, folders are walked once and within bounds.

Whatever a file holds, reading it ends in a value or in one of the package's errors: readers of other libraries run
inside :func:`reading`, which turns what they raise into a reason.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pathology.errors import PathologyError

__all__ = [
    "FolderContent",
    "describe_irregular",
    "files_below",
    "read_json",
    "read_limited",
    "read_yaml",
    "reading",
    "require_regular",
    "walk_folder",
]

MOST_LEVELS: Final = 100
"""Deepest nesting of folders that is searched; archives are a dozen deep."""
MOST_ENTRIES: Final = 2_000_000
"""Most files and folders looked at below one folder: some thousand DICOM series."""
_DEEPEST_JSON: Final = 100
"""Nesting of JSON that is read; ours is eight deep, GeoJSON twelve."""
_REASON: Final = 300
"""Most characters of another library's message that are passed on."""

_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def describe_irregular(path: Path) -> str:
    """Return what a path is if reading it as a file could wait for ever or never end; empty for a regular file.

    Links are followed.  Nothing is opened.

    Raises
    ------
    OSError
        If there is nothing at the path, or it may not be looked at.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return ""
    return next((name for matches, name in _KINDS if matches(mode)), "not a regular file")


def require_regular(path: Path, kind: type[PathologyError]) -> None:
    """Refuse a named pipe, a device, a socket or a folder where a file is expected.

    Parameters
    ----------
    path
        What is about to be opened.
    kind
        The error to raise.

    Raises
    ------
    PathologyError
        Of that kind, if it is no regular file, does not exist, or its name is no name of a file.
    """
    try:
        irregular = describe_irregular(path)
    except FileNotFoundError:
        raise kind("file not found", where=path, remedy="Check the name and the folder") from None
    except (OSError, ValueError) as error:
        # ValueError: the name contains a NUL character.
        raise kind(f"the file cannot be read ({_short(error)})", where=path) from error
    if irregular:
        raise kind(f"this is {irregular}, not a file", where=path, remedy="Give a regular file")


@contextmanager
def reading(
    path: Path, kind: type[PathologyError], *, what: str = "the file cannot be read", remedy: str | None = None
) -> Iterator[None]:
    """Turn whatever reading a file raises into one of the package's errors.

    A damaged file surfaces as whatever its garbage provokes in the library that reads it: a list of expected
    exceptions is never complete.

    Parameters
    ----------
    path
        The file or folder being read.
    kind, what, remedy
        The error to raise, and what it says.

    Raises
    ------
    PathologyError
        The package's own errors as they are; anything else, lack of memory included, as ``kind``.

    Examples
    --------
    >>> from pathology.errors import CorruptSlideError
    >>> with reading(folder / "a.svs", CorruptSlideError, what="the slide is damaged"):
    ...     raise NotImplementedError("CQ")
    Traceback (most recent call last):
    ...
    pathology.errors.CorruptSlideError: ...a.svs: the slide is damaged (CQ)
    """
    try:
        yield
    except PathologyError:
        raise
    except MemoryError as error:
        raise kind(f"{what} (it needs more memory than there is)", where=path, remedy=remedy) from error
    except RecursionError as error:
        raise kind(f"{what} (it is nested too deep)", where=path, remedy=remedy) from error
    except Exception as error:
        raise kind(f"{what} ({_short(error)})", where=path, remedy=remedy) from error


def _short(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (" ".join(said.split()) or type(error).__name__)[:_REASON]


def read_limited(path: Path, kind: type[PathologyError], most: int) -> bytes:
    """Read a regular file of at most so many bytes.

    Raises
    ------
    PathologyError
        Of ``kind``, if it is larger, no regular file, or cannot be read.
    """
    require_regular(path, kind)
    with reading(path, kind), path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise kind(f"the file is larger than {most / 2**20:,.0f} MiB", where=path)
    return data


def read_json(path: Path, kind: type[PathologyError], *, most: int = 64 * 2**20) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file of bounded size and depth.

    Raises
    ------
    PathologyError
        Of ``kind``, if it is too large, nested too deep, or is no JSON.

    Examples
    --------
    >>> from pathology.errors import StoreError
    >>> _ = (folder / "a.json").write_text('{"n": [1, 2]}')
    >>> read_json(folder / "a.json", StoreError)
    {'n': [1, 2]}
    """
    data = read_limited(path, kind, most)
    with reading(path, kind, what="the file is not valid JSON"):
        text = data.decode("utf-8-sig")
        _refuse_deep(text, path, kind)
        return json.loads(text)


def read_yaml(
    path: Path,
    kind: type[PathologyError],
    *,
    most: int = 16 * 2**20,
    what: str = "the file is not valid YAML",
) -> Any:  # noqa: ANN401 - any YAML value
    """Read a YAML file of bounded size, plain values only.

    Raises
    ------
    PathologyError
        Of ``kind``, if it is too large, nested too deep, or is no YAML.

    Examples
    --------
    >>> from pathology.errors import BundleError
    >>> _ = (folder / "a.yaml").write_text("n: [1, 2]")
    >>> read_yaml(folder / "a.yaml", BundleError)
    {'n': [1, 2]}
    """
    import yaml

    data = read_limited(path, kind, most)
    with reading(path, kind, what=what):
        return yaml.safe_load(data.decode("utf-8-sig"))


def _refuse_deep(text: str, path: Path, kind: type[PathologyError]) -> None:
    """Refuse deep nesting before anything is built from it: a megabyte of brackets is a hundred of Python lists."""
    if text.count("[") + text.count("{") <= _DEEPEST_JSON:
        return
    depth, inside, escaped = 0, False, False
    for character in text:
        if inside:
            inside = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            inside = True
        elif character in "[{":
            depth += 1
            if depth > _DEEPEST_JSON:
                raise kind(f"the values are nested more than {_DEEPEST_JSON} deep", where=path)
        elif character in "]}":
            depth -= 1


@dataclass(frozen=True, slots=True)
class FolderContent:
    """One folder of a walk.

    Attributes
    ----------
    folder
        The folder.
    entries
        What lies in it, in no order.
    problem
        Why it was not searched, or not to its end; empty if it was.
    """

    folder: Path
    entries: tuple[Path, ...]
    problem: str = ""


def walk_folder(
    top: Path, *, order: Callable[[Path], Any] = str, enter: Callable[[Path], bool] = lambda _: True
) -> Iterator[FolderContent]:
    """Walk a folder and its subfolders, each once however many links lead to it, within bounds.

    Parameters
    ----------
    top
        The folder.
    order
        Sorts the subfolders of a folder; of several ways to a folder the first is taken.
    enter
        Whether to walk into a subfolder.

    Yields
    ------
    FolderContent
        Every folder, ``top`` first; those that cannot be read, lie more than 100 levels deep or follow 2,000,000
        entries with the reason.

    Examples
    --------
    >>> (folder / "a" / "b").mkdir(parents=True)
    >>> (folder / "a" / "loop").symlink_to(folder)
    >>> [content.folder.name for content in walk_folder(folder)][1:]
    ['a', 'b']
    """
    seen: set[tuple[int, int]] = set()
    waiting = [(top, 0)]
    entries = 0
    while waiting:
        folder, depth = waiting.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            problem = _beyond(depth, entries)
            found = () if problem else tuple(folder / name for name in os.listdir(folder))  # noqa: PTH208 - names of any bytes, without a stat each
        except OSError as error:
            problem, found = f"the folder cannot be read ({_short(error)})", ()
        entries += len(found)
        yield FolderContent(folder, found, problem)
        below = sorted((path for path in found if _is_folder(path) and enter(path)), key=order, reverse=True)
        waiting += [(path, depth + 1) for path in below]


def files_below(top: Path, kind: type[PathologyError]) -> list[Path]:
    """Return the regular files in a folder and its subfolders, sorted.

    Raises
    ------
    PathologyError
        Of ``kind``, if a folder cannot be searched: a part of a study would be missing unnoticed.
    """
    files: list[Path] = []
    for content in walk_folder(top):
        if content.problem:
            raise kind(content.problem, where=content.folder)
        files += [path for path in content.entries if path.is_file()]
    return sorted(files)


def _beyond(depth: int, entries: int) -> str:
    if depth > MOST_LEVELS:
        return f"the folder is nested more than {MOST_LEVELS} levels deep and was not searched"
    if entries > MOST_ENTRIES:
        return f"the folder was not searched: {MOST_ENTRIES:,} files and folders were looked at before it"
    return ""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False

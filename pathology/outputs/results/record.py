"""``slide.json``: the record of a slide, with checksums of itself and of every file beside it.

A results folder may be copied, truncated or damaged between writing and reading.  Files are therefore checked before
they are read: a damaged file raises an error that names it, and is never used as a result.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathology.atomic_files import write_text
from pathology.errors import StoreError
from pathology.findings.slide_result import SlideResult
from pathology.input_files import read_json
from pathology.outputs.results.layout import RECORD

__all__ = [
    "StoredRecord",
    "check_files",
    "checksum_of",
    "damaged_files",
    "file_checksum",
    "read_slide_record",
    "write_slide_record",
]

_REMEDY = "Run the same pathology score command again, with --verify: it rescores this slide and keeps the others"


@dataclass(frozen=True)
class StoredRecord:
    """A slide's record on disk.

    Attributes
    ----------
    result
        The result.
    files
        SHA-256 of each file written with it, by its path in the slide's folder.
    """

    result: SlideResult
    files: Mapping[str, str]


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_slide_record(folder: Path, result: SlideResult, files: Iterable[Path] = ()) -> None:
    """Write a slide's record, as the last file: a folder that has one is complete.

    Parameters
    ----------
    folder
        The slide's folder.
    result
        The result.
    files
        Files and folders already written, whose checksums are added to the record.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    written = sorted(path for given in files for path in _files(given))
    record: dict[str, Any] = {
        **result.model_dump(mode="json"),
        "files": {path.relative_to(folder).as_posix(): file_checksum(path) for path in written},
    }
    write_text(folder / RECORD, json.dumps({"checksum": checksum_of(record), **record}, indent=1, ensure_ascii=False))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [child for child in path.rglob("*") if child.is_file()]
    return [path] if path.is_file() else []


def checksum_of(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, independent of key order and white space."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_slide_record(folder: Path) -> StoredRecord:
    """Read a slide's record.

    Raises
    ------
    FileNotFoundError
        If there is no record: the slide is not finished.
    StoreError
        If it is damaged.
    """
    path = folder / RECORD
    try:
        if stat.S_ISLNK(path.lstat().st_mode):
            raise ValueError("it is a link, which is not followed")
        record = read_json(path, StoreError)
        stated = record.pop("checksum")
        if stated != checksum_of(record):
            raise ValueError("its checksum does not match")
        files = record.pop("files")
        return StoredRecord(SlideResult.model_validate(record), dict(files))
    except FileNotFoundError:
        raise
    except KeyError as error:
        raise StoreError("this slide record was written by another version", where=path, remedy=_REMEDY) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        said = "a link, which is not followed" if path.is_symlink() else "damaged"
        raise StoreError(f"this slide record is {said}", where=path, remedy=_REMEDY) from error


def damaged_files(folder: Path, record: StoredRecord, *, within: str = "", thorough: bool = True) -> list[str]:
    """Return which of a slide's files are missing or differ from what was written.

    Parameters
    ----------
    folder
        The slide's folder.
    record
        Its record.
    within
        Check only this file, or the files of this folder.
    thorough
        Read every file.  Otherwise files not modified since the record was written are assumed to be intact, without
        reading them.
    """
    finished = (folder / RECORD).stat().st_mtime_ns
    found = []
    plain: dict[Path, bool] = {}
    for name, checksum in record.files.items():
        if within and name != within and not name.startswith(f"{within}/"):
            continue
        path = folder / name
        try:
            about = path.lstat()
            # The record may be somebody else's: no file outside the folder is opened, and no link followed.
            if not stat.S_ISREG(about.st_mode) or not _lies_in(path.parent, folder, plain):
                found.append(name)
                continue
            untouched = about.st_mtime_ns <= finished
            if (thorough or not untouched) and file_checksum(path) != checksum:
                found.append(name)
        except OSError:
            found.append(name)
    return found


def _lies_in(inner: Path, folder: Path, known: dict[Path, bool]) -> bool:
    """Whether a folder is another one or lies in it, without links and without steps upwards."""
    if inner == folder:
        return True
    if inner not in known:
        below = inner.is_relative_to(folder) and inner.name != ".." and not inner.is_symlink()
        known[inner] = below and _lies_in(inner.parent, folder, known)
    return known[inner]


def check_files(folder: Path, name: str) -> None:
    """Check a file of a slide, or a folder of files, against the record.

    Parameters
    ----------
    folder
        The slide's folder.
    name
        Name of the file or folder in it.

    Raises
    ------
    StoreError
        If a file is missing or damaged, naming it; if there is a link among them; or if the slide has no record.
    """
    for path in (folder, folder / name, *(folder / name).rglob("*")):
        if path.is_symlink():
            raise StoreError("this is a link, and links in results are not followed", where=path)
    try:
        record = read_slide_record(folder)
    except FileNotFoundError as error:
        raise StoreError("the slide is not finished", where=folder, remedy=_REMEDY) from error
    damaged = damaged_files(folder, record, within=name)
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise StoreError(f"{damaged[0]}{more} is missing or damaged", where=folder, remedy=_REMEDY)

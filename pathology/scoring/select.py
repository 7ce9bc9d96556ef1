"""Selection of slides from files, folders and manifests, each with its identity."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from pathology.errors import InputTableError, UsageError
from pathology.slide.open import find_slides
from pathology.slide.remote import slides_at, url_of, without_access

__all__ = ["SlideEntry", "lasting_source", "read_manifest", "select_slides"]

_COLUMNS = {"path", "slide_id", "patient_id", "mpp"}


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """One slide to score.

    Attributes
    ----------
    slide_id
        Unique in the run; also the name of the slide's results folder.
    path
        The slide file; for a remote slide, its URL as a path, for display.
    patient_id
        From the manifest, else ``None``.
    mpp
        Micrometres per level-0 pixel from the manifest, else ``None``.
    url
        URL of a remote slide, such as ``s3://bucket/slide.svs``.
    """

    slide_id: str
    path: Path
    patient_id: str | None = None
    mpp: float | None = None
    url: str | None = None


def select_slides(sources: Iterable[str | PathLike[str]]) -> tuple[SlideEntry, ...]:
    """Expand files, folders and CSV manifests into slides with unique ids.

    A slide without a given id is named after its file without the extension; if two are equal, the folder name and then
    the extension are added.

    Parameters
    ----------
    sources
        Slide files, folders of slides, ``.csv`` manifests (see :func:`read_manifest`), or URLs of slides and folders
        supported by fsspec (``s3://bucket/folder``).

    Raises
    ------
    UsageError
        If a source does not exist or contains no slides.
    InputTableError
        If a manifest is invalid.
    """
    given: list[SlideEntry] = []
    for given_source in sources:
        if (url := url_of(given_source)) is not None:
            given.extend(_at_address(slide) for slide in slides_at(url))
            continue
        source = Path(given_source)
        if not source.exists():
            raise UsageError("no such file or folder", where=source, remedy="Check the path")
        if source.suffix.lower() == ".csv" and source.is_file():
            given.extend(read_manifest(source))
        else:
            given.extend(SlideEntry("", path) for path in find_slides([source]))
    if not given:
        raise UsageError("no slides found", remedy="Give slide files, folders with slides, or a CSV manifest")
    unique: dict[str | Path, SlideEntry] = {}
    for entry in given:  # a file given twice is one slide; values from a manifest take precedence
        key = entry.url or entry.path.resolve()
        if key not in unique or entry.slide_id:
            unique[key] = entry
    return _with_ids(list(unique.values()))


def lasting_source(source: str) -> str:
    """Return a source as a record may hold it: a full path, or an address without what gives access to it."""
    url = url_of(source)
    return str(Path(source).absolute()) if url is None else without_access(url)


def _at_address(url: str) -> SlideEntry:
    return SlideEntry("", Path(url), url=url)


def _with_ids(entries: list[SlideEntry]) -> tuple[SlideEntry, ...]:
    namings: tuple[Callable[[Path], str], ...] = (
        lambda p: p.name if p.is_dir() else p.stem,
        lambda p: f"{p.parent.name}-{p.stem}",
        lambda p: f"{p.parent.name}-{p.name}",
    )
    names = [entry.slide_id or _folder_name(namings[0](entry.path)) for entry in entries]
    for naming in namings[1:]:
        clashes = {name for name, count in Counter(n.casefold() for n in names).items() if count > 1}
        names = [
            _folder_name(naming(entry.path)) if not entry.slide_id and name.casefold() in clashes else name
            for entry, name in zip(entries, names, strict=True)
        ]
    seen: Counter[str] = Counter()
    result = []
    for entry, name in zip(entries, names, strict=True):
        seen[name.casefold()] += 1
        number = seen[name.casefold()]
        if number > 1 and entry.slide_id:
            raise InputTableError(f"duplicate slide_id {name!r}", remedy="Give every slide a unique id")
        result.append(replace(entry, slide_id=name if number == 1 else f"{name}-{number}"))
    return tuple(result)


def _folder_name(name: str) -> str:
    """Make a name a valid folder name on every file system, keeping letters of any script, spaces and emoji."""
    name = unicodedata.normalize("NFC", name)
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name).strip(" .")
    return name.encode()[:200].decode(errors="ignore") or "slide"


def read_manifest(path: Path) -> list[SlideEntry]:
    """Read a CSV manifest.

    Parameters
    ----------
    path
        UTF-8 CSV with a header: ``path`` (relative to the manifest, absolute or a URL) and optionally
        ``slide_id``, ``patient_id`` and ``mpp`` (micrometres per level-0 pixel).  Other columns are ignored.

    Raises
    ------
    InputTableError
        With the row and column of the problem.
    """
    entries: list[SlideEntry] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            header = rows.fieldnames or []
            if "path" not in header:
                similar = [name for name in header if name.strip().casefold() in _COLUMNS]
                raise InputTableError(
                    f"the manifest has no column 'path' (it has: {', '.join(header) or 'none'})",
                    where=path,
                    remedy=f"Rename a column{' (' + similar[0] + '?)' if similar else ''} to 'path'",
                )
            entries.extend(_entry(row, path, rows.line_num) for row in rows)
    except UnicodeDecodeError as error:
        raise InputTableError("the manifest is not UTF-8 text", where=path, remedy="Save it as CSV UTF-8") from error
    except csv.Error as error:
        raise InputTableError(f"the manifest is not a CSV file ({error})", where=path) from error
    if not entries:
        raise InputTableError("the manifest lists no slides", where=path)
    return entries


def _entry(row: dict[str, str | None], manifest: Path, line: int) -> SlideEntry:
    where = f"{manifest}, line {line}"
    raw = (row.get("path") or "").strip()
    if not raw:
        raise InputTableError("column 'path' is empty", where=where)
    url = url_of(raw)
    slide = Path(raw) if url or Path(raw).is_absolute() else manifest.parent / raw
    mpp = None
    if text := (row.get("mpp") or "").strip():
        try:
            mpp = float(text)
        except ValueError:
            mpp = float("nan")
        if not mpp > 0:
            raise InputTableError(
                f"column 'mpp' contains {text!r}", where=where, remedy="Give micrometres per pixel, such as 0.25"
            ) from None
    identity = (row.get("slide_id") or "").strip()
    if identity and identity != _folder_name(identity):
        raise InputTableError(
            f"slide_id {identity!r} is not a valid folder name", where=where, remedy='Do not use / \\ : * ? " < > |'
        )
    return SlideEntry(identity, slide, (row.get("patient_id") or "").strip() or None, mpp, url)

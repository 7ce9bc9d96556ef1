"""Selection of slides from files, folders and manifests, each with its identity."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

from pathology.errors import InputTableError, PathologyError, UsageError
from pathology.path_text import path_text, valid_text
from pathology.settings import home_folder
from pathology.slide.open import search_slides, slide_suffixes
from pathology.slide.remote import slides_at, url_of, without_access
from pathology.slide.scale import COARSEST_MPP, FINEST_MPP
from pathology.slide.unread import describe_unread
from pathology.text_tables import TableRow, read_number, read_text_table

__all__ = ["SlideEntry", "lasting_source", "read_manifest", "select_slides"]

logger = logging.getLogger(__name__)

_MANIFEST_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"})

_COLUMNS: Final = {
    "path": (
        *("wsi", "wsi_path", "filename", "file", "file_path", "slide", "slide_path", "slide_file"),
        *("image", "image_path", "image_file"),
    ),
    "slide_id": ("id", "sample_id", "image_id", "wsi_id"),
    "patient_id": ("patient", "case_id", "case", "subject_id", "subject"),
    "mpp": ("spacing_at_level_0", "microns_per_pixel", "pixel_size_um"),
}
"""Columns of a manifest and their names in other programs' lists, such as TRIDENT's, CLAM's and hs2p's."""


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
    problem
        Why it cannot be used, known from its selection: a folder that may not be read, a source that is not there.
        Empty otherwise.  It gets its row all the same.
    """

    slide_id: str
    path: Path
    patient_id: str | None = None
    mpp: float | None = None
    url: str | None = None
    problem: str = ""


def select_slides(sources: Iterable[str | PathLike[str]]) -> tuple[SlideEntry, ...]:
    """Expand files, folders and CSV manifests into slides with unique ids.

    A slide without a given id is named after its file without the extension; if two are equal, the folder name and then
    the extension are added.

    Parameters
    ----------
    sources
        Slide files, folders of slides, manifests (``.csv``, ``.tsv`` or ``.txt``; see :func:`read_manifest`), or URLs
        of slides and folders supported by fsspec (``s3://bucket/folder``).  Slides of formats that are not read are
        counted in one warning.

    Returns
    -------
    tuple of SlideEntry
        Among other sources that can be used, one that cannot, and a folder that cannot be searched, is an entry with
        its ``problem``: it gets a row with the reason, and the others are scored.

    Raises
    ------
    UsageError
        If no source can be used; the first one's error.  If none contains a slide.
    InputTableError
        If a manifest is invalid.
    """
    given: list[SlideEntry] = []
    folders: list[Path] = []
    refused: list[PathologyError] = []
    for source in sources:
        try:
            given.extend(_expanded(source, folders))
        except InputTableError:
            raise  # a manifest is corrected as a whole: a misread column would cost a patient
        except PathologyError as error:
            refused.append(error)
            given.append(SlideEntry("", Path(source), problem=str(error)))
    if refused and all(entry.problem for entry in given):
        raise refused[0]
    unread = describe_unread(folders)
    if not given:
        raise UsageError(
            f"no slides found{f'; {unread}' if unread else ''}",
            remedy="Give slide files, folders with slides, or a CSV manifest",
        )
    if unread:
        logger.warning("%s", unread)
    return _with_ids(_each_once(given))


def _expanded(given: str | PathLike[str], folders: list[Path]) -> list[SlideEntry]:
    """Return the slides of one source, and add it to ``folders`` if it may be one."""
    if (url := url_of(given)) is not None:
        return [_at_address(slide) for slide in slides_at(url)]
    source = Path(given)
    if not _exists(source):
        raise UsageError("no such file or folder", where=source, remedy="Check the path")
    if source.suffix.lower() in _MANIFEST_SUFFIXES and not source.is_dir():
        return read_manifest(source)
    folders.append(source)
    found = search_slides([source])
    return [
        *(SlideEntry("", path) for path in found.slides),
        *(SlideEntry("", folder, problem=problem) for folder, problem in found.problems.items()),
    ]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # the name is too long, or contains a NUL character
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _each_once(given: Sequence[SlideEntry]) -> list[SlideEntry]:
    """Return every slide once: a file given twice is one slide, unless a manifest lists it under several ids."""
    named: dict[str | Path, dict[str, SlideEntry]] = {}
    for entry in given:
        key = entry.url or _resolved(entry.path)
        ids = named.setdefault(key, {})
        if entry.slide_id:
            ids.pop("", None)
            ids[entry.slide_id] = entry
        elif not ids:
            ids[""] = entry
    return [entry for ids in named.values() for entry in ids.values()]


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, or a NUL character: opening it says so
        return path.absolute()


def lasting_source(source: str) -> str:
    """Return a source as a record may hold it: a full path, or an address without what gives access to it."""
    url = url_of(source)
    return path_text(Path(source).absolute()) if url is None else without_access(url)


def _at_address(url: str) -> SlideEntry:
    return SlideEntry("", Path(url), url=url)


def _bare_name(path: Path) -> str:
    """Return a slide's name without its ending; a folder's name has none, unless it is an OME-Zarr image."""
    zarr = re.fullmatch(r"(.+?)(\.ome)?(\.zarr(\.zip)?|\.ozx)", path.name, re.IGNORECASE)
    if zarr is not None:
        return zarr[1]
    return path.name if _is_folder(path) else path.stem


def _with_ids(entries: list[SlideEntry]) -> tuple[SlideEntry, ...]:
    namings: tuple[Callable[[Path], str], ...] = (
        _bare_name,
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
            raise InputTableError(
                f"duplicate slide_id {name!r}", where=entry.path, remedy="Give every slide a unique id"
            )
        result.append(replace(entry, slide_id=name if number == 1 else f"{name}-{number}"))
    return tuple(result)


def _folder_name(name: str) -> str:
    """Make a name a valid folder name on every file system, keeping letters of any script, spaces and emoji."""
    name = unicodedata.normalize("NFC", valid_text(name))
    name = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", name).strip(" .")
    return name.encode()[:200].decode(errors="ignore") or "slide"


def read_manifest(path: Path) -> list[SlideEntry]:
    """Read a manifest.

    Parameters
    ----------
    path
        Table with a header (see :func:`pathology.text_tables.read_text_table`): ``path`` (relative to the manifest,
        absolute, below ``~``, or a URL) and optionally ``slide_id``, ``patient_id`` and ``mpp`` (micrometres per
        level-0 pixel), or other programs' names of them.  Other columns are ignored.  A bare list of files is read too.
        A file listed under two ids is two slides.

    Raises
    ------
    InputTableError
        With the row and column of the problem.
    """
    table = read_text_table(
        path, _COLUMNS, required=("path",), kind="manifest", list_of="path", list_suffixes=slide_suffixes()
    )
    if not table.rows:
        raise InputTableError("the manifest lists no slides", where=path)
    entries = [_entry(row, path) for row in table.rows]
    _check_ids(entries, table.rows, path)
    return entries


def _entry(row: TableRow, manifest: Path) -> SlideEntry:
    where = f"{manifest}, line {row.line}"
    raw = row.values["path"]
    if not raw:
        raise InputTableError("column 'path' is empty", where=where)
    url = url_of(raw)
    slide = Path(raw) if url else _file(raw, manifest.parent)
    if row.excess and not url and not _exists(slide):
        raise InputTableError(
            f"the row has more values than the header has columns, and the file {raw!r} does not exist",
            where=where,
            remedy="Put values that contain the separator in quotation marks",
        )
    identity = row.values.get("slide_id", "")
    if identity and identity != _folder_name(identity):
        raise InputTableError(
            f"slide_id {identity!r} is not a valid folder name", where=where, remedy='Do not use / \\ : * ? " < > |'
        )
    return SlideEntry(identity, slide, row.values.get("patient_id") or None, _mpp(row, where), url)


def _mpp(row: TableRow, where: str) -> float | None:
    text = row.values.get("mpp", "")
    if not text:
        return None
    try:
        mpp = read_number(text)
    except ValueError:
        mpp = float("nan")
    if not FINEST_MPP <= mpp <= COARSEST_MPP:
        raise InputTableError(
            f"column 'mpp' contains {text!r}; slides have between {FINEST_MPP:g} and {COARSEST_MPP:g} µm per pixel",
            where=where,
            remedy="Give micrometres per pixel, such as 0.25, or leave it empty",
        )
    return mpp


def _file(raw: str, folder: Path) -> Path:
    """Return the file that a manifest names, written on this system or on Windows."""
    slide = folder / raw
    home = home_folder()
    if raw.startswith(("~/", "~\\")) and home is not None and not _exists(slide):
        raw = str(home / raw[2:])
        slide = Path(raw)
    if "\\" in raw and not _exists(slide):
        slide = folder / raw.replace("\\", "/")
    return slide


def _check_ids(entries: Sequence[SlideEntry], rows: Sequence[TableRow], manifest: Path) -> None:
    """Refuse an id given twice, and a file listed twice without ids for what seem to be two patients or scales."""
    lines: dict[str, list[int]] = {}
    unnamed: dict[str | Path, list[tuple[int, SlideEntry]]] = {}
    for entry, row in zip(entries, rows, strict=True):
        if entry.slide_id:
            lines.setdefault(entry.slide_id.casefold(), []).append(row.line)
        else:
            unnamed.setdefault(entry.url or _resolved(entry.path), []).append((row.line, entry))
    twice = {name: where for name, where in lines.items() if len(where) > 1}
    if twice:
        listed = "; ".join(f"{name!r} in lines {_listed(where)}" for name, where in list(twice.items())[:5])
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise InputTableError(
            f"duplicate slide_id (capitals do not count): {listed}{more}",
            where=manifest,
            remedy="Give every slide a unique id",
        )
    for same in unnamed.values():
        if len({(entry.patient_id, entry.mpp) for _, entry in same}) > 1:
            raise InputTableError(
                f"lines {_listed([line for line, _ in same])} list the same file with different patients or scales",
                where=manifest,
                remedy="Give each row its own slide_id, or keep one of them",
            )


def _listed(lines: Sequence[int]) -> str:
    return f"{', '.join(map(str, lines[:-1]))} and {lines[-1]}"

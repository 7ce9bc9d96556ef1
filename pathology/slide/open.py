"""Open slides of any format, and find them in folders."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final, Literal, cast

from pathology.errors import (
    CorruptSlideError,
    NotBrightfieldError,
    SlideError,
    SlideNotFoundError,
    UnsupportedSlideError,
    UsageError,
)
from pathology.input_files import describe_irregular, reading, walk_folder
from pathology.path_text import path_text
from pathology.slide.readers.base import SlideReader
from pathology.slide.readers.dicom_series import dicom_files, first_of_each_series, is_dicom, read_instance
from pathology.slide.readers.ome_zarr_metadata import is_ome_zarr, is_zarr
from pathology.slide.readers.outside import OutsideReader, outside_readers
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES

__all__ = [
    "BACKENDS",
    "SLIDE_SUFFIXES",
    "Backend",
    "FoundSlides",
    "find_slides",
    "open_reader",
    "search_slides",
    "slide_suffixes",
]

logger = logging.getLogger(__name__)

Backend = Literal["tiff", "openslide", "dicom", "ome-zarr", "image"]

BACKENDS: Final[dict[Backend, tuple[str, str]]] = {
    "tiff": ("pathology.slide.readers.tiff", "TiffReader"),
    "openslide": ("pathology.slide.readers.openslide", "OpenSlideReader"),
    "dicom": ("pathology.slide.readers.dicom", "DicomReader"),
    "ome-zarr": ("pathology.slide.readers.ome_zarr", "OmeZarrReader"),
    "image": ("pathology.slide.readers.image", "ImageReader"),
}
"""Module and class of each backend; imported when first used."""

_TIFF_SUFFIXES: Final = frozenset({".svs", ".tif", ".tiff", ".btf", ".tf8", ".qptiff", ".ndpi", ".scn", ".bif"})
_VENDOR_SUFFIXES: Final = frozenset({".mrxs", ".vms", ".vmu", ".svslide", ".czi"})
"""Formats that only OpenSlide reads and whose first bytes may look like another format (a MIRAX index is a JPEG)."""
_DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})
_IMAGE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})

SLIDE_SUFFIXES: Final = _TIFF_SUFFIXES | _VENDOR_SUFFIXES | _DICOM_SUFFIXES | _IMAGE_SUFFIXES
"""Suffixes that are listed from a folder, even if the file is damaged."""


def slide_suffixes() -> frozenset[str]:
    """Return :data:`SLIDE_SUFFIXES` and those of other packages' readers."""
    return SLIDE_SUFFIXES.union(*(reader.suffixes for reader in outside_readers()))


_LARGEST_INDEX: Final = 2**20
"""Bytes of a VMS or VMU index that are read; real ones are a few kilobytes."""
_COPY_AGAIN: Final = "Copy the slide again from its source"


def open_reader(
    path: str | PathLike[str],
    *,
    backend: Backend | None = None,
    threads: int = 1,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> SlideReader:
    """Open a slide with the backend that reads its format.

    The direct readers are tried first; if they refuse the file, OpenSlide takes over, and then the readers of other
    packages that state its suffix (:mod:`pathology.slide.readers.outside`); a suffix that only they state is theirs
    alone.  The reader's ``backend`` names the one used.

    Parameters
    ----------
    path
        A slide file, any instance of a DICOM series (which opens the whole series), a folder that holds one
        DICOM series, or the folder or ZIP archive of an OME-Zarr image.
    backend
        Use only this backend.
    threads
        Threads that decode the tiles of one read; 1 decodes in the calling thread.
    cache_bytes
        Size of the cache of decoded tiles, in bytes.

    Returns
    -------
    SlideReader
        Close it, or use it in a ``with`` statement.

    Raises
    ------
    SlideNotFoundError
        If the file does not exist.
    CorruptSlideError
        If the file is empty, damaged or truncated.
    NotBrightfieldError
        If it is not an 8-bit RGB image.
    UnsupportedSlideError
        If it is not a slide, or its format is not supported.
    UsageError
        If the backend is unknown.
    """
    path = Path(path)
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
    with reading(path, CorruptSlideError, what="the file is damaged or truncated", remedy=_COPY_AGAIN):
        _require_openable(path)
        try:
            if backend is not None:
                return _first_that_opens(path, (backend,), threads, cache_bytes)
            return _own_or_outside(path, threads, cache_bytes)
        except PermissionError as error:
            if isinstance(error, SlideError):
                raise
            raise UnsupportedSlideError(
                "permission denied", where=path, remedy="Make the file readable for your account"
            ) from error
        except OSError as error:
            if isinstance(error, SlideError):
                raise
            raise CorruptSlideError(f"the file cannot be read: {error.strerror or error}", where=path) from error


def _require_openable(path: Path) -> None:
    """Refuse what is not there, and what would keep a reader waiting for ever: a named pipe, a device."""
    try:
        irregular = describe_irregular(path)
    except FileNotFoundError:
        raise SlideNotFoundError("file not found", where=path, remedy="Check the name and the folder") from None
    except PermissionError as error:
        raise UnsupportedSlideError(
            "permission denied", where=path, remedy="Make the file readable for your account"
        ) from error
    except (OSError, ValueError) as error:
        raise SlideNotFoundError(f"no file has this name ({error})", where=path, remedy="Check the name") from error
    if irregular and not path.is_dir():
        raise UnsupportedSlideError(f"this is {irregular}, not a slide file", where=path)


def _own_or_outside(path: Path, threads: int, cache_bytes: int) -> SlideReader:
    ending = path.suffix.lower()
    outside = [reader for reader in outside_readers() if ending in reader.suffixes and path.is_file()]
    refusals: list[SlideError] = []
    if ending in SLIDE_SUFFIXES or not outside:
        try:
            return _first_that_opens(path, _candidates(path), threads, cache_bytes)
        except (UnsupportedSlideError, CorruptSlideError) as refusal:
            if not outside or isinstance(refusal, NotBrightfieldError):
                raise
            refusals.append(refusal)
    for reader in outside:
        try:
            return OutsideReader(path, reader)
        except UnsupportedSlideError as refusal:
            refusals.append(refusal)
    raise UnsupportedSlideError("; ".join(refusal.what for refusal in refusals), where=path, remedy=refusals[0].remedy)


def _first_that_opens(path: Path, candidates: Sequence[Backend], threads: int, cache_bytes: int) -> SlideReader:
    refusals: list[UnsupportedSlideError] = []
    for name in candidates:
        module, kind = BACKENDS[name]
        reader = getattr(importlib.import_module(module), kind)
        file = _finest_instance(path) if name == "openslide" and "dicom" in candidates else path
        try:
            return cast(SlideReader, reader(file, threads=threads, cache_bytes=cache_bytes))
        except NotBrightfieldError:
            raise
        except CorruptSlideError:
            if not refusals or "dicom" not in candidates:
                raise
            # OpenSlide reports any DICOM file that it does not understand as damaged.
            raise refusals[0] from None
        except UnsupportedSlideError as refusal:
            logger.info("%s: the %s reader cannot read it: %s", path.name, name, refusal.what)
            refusals.append(refusal)
    if len(refusals) == 1:
        raise refusals[0]
    reasons = "; ".join(dict.fromkeys(refusal.what for refusal in refusals))
    raise UnsupportedSlideError(reasons, where=path, remedy=refusals[0].remedy)


def _finest_instance(path: Path) -> Path:
    """Return the file that represents a DICOM slide, whichever of its files (or its folder) was given."""
    if path.is_dir():
        series = first_of_each_series(dicom_files(path))
        return series.pop() if len(series) == 1 else path
    wanted = read_instance(path).series
    own = [file for file in dicom_files(path.parent) if read_instance(file).series == wanted]
    return next(iter(first_of_each_series(own)), path)


def _candidates(path: Path) -> tuple[Backend, ...]:
    """Choose backends by the file's content, not its name."""
    if path.is_dir():
        return ("ome-zarr",) if is_zarr(path) else ("dicom", "openslide")
    if path.suffix.lower() in _VENDOR_SUFFIXES and path.stat().st_size > 0:
        return ("openslide",)
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise CorruptSlideError("the file is empty (0 bytes)", where=path, remedy=_COPY_AGAIN)
    # First, since a DICOM file's preamble may be a TIFF header that exposes one level of the slide.
    if is_dicom(head):
        return ("dicom", "openslide")
    if head[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
        return ("tiff", "openslide")
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return ("image",)
    if head.startswith(b"PK\3\4"):
        return ("ome-zarr",)
    if not any(head):
        raise CorruptSlideError("the file begins with zeros: the copy is incomplete", where=path, remedy=_COPY_AGAIN)
    if _is_text(head):
        raise UnsupportedSlideError("this is a text file, not a slide", where=path)
    return ("openslide",)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character split at the end of the bytes read is fine
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f\ufeff" for character in text)


@dataclass(frozen=True)
class FoundSlides:
    """What a search for slides found.

    Attributes
    ----------
    slides
        The slides, as :func:`find_slides` returns them.
    problems
        Folders that could not be searched, or not to their end, and why.
    """

    slides: tuple[Path, ...]
    problems: Mapping[Path, str]


def find_slides(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """List slides, searching folders recursively.

    Parameters
    ----------
    paths
        Files and folders.  Files given explicitly are always listed, whatever their format; several files of one
        DICOM series are listed once.

    Returns
    -------
    list of Path
        In the order given, each folder's slides in natural order (``s2`` before ``s10``), each slide once.  A DICOM
        series is one entry: its folder if it contains nothing else, otherwise one of its instances.  In folders, files
        with a slide or image suffix are listed even if damaged, and DICOM files even without a suffix; everything else
        (notes, tables, hidden files, the parts of a MIRAX or VMS slide) is ignored.  A folder that cannot be read, or
        lies more than 100 levels deep, is reported in a warning; :func:`search_slides` returns these too.

    Raises
    ------
    SlideNotFoundError
        If a path does not exist.

    Examples
    --------
    >>> [path.name for path in find_slides([slide_path.parent])]
    ['slide.svs']
    """
    found = search_slides(paths)
    for folder, problem in found.problems.items():
        logger.warning("%s: %s", path_text(folder), problem)
    return list(found.slides)


def search_slides(paths: Iterable[str | PathLike[str]]) -> FoundSlides:
    """List slides like :func:`find_slides`, and the folders that could not be searched.

    Raises
    ------
    SlideNotFoundError
        If a path does not exist.
    """
    found: dict[Path, None] = {}
    problems: dict[Path, str] = {}
    named = set()
    for given in paths:
        path = Path(given)
        if is_zarr(path):
            found.setdefault(path)
        elif path.is_dir():
            slides, unsearched = _in_folder(path)
            found |= dict.fromkeys(slides)
            problems |= unsearched
        elif path.exists():
            found.setdefault(path)
            named.add(path)
        else:
            raise SlideNotFoundError("file or folder not found", where=path, remedy="Check the name and the folder")
    instances = [path for path in found if path.is_file() and _may_be_dicom(path)]
    # A file given explicitly that is not a slide is listed too, so that the error names it.
    others = {path for path in named.intersection(instances) if not read_instance(path).microscopy}
    doubles = set(instances) - first_of_each_series(instances) - others
    return FoundSlides(tuple(path for path in found if path not in doubles), problems)


def _in_folder(top: Path) -> tuple[list[Path], dict[Path, str]]:
    slides: list[Path] = []
    problems: dict[Path, str] = {}
    for content in walk_folder(top, order=_natural, enter=_may_hold_slides):
        if content.problem:
            problems[content.folder] = content.problem
        slides += _of_one_folder(content.folder, content.entries)
    return sorted(slides, key=lambda path: [_natural_name(part) for part in path.parts]), problems


def _may_hold_slides(folder: Path) -> bool:
    # A MIRAX slide stores its data in a folder of the same name.
    return not (folder.name.startswith(".") or folder.with_suffix(".mrxs").is_file() or is_zarr(folder))


def _of_one_folder(folder: Path, found: Sequence[Path]) -> list[Path]:
    """Return the slides that lie in a folder itself, or the folder if it is one slide."""
    entries = [entry for entry in found if not entry.name.startswith(".")]
    parts = {part for entry in entries for part in _parts_of(entry)}
    files = [entry for entry in entries if entry.is_file() and entry.name not in parts]
    # A link to nowhere, or a named pipe, that is called a slide: it is listed and its failure explained.
    others = [e for e in entries if _is_slide_name(e) and not e.is_dir() and not e.is_file() and e.name not in parts]
    instances = [file for file in files if _may_be_dicom(file)]
    series = first_of_each_series(instances)
    alone = len(series) == 1 and len(instances) > 1 and all(f in instances or not _is_slide_name(f) for f in files)
    own = [folder] if alone else [f for f in files if f in series or (f not in instances and _is_slide_name(f))]
    return [*own, *others, *(entry for entry in entries if is_zarr(entry) and is_ome_zarr(entry))]


def _is_slide_name(path: Path) -> bool:
    return path.suffix.lower() in slide_suffixes() or path.name.lower().endswith((".zarr.zip", ".ozx"))


def _may_be_dicom(path: Path) -> bool:
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    # A TIFF file may be DICOM as well, and a file named by its UID has a numeric "suffix".
    if path.suffix and path.suffix.lower() not in _TIFF_SUFFIXES and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def _parts_of(path: Path) -> list[str]:
    """Return the names of the files that a Hamamatsu VMS or VMU index refers to."""
    if path.suffix.lower() not in (".vms", ".vmu") or not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            index = file.read(_LARGEST_INDEX).decode("latin-1")
    except OSError:  # opening it says why
        return []
    return re.findall(r"(?m)^\w+(?:\(\d[^)]*\))?\s*=\s*(\S+\.(?:jpg|ngr|opt))\s*$", index, re.IGNORECASE)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    return _natural_name(path.name)


def _natural_name(name: str) -> list[tuple[int, int | str]]:
    return [
        (0, int(piece)) if piece.isdecimal() else (1, piece.casefold()) for piece in re.split(r"(\d+)", name) if piece
    ]

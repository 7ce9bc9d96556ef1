"""Slides in object stores and on servers: any URL that fsspec supports.

Readers need a file: they read its index and then individual tiles at scattered offsets, which over a network costs one
round trip each.  So each machine that reads a slide copies it once and keeps the copy for later tasks and runs, until
the space is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pathology.errors import MissingDependencyError, OutputError, SlideError, SlideNotFoundError, UsageError
from pathology.settings import cache_folder

__all__ = ["local_copy", "remote_signature", "slides_at", "url_of", "without_access"]

_URL = re.compile(r"((?:[a-z][a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)
_SEVERAL_FILES = frozenset({".mrxs", ".vms", ".vmu", ".dcm", ".dicom"})
_SPARE_BYTES = 2**30
"""Space kept free on the disk that holds the copies."""


def url_of(source: str | PathLike[str]) -> str | None:
    """Return a source's URL, or ``None`` if it is a path.

    Parameters
    ----------
    source
        Such as ``s3://bucket/slide.svs``.  A URL mangled by ``Path``, ``s3:/bucket/slide.svs``, is fixed.
    """
    match = _URL.fullmatch(fspath(source))
    if match is None:
        return None
    scheme, rest = match.groups()
    return f"{scheme}://{'/' if scheme.rpartition(':')[2] in ('file', 'local') else ''}{rest}"


def without_access(url: str) -> str:
    """Return a URL without user name, password and signature, which must not be recorded.

    Parameters
    ----------
    url
        Such as ``https://me:secret@host/slide.svs?signature=...``, which becomes ``https://host/slide.svs``.
    """
    scheme, mark, rest = re.split("[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def slides_at(url: str) -> list[str]:
    """List the slides at a URL: the file itself, or those below the folder.

    Raises
    ------
    SlideError
        If it cannot be reached or does not exist.
    UsageError
        If there is no slide below it, or one that consists of several files.
    MissingDependencyError
        If the library for this kind of URL is not installed.
    """
    from pathology.slide.open import SLIDE_SUFFIXES

    with _errors(url):
        system, path = _system(url)
        if _suffix(url) in SLIDE_SUFFIXES:
            found = [path]
            system.info(path)
        else:
            if not system.exists(path):
                raise FileNotFoundError(path)
            found = sorted(name for name in system.find(path) if _suffix(name) in SLIDE_SUFFIXES)
    several = [name for name in found if _suffix(name) in _SEVERAL_FILES]
    if several:
        raise UsageError(
            "slides of several files (DICOM series, MIRAX, VMS) cannot be read from a URL",
            where=several[0],
            remedy="Copy the folder to a file system first",
        )
    if not found:
        raise UsageError("no slides found", where=url, remedy="Give the URL of a slide or a folder")
    scheme = url.partition("://")[0]
    return [url] if found == [path] else [_with_scheme(scheme, name) for name in found]


def remote_signature(url: str) -> list[list[str | int]]:
    """Return name, size and version of a slide at a URL; equal signatures mean an unchanged slide.

    Raises
    ------
    SlideError
        If it cannot be reached.
    """
    with _errors(url):
        system, path = _system(url)
        about = system.info(path)
    version = next(
        (str(about[name]) for name in ("ETag", "etag", "mtime", "LastModified", "created") if about.get(name)), ""
    )
    return [[Path(path).name, int(about.get("size") or 0), version]]


def local_copy(url: str) -> Path:
    """Return a local copy of a slide, downloading it if needed.

    Copies are kept under ``slides`` in the cache folder (``PATHOLOGY_CACHE``); the least recently used are evicted.

    Raises
    ------
    SlideError
        If it cannot be reached.
    OutputError
        If there is not enough space for it.
    """
    with _errors(url):
        system, path = _system(url)
        if "file" in system.protocol:
            return Path(path)
    signature = remote_signature(url)
    name, size, _ = signature[0]
    key = hashlib.sha256(repr((url, signature)).encode()).hexdigest()[:32]
    folder = cache_folder() / "slides" / key
    copy = folder / str(name)
    if copy.exists():
        os.utime(folder)
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process downloads, the others wait
            if not copy.exists():
                _make_room(folder, int(size))
                aside = folder / f"{name}.partial"
                with _errors(url):
                    system.get_file(path, str(aside))
                aside.replace(copy)
    except OSError as error:
        if isinstance(error, SlideError | OutputError):
            raise
        raise OutputError(
            f"the local copy of the slide cannot be written ({error.strerror or error})",
            where=folder,
            remedy="Free some space, or set PATHOLOGY_CACHE to a folder on another disk",
        ) from error
    return copy


def _make_room(folder: Path, size: int) -> None:
    others = sorted((o for o in folder.parent.iterdir() if o != folder), key=lambda other: other.stat().st_mtime)
    while shutil.disk_usage(folder).free < size + _SPARE_BYTES:
        if not others:
            raise OutputError(
                f"not enough disk space for the local copy of the slide ({size / 2**30:.1f} GiB)",
                where=folder.parent,
                remedy="Free some space, or set PATHOLOGY_CACHE to a folder on another disk",
            )
        shutil.rmtree(others.pop(0), ignore_errors=True)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _with_scheme(scheme: str, path: str) -> str:
    if "://" in path:
        return path
    outermost = scheme.rpartition(":")[2]
    return f"{scheme}://{path if outermost in ('file', 'local') else path.lstrip('/')}"


def _system(url: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


@contextlib.contextmanager
def _errors(url: str) -> Iterator[None]:
    """Translate file system exceptions into readable errors."""
    try:
        yield
    except (SlideError, UsageError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"this kind of URL needs a library that is not installed ({error})",
            where=url,
            remedy="Install it with pip: s3fs for s3://, gcsfs for gs://, adlfs for az://",
        ) from error
    except FileNotFoundError as error:
        raise SlideNotFoundError("nothing found at this URL", where=url, remedy="Check the URL") from error
    except ValueError as error:
        raise UsageError(f"invalid URL ({error})", where=url, remedy="Check its scheme") from error
    except Exception as error:  # file systems raise their own exceptions
        words = (str(error).splitlines() or [""])[0]
        raise SlideError(
            f"the storage cannot be reached ({type(error).__name__}: {words})",
            where=url,
            remedy="Check the network and the credentials",
        ) from error

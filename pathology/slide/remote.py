"""Slides in object stores and on servers: any address that fsspec understands.

Readers want a file: they read its index and then single tiles from places far apart, which over a network costs a
round trip each.  So a slide is copied once to each machine that reads it and stays there, for the tasks and runs to
come, until room is needed.
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
"""Left free on the disk that copies are kept on."""


def url_of(source: str | PathLike[str]) -> str | None:
    """Return the address that a source is, or ``None`` where it is a path.

    Parameters
    ----------
    source
        Such as ``s3://bucket/slide.svs``.  What was made a ``Path`` on its way, ``s3:/bucket/slide.svs``, is mended.
    """
    match = _URL.fullmatch(fspath(source))
    if match is None:
        return None
    scheme, rest = match.groups()
    return f"{scheme}://{'/' if scheme.rpartition(':')[2] in ('file', 'local') else ''}{rest}"


def without_access(url: str) -> str:
    """Return an address without a user's name, password and signature, which no record may hold.

    Parameters
    ----------
    url
        Such as ``https://me:secret@host/slide.svs?signature=...``, of which ``https://host/slide.svs`` is left.
    """
    scheme, mark, rest = re.split("[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def slides_at(url: str) -> list[str]:
    """List the slides at an address: itself, or what lies below it.

    Raises
    ------
    SlideError
        If it cannot be reached or there is nothing.
    UsageError
        If no slide lies below it, or one of several files.
    MissingDependencyError
        If the library for this kind of address is not installed.
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
            "slides of several files (DICOM series, MIRAX, VMS) cannot be read from an address",
            where=several[0],
            remedy="Copy the folder to a file system first",
        )
    if not found:
        raise UsageError("no slides were found", where=url, remedy="Give the address of a slide or of a folder")
    scheme = url.partition("://")[0]
    return [url] if found == [path] else [_with_scheme(scheme, name) for name in found]


def remote_signature(url: str) -> list[list[str | int]]:
    """Return name, size and version of a slide at an address: equal means untouched.

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
    """Return a copy of a slide on this machine, fetched if there is none.

    Copies lie under ``slides`` in the cache folder (``PATHOLOGY_CACHE``).  The copies used longest ago make room.

    Raises
    ------
    SlideError
        If it cannot be reached.
    OutputError
        If there is no room for it.
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
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches, the others wait for it
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
            f"the slide's copy cannot be kept ({error.strerror or error})",
            where=folder,
            remedy="Free some space, or set PATHOLOGY_CACHE to a folder on another disk",
        ) from error
    return copy


def _make_room(folder: Path, size: int) -> None:
    others = sorted((o for o in folder.parent.iterdir() if o != folder), key=lambda other: other.stat().st_mtime)
    while shutil.disk_usage(folder).free < size + _SPARE_BYTES:
        if not others:
            raise OutputError(
                f"there is no room for the slide's copy of {size / 2**30:.1f} GiB",
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
    """Turn what file systems raise into words."""
    try:
        yield
    except (SlideError, UsageError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"addresses of this kind need a library that is not installed ({error})",
            where=url,
            remedy="Install it with pip: s3fs for s3://, gcsfs for gs://, adlfs for az://",
        ) from error
    except FileNotFoundError as error:
        raise SlideNotFoundError("there is nothing at this address", where=url, remedy="Check it") from error
    except ValueError as error:
        raise UsageError(f"the address is not understood ({error})", where=url, remedy="Check its scheme") from error
    except Exception as error:  # every file system has errors of its own
        words = (str(error).splitlines() or [""])[0]
        raise SlideError(
            f"the storage cannot be reached ({type(error).__name__}: {words})",
            where=url,
            remedy="Check the network and the credentials",
        ) from error

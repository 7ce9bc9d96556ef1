"""A lock on an output folder: one run at a time writes to it, on one machine or on several.

The lock is the kernel's (``flock``) on ``.lock`` in the folder.  Some shared folders have no locks, or locks that hold
on one machine only.  The holder therefore also writes into the file who it is, and touches it every few seconds.  A
lock of another machine counts as left behind only after it has not been touched for a while.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pathology.atomic_files import output_error
from pathology.errors import OutputError

__all__ = ["LOCK", "locked_folder"]

LOCK: Final = ".lock"
"""Name of the lock file."""

_TOUCHED_EVERY: Final = 3.0
"""Seconds between two touches."""
_GIVEN_UP_AFTER: Final = 15.0
"""Seconds without a touch after which the lock of another machine counts as left behind."""
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_ATTEMPTS: Final = 100
"""Times that another run may remove the file between opening and locking it."""


@contextmanager
def locked_folder(folder: Path, name: str = LOCK, *, watched: float = _GIVEN_UP_AFTER) -> Iterator[None]:
    """Create a folder, check that it is writable, and hold its lock.

    Parameters
    ----------
    folder
        The output folder.
    name
        Name of the lock file, where several runs may share a folder.
    watched
        Seconds for which a lock of another machine is watched before it counts as left behind.

    Raises
    ------
    OutputError
        If the folder cannot be written, or another run holds the lock.

    Examples
    --------
    >>> with locked_folder(folder / "out"):
    ...     (folder / "out" / ".lock").exists()
    True
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _held(path, watched)
    except OSError as error:
        raise output_error(error, folder) from error
    over = threading.Event()
    touching = threading.Thread(target=_touch, args=(handle, over), name="lock", daemon=True)
    touching.start()
    try:
        yield
    finally:
        over.set()
        touching.join()
        # Removed while it is held: whoever opened it in the meantime finds that it is no longer the file of this name.
        with suppress(OSError):
            if _is_current(handle, path):
                path.unlink()
        os.close(handle)


def _held(path: Path, watched: float) -> int:
    """Return a file descriptor that holds the lock."""
    for _ in range(_ATTEMPTS):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            reliable = _lock(handle, path)
            if not _is_current(handle, path):
                os.close(handle)
                continue
            holder = _holder(handle)
            if holder and not (reliable and holder.get("kernel") == _kernel()):
                _watch(path, handle, holder, watched)
            me = {"machine": socket.gethostname(), "kernel": _kernel(), "process": os.getpid()}
            text = json.dumps({**me, "token": secrets.token_hex(8)}).encode()
            os.ftruncate(handle, 0)
            os.pwrite(handle, text, 0)
            os.fsync(handle)
            if not reliable:
                # Two runs may have found the folder free at the same moment; the later writer has it.
                time.sleep(min(1.0, watched))
            if os.pread(handle, 4096, 0) != text or not _is_current(handle, path):
                raise _taken(path, _holder(handle))
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise
        else:
            return handle
    raise _taken(path, {})


def _lock(handle: int, path: Path) -> bool:
    """Lock the file; return whether the file system has locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(path, _holder(handle)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _watch(path: Path, handle: int, holder: dict[str, object], seconds: float) -> None:
    """Refuse if a lock of another machine is still being touched."""
    before = os.fstat(handle).st_mtime_ns
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, seconds / 5))
        try:
            # Opened anew: a network file system then asks the server instead of its cache.
            again = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _taken(path, holder) from None
        try:
            touched = os.fstat(again).st_mtime_ns != before
        finally:
            os.close(again)
        if touched:
            raise _taken(path, holder)


def _taken(path: Path, holder: dict[str, object]) -> OutputError:
    where = f" (process {holder['process']} on {holder['machine']})" if {"process", "machine"} <= set(holder) else ""
    return OutputError(
        f"another run is writing to this folder{where}",
        where=path.parent,
        remedy="Wait until it finishes, or choose another --out folder",
    )


def _holder(handle: int) -> dict[str, object]:
    """Return who wrote the lock file; empty if nobody did, or it is not readable."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_current(handle: int, path: Path) -> bool:
    """Whether the open file still is the one of this name."""
    try:
        named, opened = path.stat(follow_symlinks=False), os.fstat(handle)
    except OSError:
        return False
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)


def _kernel() -> str:
    """Return what is equal for all processes that share one kernel, in containers as well."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _touch(handle: int, over: threading.Event) -> None:
    while not over.wait(_TOUCHED_EVERY):
        with suppress(OSError):
            os.utime(handle)

"""Files that are either whole or not there: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pathology.errors import OutputError

__all__ = ["output_error", "put_in_place", "replacing", "require_writable", "write_bytes", "write_text"]

_REASONS = {
    errno.ENOSPC: ("there is no space left on the disk", "Free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space and run the same command again"),
    errno.EACCES: ("it may not be written", "Choose a folder you may write to"),
    errno.EPERM: ("it may not be written", "Choose a folder you may write to"),
    errno.EROFS: ("the disk is read-only", "Choose a folder you may write to"),
    errno.ENOTDIR: ("a file stands where a folder should be", "Choose another folder, or move that file away"),
    errno.EEXIST: ("a file stands where a folder should be", "Choose another folder, or move that file away"),
    errno.EISDIR: ("a folder stands where the file should be", "Move that folder away"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "Choose a shorter folder or slide name"),
}

_RENAMES_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EINVAL, errno.ENOTSUP})
"""Answers of file systems that let a file be written but not renamed, as on a share with the file open elsewhere."""
_FOLDERS_NOT_FLUSHED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS, errno.EACCES})
"""Answers of file systems that cannot flush a folder: CIFS says EINVAL."""


def output_error(error: OSError, path: Path) -> OutputError:
    """Turn an operating system's refusal to write into words.

    Parameters
    ----------
    error
        What came up while writing.
    path
        The file or folder that was being written.
    """
    what, remedy = _REASONS.get(
        error.errno or 0, (f"it cannot be written ({error.strerror or error})", "Check the disk and the folder")
    )
    return OutputError(what, where=path, remedy=remedy)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    The folder is made if it is missing.  Permissions are those of any new file (the user's umask).

    Raises
    ------
    OutputError
        If it cannot be written; an older file at ``path`` is then untouched and nothing is left beside it.
    """
    # Short and independent of the name: a name near the file system's limit must not become too long.
    aside = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(aside, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise output_error(error, path) from error
    finally:
        # Also after an interrupt; once renamed there is nothing left to remove.
        if aside.parent.is_dir():
            aside.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Make a folder and write to it, so that a long run is refused at its start and not at its end.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to.

    Examples
    --------
    >>> import tempfile
    >>> require_writable(Path(tempfile.mkdtemp()) / "out")
    """
    probe = folder / f".{secrets.token_hex(8)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise output_error(error, folder) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write a file or folder to; at the end it takes the place of ``path``.

    For what is too large for :func:`write_bytes`, or is written by a library.  If anything goes wrong, ``path`` stays
    as it was and nothing is left beside it.

    Raises
    ------
    OutputError
        If the operating system refuses.
    """
    aside = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_dir():
            # A folder cannot be renamed over one that holds anything.
            shutil.rmtree(path, ignore_errors=True)
        put_in_place(aside, path)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise output_error(error, path) from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.parent.is_dir():
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text like :func:`write_bytes`, line endings as they are.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def put_in_place(aside: Path, path: Path) -> None:
    """Rename a file or folder, already flushed to disk, and make the rename itself survive a power cut.

    Raises
    ------
    OutputError
        If the file system refuses to rename, though it let the file be written.
    OSError
        If the disk is full or fails.
    """
    try:
        aside.replace(path)
    except OSError as error:
        if error.errno not in _RENAMES_REFUSED:
            raise
        raise OutputError(
            f"the finished file was written, but the file system refuses to rename it ({error.strerror or error})",
            where=path,
            remedy="Close programs that have it open, or choose a folder on another disk",
        ) from error
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush a folder, where the system lets folders be flushed: Windows and some network shares do not."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _FOLDERS_NOT_FLUSHED:
            raise
    finally:
        os.close(handle)

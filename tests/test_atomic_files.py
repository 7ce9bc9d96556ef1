"""A file is whole or not there, whatever goes wrong."""

import errno
import os
import stat

import pytest

from pathology import atomic_files as atomic
from pathology.errors import OutputError


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_write_and_replace(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    atomic.write_text(path, "µ\r\n")
    assert path.read_bytes() == b"\xc2\xb5\r\n"
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic.write_text(tmp_path / "atomic", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "may not be written"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "cannot be written"),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, number, words, where):
    path = tmp_path / "a.txt"
    path.write_text("old")
    if where == "fsync":
        monkeypatch.setattr(atomic.os, "fsync", failing(number))
    else:
        monkeypatch.setattr(atomic.Path, "replace", failing(number))
    if where == "replace" and number == errno.EACCES:
        words = "refuses to rename"
    with pytest.raises(OutputError, match=words) as caught:
        atomic.write_text(path, "new")
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert isinstance(caught.value, OSError)
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_text(tmp_path / "a.txt", "new")
    assert not list(tmp_path.iterdir())


def test_what_stands_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file stands where a folder should be"):
        atomic.write_text(tmp_path / "file" / "a.txt", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder stands where the file should be"):
        atomic.write_text(tmp_path / "folder", "")
    with pytest.raises(OutputError, match="too long"):
        atomic.write_text(tmp_path / ("x" * 300), "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_the_longest_name_a_disk_takes_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    atomic.write_text(path, "whole")
    assert path.read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_put_up_with(tmp_path, monkeypatch, number):
    flush = os.fsync

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    atomic.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"

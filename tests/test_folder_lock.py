"""The lock of an output folder: never held twice, by processes of one machine or of two."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pathology.errors import OutputError
from pathology.folder_lock import LOCK, locked_folder

FIGHT = """
import os, sys, time
from pathlib import Path
from pathology.errors import OutputError
from pathology.folder_lock import locked_folder
folder, until, held, twice = Path(sys.argv[1]), time.time() + 2, 0, 0
while time.time() < until:
    try:
        with locked_folder(folder):
            try:
                handle = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                twice += 1
                continue
            held += 1
            os.close(handle)
            os.unlink(folder / "inside")
    except OutputError:
        pass
print(held, twice)
"""


def test_it_is_held_and_then_gone(tmp_path):
    folder = tmp_path / "new" / "out"
    with locked_folder(folder):
        with pytest.raises(OutputError, match=rf"another run .*process {os.getpid()}"), locked_folder(folder):
            pass
        with locked_folder(folder, "another"):
            pass
    assert list(folder.iterdir()) == []
    with locked_folder(folder):
        pass


def test_several_processes_never_hold_it_at_once(tmp_path):
    rivals = [
        subprocess.Popen([sys.executable, "-c", FIGHT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    counts = [list(map(int, rival.communicate(timeout=60)[0].split())) for rival in rivals]
    assert all(rival.returncode == 0 for rival in rivals)
    assert sum(held for held, _ in counts) > 20
    assert [twice for _, twice in counts] == [0, 0, 0]


def test_a_killed_holder_leaves_it_free(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from pathology.folder_lock import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(OutputError, match=f"process {holder.pid}"), locked_folder(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    began = time.monotonic()
    with locked_folder(tmp_path):
        assert time.monotonic() - began < 2


def write_foreign(folder):
    """Write what a run on another machine writes, where locks do not reach from machine to machine."""
    path = folder / LOCK
    path.write_text(json.dumps({"machine": "node7", "kernel": "another", "process": 12, "token": "x"}))
    return path


def test_another_machine_that_still_touches_it_holds_it(tmp_path):
    path = write_foreign(tmp_path)
    over = threading.Event()

    def touch():
        while not over.wait(0.1):
            os.utime(path)

    other = threading.Thread(target=touch)
    other.start()
    try:
        with pytest.raises(OutputError, match="process 12 on node7"), locked_folder(tmp_path, watched=5):
            pass
    finally:
        over.set()
        other.join()


def test_another_machine_that_has_ended_does_not(tmp_path):
    write_foreign(tmp_path)
    with locked_folder(tmp_path, watched=0.3):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_without_locks_of_the_file_system_the_file_says_who_has_it(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr("pathology.folder_lock._TOUCHED_EVERY", 0.1)
    with (
        locked_folder(tmp_path, watched=2),
        pytest.raises(OutputError, match="another run"),
        locked_folder(tmp_path, watched=2),
    ):
        pass
    with locked_folder(tmp_path, watched=0.3):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("of somebody")
    (tmp_path / LOCK).symlink_to(tmp_path / "other")
    with pytest.raises(OutputError), locked_folder(tmp_path):
        pass
    assert (tmp_path / "other").read_text() == "of somebody"

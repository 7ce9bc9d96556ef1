"""Local workers: who gets in, what listens where, who is replaced, what ends with its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client
from distributed.security import Security

from pathology.errors import PathologyError
from pathology.inference.workers.cluster import connect
from pathology.inference.workers.local_processes import LocalProcesses, scratch_folder, sweep_scratch


def listening():
    """Return the sockets on which this process and its children listen."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]


@pytest.fixture
def pool():
    with connect(workers=1) as pool:
        yield pool


def test_strangers_get_nothing_and_all_listen_on_loopback(pool):
    address = pool.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    assert pool.dashboard is None
    places = listening()
    assert len(places) >= 3
    assert {place.ip for place in places} == {"127.0.0.1"}
    for security in (None, Security.temporary()):
        for scheme in ("tcp", "tls"):
            with pytest.raises((OSError, TimeoutError, TypeError, RuntimeError)):
                Client(address.replace("tls", scheme), timeout="2s", security=security, set_as_default=False)
    for place in places:
        with socket.create_connection(place, timeout=2) as stranger:
            stranger.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            stranger.settimeout(1)
            try:
                answer = stranger.recv(4096)
            except OSError:
                answer = b""
            assert b"200 OK" not in answer
    # The same workers still compute for whoever has the certificates.
    assert pool.client.submit(sum, [1, 2]).result(timeout=30) == 3


def test_a_worker_that_is_killed_is_replaced(pool):
    nanny = next(p for p in psutil.Process().children() if "worker_process" in " ".join(p.cmdline()))
    children = nanny.children(recursive=True)
    nanny.kill()
    until = time.monotonic() + 2
    _, alive = psutil.wait_procs(children, timeout=2)
    assert not alive, "its own child is an orphan and lives on"
    assert time.monotonic() < until + 0.5
    assert pool.client.submit(sum, [3, 4], pure=False).result(timeout=90) == 7


def test_why_workers_do_not_start_is_told(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no room in /dev/shm')"]

    class Nobody:
        def nthreads(self):
            return {}

    with LocalProcesses([(command, os.environ)], tmp_path) as processes, pytest.raises(PathologyError, match="no room"):
        processes.wait_for(Nobody(), 1, timeout=60)


def test_folders_of_dead_runs_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import tempfile, time; tempfile.tempdir = '%s'\n"
        "from pathology.inference.workers.local_processes import scratch_folder\n"
        "with scratch_folder() as folder:\n    print(folder, flush=True); time.sleep(60)"
    )
    dead = subprocess.Popen([sys.executable, "-c", program % tmp_path], stdout=subprocess.PIPE, text=True)
    left = Path(dead.stdout.readline().strip())
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    dead.stdout.close()
    (tmp_path / "pathology-mine").mkdir()
    with scratch_folder() as alive:
        assert left.exists()
        sweep_scratch()
        assert not left.exists()
        assert alive.exists()
        assert alive.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "pathology-mine").exists(), "not a folder of a run"

"""Local workers: who gets in, what listens where, who is replaced, what ends with its parent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster
from distributed.security import Security

from pathology.errors import PathologyError
from pathology.inference.workers.cluster import connect
from pathology.inference.workers.local_processes import LocalProcesses, scratch_folder, sweep_scratch

EARLIER = set()


def listening():
    """Return the sockets on which this process and its children listen."""
    return sorted(_all_listening() - EARLIER)


def _all_listening():
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


@pytest.fixture(scope="module")
def pool():
    # A server of another test file in this process is not the pool's.
    EARLIER.update(_all_listening())
    with connect(workers=1) as pool:
        yield pool


STRANGER = """
import json, socket, ssl, sys, tempfile

given = json.load(sys.stdin)
own = tempfile.NamedTemporaryFile("w")
own.write(given["certificate"])
own.flush()
got = []
for place in given["places"]:
    for kind in ("plain", "silent", "TLS", "TLS with a certificate"):
        try:
            with socket.create_connection(place, timeout=1) as connection:
                if kind.startswith("TLS"):
                    context = ssl._create_unverified_context()
                    if "certificate" in kind:
                        context.load_cert_chain(own.name)
                    connection = context.wrap_socket(connection)
                if kind != "silent":
                    connection.sendall(b"GET /info/main/workers.html HTTP/1.0\\r\\n\\r\\n")
                answer = connection.recv(4096)
        except OSError:
            answer = b""
        if answer and not answer.startswith((b"HTTP/1.1 404", b"HTTP/1.0 404")):
            got.append([place, kind, repr(answer[:60])])
print(json.dumps(got))
"""


def told_to_a_stranger(places, as_user=()):
    """Return what a process without the certificates of a run gets from its ports, but for 'no such page'."""
    own = Security.temporary()
    given = {"places": [list(place) for place in places], "certificate": own.tls_client_key + own.tls_client_cert}
    # Python without the environment's packages: another user may not be able to read them.
    command = [*as_user, getattr(sys, "_base_executable", sys.executable), "-I", "-c", STRANGER]
    asked = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120, cwd="/")
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def test_strangers_get_nothing_and_all_listen_on_loopback(pool):
    assert pool.client.scheduler.address.startswith("tls://127.0.0.1:")
    assert pool.dashboard is None
    places = listening()
    assert len(places) >= 3
    assert {place.ip for place in places} == {"127.0.0.1"}
    assert told_to_a_stranger(places) == []
    # The same workers still compute for whoever has the certificates.
    assert pool.client.submit(sum, [1, 2]).result(timeout=30) == 3


def test_another_user_gets_nothing(pool):
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs to run as root, and setpriv, to become another user")
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert told_to_a_stranger(listening(), as_nobody) == []
    folder = next(Path(tempfile.gettempdir()).glob("pathology-*/key.pem"))
    assert folder.stat().st_mode & 0o777 == 0o600
    assert subprocess.run([*as_nobody, "cat", str(folder)], capture_output=True, check=False).stdout == b""


def test_a_port_without_certificates_would_be_noticed():
    with LocalCluster(n_workers=0, protocol="tcp://", host="127.0.0.1", dashboard_address=None) as cluster:
        place = ("127.0.0.1", int(cluster.scheduler_address.rsplit(":", 1)[1]))
        assert told_to_a_stranger([place]) != []


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

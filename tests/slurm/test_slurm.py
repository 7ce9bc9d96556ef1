"""Scoring on a real SLURM cluster, where Debian's slurm-wlm is installed; see cluster.sh."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
import zarr

from pathology.errors import UsageError
from pathology.scoring.batch import score
from pathology.settings import ScoreSettings
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture

ROOT = Path(__file__).parents[2]
SETTINGS = ScoreSettings(stride=56, block=256)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        write_svs(folder / f"slide{number}.svs", TissuePicture(1700, 1500, tissue=0.7, seed=number), factors=(1,))
    return folder


@pytest.fixture(scope="module")
def expected(slides, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    assert not score(slides, model, out, settings=SETTINGS, engine="torch").failed
    return out


def predictions(out, name):
    """Return the patches' places, and their probabilities as bits."""
    store = zarr.open_group(out / "slides" / name / "predictions.zarr", mode="r")
    return np.asarray(store["coords"][...]), np.asarray(store["probabilities"][...]).view(np.uint32)


def by_place(out, name):
    """Return the same, sorted: a store holds patches block by block."""
    places, bits = predictions(out, name)
    order = np.lexsort(places.T)
    return places[order], bits[order]


def assert_same(out, expected, read=predictions):
    for name in ("slide0", "slide1"):
        for ours, theirs in zip(read(out, name), read(expected, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def settings_file(folder, **changed):
    path = folder / "slurm.yaml"
    # One job uses one core of the two this machine may have.
    wanted = {"jobs": 2, "cores": 1, "memory": "3GB", "walltime": "00:10:00", "logs": str(folder / "logs")}
    path.write_text(yaml.safe_dump(wanted | changed))
    return path


def jobs():
    listed = subprocess.run(["squeue", "--noheader", "--format=%i %T"], capture_output=True, text=True, check=True)
    return dict(line.split() for line in listed.stdout.splitlines())


def answers_of_listeners(earlier=()):
    """Return what each new port of this run, the scheduler's and the workers', tells a stranger who speaks no TLS."""
    dask = [psutil.Process()]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "distributed" in " ".join(process.cmdline()) and "tls" in " ".join(process.cmdline()):
                dask += [process, *process.children(recursive=True)]
    answers = {}
    for process in dask:
        with suppress(psutil.Error):
            places = [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            answers |= {place: answer_of(place) for place in places if place not in earlier}
    return answers


def answer_of(place):
    try:
        with socket.create_connection(place, timeout=2) as connection:
            connection.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            answer = connection.recv(4096)
    except OSError:
        return b""
    # Dask serves HTTP on a free loopback port even where it has no page.
    return b"" if place[0] == "127.0.0.1" and b" 404 " in answer[:20] else answer


@pytest.mark.timeout(600)
def test_jobs_score_a_folder_and_one_may_be_cancelled(slurm, slides, model, expected, tmp_path):
    cancelled, listening = [], {}
    earlier = set(answers_of_listeners())  # servers of other tests in this process
    over = threading.Event()

    def cancel_the_first_once_it_works():
        while not over.wait(0.2):
            if any((tmp_path / "out" / "slides").glob("*/unfinished/block-*.npz")):
                listening.update(answers_of_listeners(earlier))
                running = [number for number, state in jobs().items() if state == "RUNNING"]
                subprocess.run(["scancel", running[0]], check=True)
                cancelled.append(running[0])
                return

    watcher = threading.Thread(target=cancel_the_first_once_it_works)
    watcher.start()
    batch = score(slides, model, tmp_path / "out", settings=SETTINGS, engine="torch", slurm=settings_file(tmp_path))
    over.set()
    watcher.join()
    assert len(cancelled) == 1
    # The scheduler, and a worker or both: without certificates of the run, nobody hears anything from them.
    assert len(listening) >= 2
    assert set(listening.values()) == {b""}
    assert not [path for path in (tmp_path / "logs").iterdir() if path.name.startswith(".")]
    assert [result.status for result in batch] == ["scored", "scored"], [result.error for result in batch]
    assert_same(tmp_path / "out", expected)
    deadline = time.monotonic() + 60
    while jobs():
        assert time.monotonic() < deadline, "jobs were left running"
        time.sleep(0.5)


def test_a_refusal_is_told(slurm, slides, model, tmp_path):
    with pytest.raises(UsageError, match=r"SLURM rejects the jobs .*partition"):
        score(slides, model, tmp_path / "out", slurm=settings_file(tmp_path, partition="no-such-partition"))


@pytest.mark.timeout(600)
def test_the_job_script_scores_a_folder(slurm, slides, model, expected, tmp_path):
    command = [
        *("sbatch", "--wait", "--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=3G", "--output", tmp_path / "job.log"),
        *(ROOT / "scripts" / "slurm_score.sh", slides, "--model", model, "--out", tmp_path / "out"),
        *("--engine", "torch", "--stride", "56"),
    ]
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, check=False, timeout=500)
    assert done.returncode == 0, (tmp_path / "job.log").read_text()
    assert not list(tmp_path.glob(".pathology-dask-*"))
    # The command line has the default blocks: the patches lie in another order and their predictions are the same.
    assert_same(tmp_path / "out", expected, read=by_place)

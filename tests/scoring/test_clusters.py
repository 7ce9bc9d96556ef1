"""Scoring over a Dask cluster that somebody else started."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import psutil
import pytest
import zarr
from distributed import Client

from pathology.errors import UsageError
from pathology.scoring.batch import score
from pathology.settings import ScoreSettings
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


def start(stack, module, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def stop():
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for member in family:
            try:
                member.terminate()
            except psutil.NoSuchProcess:
                continue
        process.wait(30)

    stack.callback(stop)
    return process


@contextmanager
def running_cluster(folder, *options):
    """A scheduler and a worker for each set of options, started as on a real cluster: by their command lines."""
    with ExitStack() as stack:
        file = folder / "scheduler.json"
        start(
            stack,
            "dask_scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)),
        )
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = [
            start(
                stack,
                "dask_worker",
                *("--scheduler-file", str(file), "--host", "127.0.0.1", "--nthreads", "2", "--no-dashboard"),
                *("--local-directory", str(folder / f"worker{number}"), "--name", f"worker{number}", *extra),
            )
            for number, extra in enumerate(options)
        ]
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(len(workers), timeout=120)
        yield file, workers


def predictions(out, name):
    return np.asarray(zarr.open_group(out / "slides" / name / "predictions.zarr", mode="r")["probabilities"][...])


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        write_svs(folder / f"slide{number}.svs", TissuePicture(1900, 1700, tissue=0.7, seed=number), factors=(1,))
    return folder


SETTINGS = ScoreSettings(stride=56, block=256)


@pytest.fixture(scope="module")
def expected(slides, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    assert not score(slides, model, out, settings=SETTINGS, engine="torch").failed
    return out


def test_two_workers_score_a_folder_and_one_is_killed(slides, model, expected, tmp_path):
    killed = []
    over = threading.Event()

    def kill_the_first_once_it_works(workers):
        nanny = psutil.Process(workers[0].pid)
        while not over.wait(0.05):
            if any((tmp_path / "remote" / "slides").glob("*/unfinished/block-*.npz")):
                for child in nanny.children(recursive=True):
                    if "spawn_main" in " ".join(child.cmdline()):
                        os.kill(child.pid, signal.SIGKILL)
                        killed.append(child.pid)
                return

    with running_cluster(tmp_path, (), ()) as (file, workers):
        watcher = threading.Thread(target=kill_the_first_once_it_works, args=(workers,))
        watcher.start()
        address = json.loads(file.read_text())["address"]
        batch = score(slides, model, tmp_path / "remote", settings=SETTINGS, engine="torch", scheduler=address)
        over.set()
        watcher.join()
    assert len(killed) == 1
    assert [result.status for result in batch] == ["scored", "scored"], [result.error for result in batch]
    for name in ("slide0", "slide1"):
        np.testing.assert_array_equal(predictions(tmp_path / "remote", name), predictions(expected, name))


def test_blocks_are_predicted_where_the_gpus_are(slides, model, expected, tmp_path):
    with running_cluster(tmp_path, ("--resources", "GPU=1"), ()) as (file, workers):
        holders = {child.pid for child in psutil.Process(workers[0].pid).children(recursive=True)}
        others = {child.pid for child in psutil.Process(workers[1].pid).children(recursive=True)}
        batch = score(
            slides, model, tmp_path / "out", settings=SETTINGS, engine="torch", scheduler=str(file), readers=1
        )
        # The process that predicts has one that reads for it; the other worker has none.
        parents = {
            process.ppid()
            for process in psutil.process_iter()
            if "pathology.inference.reading.process_main" in _command_line(process)
        }
    assert not batch.failed
    assert parents & holders
    assert not parents & others
    for name in ("slide0", "slide1"):
        np.testing.assert_array_equal(predictions(tmp_path / "out", name), predictions(expected, name))


def _command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize(("workers", "readers"), [(2, None), (1, 2)])
def test_the_same_bit_for_bit_however_it_is_shared_out(slides, model, expected, tmp_path, workers, readers):
    batch = score(slides, model, tmp_path / "out", settings=SETTINGS, engine="torch", workers=workers, readers=readers)
    assert not batch.failed
    for name in ("slide0", "slide1"):
        np.testing.assert_array_equal(predictions(tmp_path / "out", name), predictions(expected, name))


def test_no_scheduler_there(model, tmp_path):
    slide = write_svs(tmp_path / "slide.svs", TissuePicture(400, 400, tissue=0.8), factors=(1,))
    with pytest.raises(UsageError, match="the Dask scheduler does not respond"):
        score([slide], model, tmp_path / "out", scheduler="tcp://127.0.0.1:1")

"""Scoring over a Dask cluster that somebody else started."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import psutil
import pytest
import zarr

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


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, started as on a real cluster: by their command lines."""
    with ExitStack() as stack:
        address_file = tmp_path / "scheduler.json"
        start(
            stack,
            "dask_scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address_file)),
        )
        deadline = time.monotonic() + 60
        while not address_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = [
            start(
                stack,
                "dask_worker",
                *("--scheduler-file", str(address_file), "--host", "127.0.0.1", "--nthreads", "2", "--no-dashboard"),
                *("--local-directory", str(tmp_path / f"worker{number}")),
            )
            for number in range(2)
        ]
        import json

        yield json.loads(address_file.read_text())["address"], workers


def predictions(out):
    return np.asarray(zarr.open_group(out / "slides" / "slide" / "predictions.zarr", mode="r")["probabilities"][...])


def test_a_running_cluster_scores_and_survives_a_lost_worker(cluster, model, tmp_path):
    address, workers = cluster
    slide = write_svs(tmp_path / "slide.svs", TissuePicture(2400, 2200, tissue=0.7), factors=(1,))
    settings = ScoreSettings(stride=56, block=256)
    score([slide], model, tmp_path / "local", settings=settings, engine="torch")

    from threading import Timer

    nanny = psutil.Process(workers[0].pid)

    def kill():
        for child in nanny.children(recursive=True):
            if child.is_running() and "spawn_main" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)

    timer = Timer(6, kill)
    timer.start()
    (result,) = score([slide], model, tmp_path / "remote", settings=settings, engine="torch", scheduler=address)
    timer.cancel()
    assert result.status == "scored", result.error
    np.testing.assert_array_equal(predictions(tmp_path / "remote"), predictions(tmp_path / "local"))


def test_no_scheduler_there(model, tmp_path):
    slide = write_svs(tmp_path / "slide.svs", TissuePicture(400, 400, tissue=0.8), factors=(1,))
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        score([slide], model, tmp_path / "out", scheduler="tcp://127.0.0.1:1")

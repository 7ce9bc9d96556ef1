"""Workers: processes of this machine, or a Dask cluster that is already running.

Local workers are started as programs of their own (``python -m distributed.cli.dask_worker``), not forked from
the caller, so a script needs no ``if __name__ == "__main__"`` guard and a native crash takes down one worker
only; its nanny starts it again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster

from pathology.errors import PathologyError, UsageError

__all__ = ["THREADS", "Workers", "connect", "default_workers"]

THREADS = "PATHOLOGY_THREADS"
"""Environment variable: cores a worker process may use.  Set for local workers; on a cluster it may be set by whoever
starts the workers, else a worker uses as many as Dask gave it threads."""

_DASK_SETTINGS = {
    # The first worker that dies with a task ends the task here; who is to blame is found by trying alone.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.comm.timeouts.connect": "60s",
    # Workers hold pixels for moments only; Dask's spilling has nothing to spill.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.9,
    "distributed.worker.memory.terminate": 0.97,
    "distributed.admin.log-format": "%(message)s",
}


@dataclass(frozen=True)
class Workers:
    """A connected cluster.

    Attributes
    ----------
    client
        The Dask client.
    slots
        Tasks that run at once over all workers.
    dashboard
        Address of the Dask dashboard, if it runs.
    """

    client: Client
    slots: int
    dashboard: str | None


def default_workers(device: str | None) -> int:
    """Return the number of worker processes that suits this machine.

    One a GPU; without a GPU one that uses every core, since a network's layers parallelise well and each process
    holds a copy of the model.
    """
    # Asking torch costs seconds; where there is no driver there is nothing to ask.
    if device in (None, "cuda") and any(
        Path(driver).exists() for driver in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
    ):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    return 1


@contextlib.contextmanager
def connect(*, workers: int, scheduler: str | None = None) -> Iterator[Workers]:
    """Provide workers and take them down again.

    Parameters
    ----------
    workers
        Local processes to start; ignored with ``scheduler``.
    scheduler
        Address of a running Dask scheduler, such as ``tcp://host:8786``.

    Raises
    ------
    UsageError
        If the scheduler cannot be reached or has no workers.
    """
    with dask.config.set(_DASK_SETTINGS):
        if scheduler is not None:
            yield from _running(scheduler)
        else:
            yield from _local(workers)


def _running(scheduler: str) -> Iterator[Workers]:
    try:
        client = Client(scheduler, timeout="30s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(
            "no Dask scheduler answers", where=scheduler, remedy="Start one with: dask scheduler"
        ) from error
    with client:
        threads = client.nthreads()
        if not threads:
            raise UsageError(
                "the Dask scheduler has no workers", where=scheduler, remedy="Start some with: dask worker ADDRESS"
            )
        yield Workers(client, sum(threads.values()), client.dashboard_link or None)


_TASKS_AT_ONCE = 2
"""Tasks a worker runs at once: while one computes, the next one's first blocks are read."""


def _local(workers: int) -> Iterator[Workers]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    with (
        tempfile.TemporaryDirectory(prefix="pathology-") as scratch,
        LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            scheduler_port=0,
            dashboard_address="127.0.0.1:0",
            processes=True,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        contextlib.ExitStack() as stack,
    ):
        for number in range(workers):
            process = subprocess.Popen(  # noqa: S603 - our own interpreter, no outside input
                _worker_command(cluster.scheduler_address, number, scratch),
                env=_worker_environment(threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=False,
            )
            stack.callback(_stop, process)
        try:
            client.wait_for_workers(workers, timeout=120)
        except TimeoutError as error:
            raise PathologyError(
                "the worker processes did not start within two minutes", remedy="Run: pathology doctor"
            ) from error
        try:
            yield Workers(client, workers * _TASKS_AT_ONCE, _dashboard(cluster))
        finally:
            with contextlib.suppress(Exception):  # they are ended below in any case
                client.retire_workers(close_workers=True)


def _dashboard(cluster: LocalCluster) -> str | None:
    return str(cluster.dashboard_link) if find_spec("bokeh") else None


def _worker_command(address: str, number: int, scratch: str) -> list[str]:
    return [
        *(sys.executable, "-m", "distributed.cli.dask_worker", address),
        *("--name", str(number), "--nworkers", "1", "--nthreads", str(_TASKS_AT_ONCE), "--host", "127.0.0.1"),
        *("--no-dashboard", "--local-directory", scratch, "--death-timeout", "60", "--memory-limit", "auto"),
    ]


def _worker_environment(threads: int) -> dict[str, str]:
    environment = {**os.environ, THREADS: str(threads)}
    for name, value in _DASK_SETTINGS.items():
        environment["DASK_" + name.replace(".", "__").replace("-", "_").upper()] = str(value)
    return environment


def _stop(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

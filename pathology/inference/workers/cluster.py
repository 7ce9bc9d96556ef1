"""Workers: processes on this machine, a running Dask cluster, or SLURM jobs.

Local workers are started as separate programs (``python -m distributed.cli.dask_worker``), not forked from the caller,
so a script needs no ``if __name__ == "__main__"`` guard and a native crash takes down one worker only; its nanny
restarts it.

A worker with a GPU declares it as a Dask resource, ``dask worker --resources GPU=1``, one process per GPU.  If any
worker does, only those workers predict patches, and the others detect tissue and write reports.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster

from pathology.errors import UsageError
from pathology.extras import installed
from pathology.inference.workers.certificates import fresh_certificates, own_certificates, write_certificates
from pathology.inference.workers.local_processes import LocalProcesses, scratch_folder, sweep_scratch
from pathology.inference.workers.settings import DASK_SETTINGS, TASKS_AT_ONCE, THREADS, exported_settings

if TYPE_CHECKING:
    from pathology.inference.workers.slurm import SlurmSettings

__all__ = ["Workers", "connect", "default_workers"]


_GPU = "GPU"
"""Dask resource of a worker with a GPU."""


@dataclass(frozen=True)
class Workers:
    """A connected cluster.

    Attributes
    ----------
    client
        The Dask client.
    slots
        Number of tasks that run at once, over all workers.
    dashboard
        Address of the Dask dashboard, if it is running.
    predicting
        Dask resources required to predict blocks.
    messages
        Returns what local workers wrote last to standard error; empty for others.
    """

    client: Client
    slots: int
    dashboard: str | None
    predicting: Mapping[str, float] = field(default_factory=dict)
    messages: Callable[[], str] = str


def _gpus(device: str | None) -> int:
    """Return how many GPUs this machine's workers may use."""
    # Importing torch takes seconds; without a driver there is no GPU.
    if device in (None, "cuda") and any(
        Path(driver).exists() for driver in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
    ):
        if not installed("torch"):
            return 0
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    return 0


def default_workers(device: str | None) -> int:
    """Return the number of worker processes that suits this machine.

    One per GPU; without a GPU, one that uses every core, since a network's layers parallelise well and each process
    holds a copy of the model.
    """
    return _gpus(device) or 1


@contextlib.contextmanager
def connect(
    *,
    workers: int,
    scheduler: str | None = None,
    slurm: SlurmSettings | None = None,
    device: str | None = None,
    dashboard: bool = False,
    certificates: tuple[Path, Path, Path] | None = None,
) -> Iterator[Workers]:
    """Provide workers and shut them down afterwards.

    Parameters
    ----------
    workers
        Local processes to start; ignored with ``scheduler`` and ``slurm``.
    scheduler
        A running Dask scheduler: its address, such as ``tcp://host:8786``, or the file it wrote its address to
        (``dask scheduler --scheduler-file FILE``).
    slurm
        SLURM jobs to start.
    device
        What local workers compute on; with several GPUs, each worker gets its own.
    dashboard
        Serve Dask's dashboard, which has no password, on 127.0.0.1.
    certificates
        For a scheduler that uses TLS: files of the certificate authority, the client's certificate and its key.

    Raises
    ------
    UsageError
        If the scheduler cannot be reached or has no workers, or SLURM refuses the jobs.
    MissingDependencyError
        If SLURM jobs are requested and dask-jobqueue is not installed.
    """
    # Without a dashboard nothing is served over HTTP: Dask's pages about workers and tasks have no password.
    pages: dict[str, list[str]] = {} if dashboard else {"distributed.scheduler.http.routes": []}
    with dask.config.set({**DASK_SETTINGS, **pages}):
        if scheduler is not None:
            yield from _running(scheduler, device, certificates)
        elif slurm is not None:
            from pathology.inference.workers.slurm import slurm_cluster

            with (
                slurm_cluster(slurm, dashboard=dashboard) as cluster,
                Client(cluster, set_as_default=False, security=cluster.security) as client,
            ):
                # The queue may be long: work starts with the first job, and later jobs join.
                client.wait_for_workers(1)
                predicting = {_GPU: 1 / TASKS_AT_ONCE} if slurm.gpus else {}
                yield Workers(
                    client, slurm.jobs * TASKS_AT_ONCE, _dashboard(cluster) if dashboard else None, predicting
                )
        else:
            yield from _local(workers, _gpus(device), dashboard=dashboard)


def _running(scheduler: str, device: str | None, certificates: tuple[Path, Path, Path] | None) -> Iterator[Workers]:
    security = None if certificates is None else own_certificates(*certificates)
    try:
        if Path(scheduler).suffix == ".json":
            client = Client(scheduler_file=scheduler, timeout="30s", set_as_default=False, security=security)
        else:
            client = Client(scheduler, timeout="30s", set_as_default=False, security=security)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise UsageError(
            "the Dask scheduler does not respond",
            where=scheduler,
            remedy="Start one with: dask scheduler; if it uses TLS, give its certificates with --tls",
        ) from error
    with client:
        threads = client.nthreads()
        if not threads:
            raise UsageError(
                "the Dask scheduler has no workers", where=scheduler, remedy="Start some with: dask worker ADDRESS"
            )
        described = client.scheduler_info(n_workers=-1)["workers"].values()
        held = [worker.get("resources", {}).get(_GPU, 0) for worker in described if device != "cpu"]
        predicting = {_GPU: 1 / TASKS_AT_ONCE} if any(held) else {}
        slots = round(sum(held)) * TASKS_AT_ONCE if any(held) else sum(threads.values())
        yield Workers(client, slots, client.dashboard_link or None, predicting)


def _local(workers: int, gpus: int, *, dashboard: bool) -> Iterator[Workers]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    security = fresh_certificates()
    sweep_scratch()
    with (
        scratch_folder() as scratch,
        # Else Dask leaves a folder of its own among the temporary files.
        dask.config.set({"temporary-directory": str(scratch)}),
        LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            protocol="tls://",
            security=security,
            scheduler_port=0,
            dashboard_address="127.0.0.1:0" if dashboard else None,
            # Without a dashboard Dask serves HTTP all the same: on a free port of its own address, and nothing on it.
            scheduler_kwargs={"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"},
            processes=True,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False, security=security) as client,
    ):
        files = write_certificates(security, scratch)
        commands = [
            (
                _worker_command(cluster.scheduler_address, number, scratch, files),
                _worker_environment(threads, number % gpus if gpus > 1 else None, scratch),
            )
            for number in range(workers)
        ]
        with LocalProcesses(commands, scratch) as processes:
            processes.wait_for(client, workers, timeout=120)
            try:
                page = _dashboard(cluster) if dashboard else None
                yield Workers(client, workers * TASKS_AT_ONCE, page, messages=processes.messages)
            finally:
                processes.stop_replacing()
                with contextlib.suppress(Exception):  # they are stopped below in any case
                    client.retire_workers(close_workers=True)


def _dashboard(cluster: Any) -> str | None:  # noqa: ANN401 - whichever kind of Dask cluster
    return str(cluster.dashboard_link) if find_spec("bokeh") else None


def _worker_command(address: str, number: int, scratch: Path, certificates: Sequence[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "pathology.inference.workers.worker_process", str(os.getpid()), address),
        *("--name", str(number), "--nworkers", "1", "--nthreads", str(TASKS_AT_ONCE), "--host", "127.0.0.1"),
        *("--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--protocol", "tls", *certificates),
        *("--local-directory", str(scratch), "--death-timeout", "60", "--memory-limit", "auto"),
    ]


def _worker_environment(threads: int, gpu: int | None, scratch: Path) -> dict[str, str]:
    environment = {**os.environ, **exported_settings(), THREADS: str(threads)}
    # PyTorch makes this folder when parts of it are imported, and leaves it among the temporary files.
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(scratch / "inductor"))
    if gpu is not None:
        # Respect CUDA_VISIBLE_DEVICES: the GPU with this index among those the caller may use.
        seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = seen[gpu] if seen else str(gpu)
    return environment

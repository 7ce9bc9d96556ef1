"""Workers as jobs of a SLURM cluster, through dask-jobqueue."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from pathology.errors import InputTableError, MissingDependencyError, UsageError
from pathology.extras import missing_extra
from pathology.inference.workers.certificates import certificate_files, fresh_certificates
from pathology.inference.workers.settings import TASKS_AT_ONCE, THREADS, exported_settings
from pathology.input_files import read_yaml
from pathology.settings import Record

__all__ = ["SlurmSettings", "read_slurm_settings", "slurm_cluster"]


class SlurmSettings(Record):
    """Resources that each worker's job requests from SLURM.  One job is one worker process."""

    jobs: Annotated[int, Field(ge=1)] = 1
    """Number of jobs to keep running; a job that ends, is preempted or killed is resubmitted."""
    cores: Annotated[int, Field(ge=1)] = 8
    """Cores per job."""
    memory: str = "32GB"
    """Memory per job, such as ``32GB``."""
    walltime: str = "08:00:00"
    """Time limit of a job, hours:minutes:seconds."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """1 gives each job its own GPU."""
    partition: str | None = None
    """SLURM partition; by default the cluster's default."""
    account: str | None = None
    """Account that the time is charged to."""
    interface: str | None = None
    """Network interface on which jobs reach the scheduler, such as ``ib0``; by default the usual one."""
    directives: tuple[str, ...] = ()
    """Further ``#SBATCH`` options, such as ``--exclude=node7``."""
    prologue: tuple[str, ...] = ()
    """Shell lines before the worker starts, such as ``module load cuda``."""
    logs: Path | None = None
    """Folder for the jobs' output; by default where SLURM puts it."""


def read_slurm_settings(path: Path) -> SlurmSettings:
    r"""Read a YAML file with the fields of :class:`SlurmSettings`.

    Raises
    ------
    InputTableError
        If the file cannot be read or a field is unknown or out of range.

    Examples
    --------
    >>> settings = folder / "slurm.yaml"
    >>> _ = settings.write_text("jobs: 4\ncores: 16\n")
    >>> read_slurm_settings(settings).jobs
    4
    """
    given = read_yaml(path, InputTableError, what="cannot read the SLURM settings")
    try:
        return SlurmSettings.model_validate(given or {})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the file"
        known = ", ".join(SlurmSettings.model_fields)
        raise InputTableError(f"{name}: {first['msg']}", where=path, remedy=f"The fields are: {known}") from error


@contextmanager
def slurm_cluster(settings: SlurmSettings, *, dashboard: bool = False) -> Iterator[Any]:
    """Start jobs and cancel them afterwards.

    Parameters
    ----------
    settings
        Resources of each job.
    dashboard
        Serve Dask's dashboard, which has no password, on 127.0.0.1.

    Yields
    ------
    dask_jobqueue.SLURMCluster
        Its scheduler runs in this process; jobs must be able to connect to this machine.

    Raises
    ------
    MissingDependencyError
        If dask-jobqueue or SLURM's commands are not installed.
    UsageError
        If SLURM refuses a job.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster
        from distributed.utils import get_ip
    except ImportError as error:
        raise missing_extra("SLURM jobs need dask-jobqueue", "cluster") from error
    if shutil.which("sbatch") is None:
        raise MissingDependencyError(
            "the SLURM command sbatch is not available", remedy="Run this on a machine from which jobs can be submitted"
        )
    exports = {**exported_settings(), THREADS: str(settings.cores)}
    directives = [*settings.directives, *(["--gres=gpu:1"] if settings.gpus else [])]
    # Jobs read their certificates from a folder that they share with this machine; the files are the user's alone.
    shared = (settings.logs or Path.cwd()).absolute()
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pathology-", dir=shared, ignore_cleanup_errors=True) as folder:
        security = certificate_files(fresh_certificates(), Path(folder))
        cluster: Any = SLURMCluster(
            queue=settings.partition,
            account=settings.account,
            walltime=settings.walltime,
            cores=TASKS_AT_ONCE,
            job_cpu=settings.cores,
            processes=1,
            memory=settings.memory,
            interface=settings.interface,
            python=shlex.quote(sys.executable),
            job_extra_directives=directives,
            job_script_prologue=[
                *settings.prologue,
                *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
            ],
            worker_extra_args=[
                "--no-dashboard",
                "--dashboard-address",
                "127.0.0.1:0",
                *(["--resources", "GPU=1"] if settings.gpus else []),
            ],
            log_directory=str(settings.logs) if settings.logs is not None else None,
            protocol="tls://",
            security=security,
            scheduler_options={
                "port": 0,
                "dashboard": dashboard,
                "dashboard_address": "127.0.0.1:0",
                **({} if settings.interface else {"host": get_ip()}),
            },
        )
        with cluster:
            _require_acceptance(cluster.job_script())
            cluster.adapt(minimum_jobs=settings.jobs, maximum_jobs=settings.jobs)
            yield cluster


def _require_acceptance(script: str) -> None:
    """Ask SLURM whether it would accept a job, since a later rejection would go unnoticed."""
    asked = subprocess.run(
        ["sbatch", "--test-only"],  # noqa: S607 - sbatch is found on the cluster's PATH
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        raise UsageError(
            f"SLURM rejects the jobs ({(asked.stderr.strip() or 'no reason given').splitlines()[-1]})",
            remedy="Check partition, account, cores, memory and walltime in the file given with --slurm",
        )

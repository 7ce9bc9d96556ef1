"""Settings of every worker process, wherever it runs."""

from __future__ import annotations

__all__ = ["DASK_SETTINGS", "TASKS_AT_ONCE", "THREADS", "exported_settings"]


THREADS = "PATHOLOGY_THREADS"
"""Environment variable: cores a worker process may use.  Set for local workers; on a cluster, whoever starts the
workers may set it, otherwise a worker uses as many cores as it has Dask threads."""


TASKS_AT_ONCE = 2
"""Tasks a worker runs at once: while one computes, the first blocks of the next are read."""


DASK_SETTINGS = {
    # A task fails with the first worker that crashes; retrying slides one by one finds the cause.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.comm.timeouts.connect": "60s",
    # Workers hold pixels only briefly; Dask has nothing to spill.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.9,
    "distributed.worker.memory.terminate": 0.97,
    # The profiler samples every thread 100 times a second, on the cores that predict.
    "distributed.worker.profile.enabled": False,
    # A worker's pages have no password; its health is watched over TLS.
    "distributed.worker.http.routes": [],
    "distributed.admin.log-format": "%(message)s",
}


def exported_settings() -> dict[str, str]:
    """Return the Dask configuration of every worker, as environment variables."""
    return {
        "DASK_" + name.replace(".", "__").replace("-", "_").upper(): str(value) for name, value in DASK_SETTINGS.items()
    }

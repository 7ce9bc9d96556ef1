"""What every worker process is told, wherever it runs."""

from __future__ import annotations

__all__ = ["DASK_SETTINGS", "TASKS_AT_ONCE", "THREADS", "exported_settings"]


THREADS = "PATHOLOGY_THREADS"
"""Environment variable: cores a worker process may use.  Set for local workers; on a cluster it may be set by whoever
starts the workers, else a worker uses as many as Dask gave it threads."""


TASKS_AT_ONCE = 2
"""Tasks a worker runs at once: while one computes, the next one's first blocks are read."""


DASK_SETTINGS = {
    # The first worker that dies with a task ends the task here; who is to blame is found by trying alone.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.comm.timeouts.connect": "60s",
    # Workers hold pixels for moments only; Dask's spilling has nothing to spill.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.9,
    "distributed.worker.memory.terminate": 0.97,
    # Looks at every thread 100 times a second, on the cores that predict.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.log-format": "%(message)s",
}


def exported_settings() -> dict[str, str]:
    """Return what Dask must be told in every worker, as environment variables."""
    return {
        "DASK_" + name.replace(".", "__").replace("-", "_").upper(): str(value) for name, value in DASK_SETTINGS.items()
    }

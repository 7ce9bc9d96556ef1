"""The program of a local worker: Dask's own, which ends when the process that started it has ended."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Final

__all__ = ["end_with", "main"]

_LOOKED_EVERY: Final = 0.5
"""Seconds between two looks at the parent; an orphan ends within two seconds."""


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, even if the parent was killed.

    Parameters
    ----------
    parent
        Process id of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOKED_EVERY)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def dask_setup(worker: object) -> None:
    """Do in the worker what :func:`main` does in its nanny; Dask calls it by this name (``--preload``)."""
    del worker
    end_with(os.getppid())


def main() -> None:
    """Run ``dask worker`` with the arguments after the parent's process id."""
    end_with(int(sys.argv.pop(1)))
    import dask
    from distributed.cli.dask_worker import main as dask_worker

    # What is given on the command line replaces the user's own preloads: they are given there as well.
    for module in ("pathology.inference.workers.worker_process", *dask.config.get("distributed.worker.preload")):
        sys.argv += ["--preload", str(module)]

    dask_worker()


if __name__ == "__main__":
    main()

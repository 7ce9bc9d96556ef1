"""Objects that a worker process keeps between slides: bundles, engines, and reader processes for a GPU.

Each is created once per worker.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from pathology.inference.workers.settings import THREADS

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.engines.base import Engine
    from pathology.inference.reading.processes import ReadingProcesses
    from pathology.scoring.jobs import SlideJob

__all__ = ["bundle_of", "cores", "engine_of", "reading_processes"]

_lock = threading.Lock()
_bundles: dict[tuple[str, ...], Bundle] = {}
_engines: dict[tuple[str, ...], tuple[Engine, threading.Lock]] = {}
_reading: dict[int, ReadingProcesses] = {}


def _model(job: SlideJob) -> tuple[str, ...]:
    return str(job.bundle), job.weights_sha256, job.int8_sha256, job.card_digest


def bundle_of(job: SlideJob) -> Bundle:
    """Return the job's bundle; its card is validated and its weights are hashed once per worker.

    Raises
    ------
    BundleError
        If it cannot be loaded.
    """
    with _lock:
        return _bundle(job)


def _bundle(job: SlideJob) -> Bundle:
    from pathology.bundle.catalogue import load_bundle

    if _model(job) not in _bundles:
        _bundles[_model(job)] = load_bundle(job.bundle)
    return _bundles[_model(job)]


def engine_of(job: SlideJob) -> tuple[Engine, threading.Lock]:
    """Return the engine for a job, and the lock to hold while predicting."""
    from pathology.inference.engines.select import make_engine
    from pathology.scoring.aggregate import needs_features

    kind = job.engine_used or job.engine
    features = needs_features(job.settings.aggregator)
    wanted = (*_model(job), kind, str(job.device), job.settings.precision, str(features))
    with _lock:
        if wanted not in _engines:
            engine = make_engine(
                _bundle(job),
                kind=kind,
                device=job.device,
                precision=job.settings.precision,
                threads=cores(),
                features=features,
            )
            _engines[wanted] = engine, threading.Lock()
        return _engines[wanted]


def reading_processes(count: int) -> ReadingProcesses:
    """Return this worker's reader processes."""
    from pathology.inference.reading.processes import ReadingProcesses

    with _lock:
        if count not in _reading:
            _reading[count] = ReadingProcesses(count)
        return _reading[count]


def cores() -> int | None:
    """Return how many cores this process may use; see :data:`pathology.inference.workers.settings.THREADS`."""
    from distributed import get_worker

    if given := os.environ.get(THREADS):
        return int(given)
    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # not inside a Dask worker
        return None

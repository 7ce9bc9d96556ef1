"""Schedule slides on workers: in steps, a bounded number at a time, each slide blamed only for its own crash.

A slide passes through three steps, each a separate task: ``prepare`` lists the blocks to compute, ``chunk`` computes
some of them, ``finish`` assembles the slide.  The blocks of one large slide are thus distributed over all workers, and
so are many small slides.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from distributed import Future, as_completed, get_worker
from distributed.scheduler import KilledWorker

from pathology.errors import PathologyError
from pathology.inference.workers.cluster import Workers
from pathology.progress import Progress
from pathology.tiling.tile_work import TileWork

__all__ = ["ChunkDone", "Failure", "Halt", "Job", "Prepared", "Steps", "run_slides"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A slide with its list of blocks."""

    blocks: tuple[int, ...]
    """Indices of the blocks still to compute."""
    patches: int
    """Patches in those blocks."""
    stored_tiles: int = 0
    """Distinct stored tiles under those blocks."""


@dataclass(frozen=True)
class ChunkDone:
    """Some blocks of a slide, computed and written to disk."""

    patches: int
    tiles: TileWork
    """How many stored tiles were decoded and reused to read them."""


@dataclass(frozen=True)
class Failure:
    """Why a slide failed."""

    reason: str
    detail: str = ""
    """A traceback, for unexpected errors."""
    passing: bool = False
    """Whether the same command may succeed later: memory or disk space ran out."""


@dataclass(frozen=True)
class Halt:
    """Why no slide can be processed: something is wrong with the machine or the model."""

    error: PathologyError


class Job(Protocol):
    """The input of a slide's steps: a frozen dataclass that can be pickled."""

    @property
    def slide_id(self) -> str:
        """Unique in the batch."""

    @property
    def attempt(self) -> int:
        """1 for the first try."""


J = TypeVar("J", bound=Job)
T = TypeVar("T")


@dataclass(frozen=True)
class Steps(Generic[J, T]):
    """The steps of a slide.  The first three run in workers and report a bad slide as :class:`Failure`."""

    prepare: Callable[[J], Prepared | Failure | Halt]
    chunk: Callable[[J, tuple[int, ...], Callable[[int], None]], ChunkDone | Failure | Halt]
    """Called with the blocks, and a function to report the number of patches to whenever a block is done."""
    finish: Callable[[J, float], T | Failure | Halt]
    """Called with the seconds since the slide's first step."""
    failed: Callable[[J, Failure], T]
    """Runs in the caller: records the failure."""


def run_slides(
    jobs: Sequence[J], steps: Steps[J, T], pool: Workers, on_outcome: Callable[[T], None], progress: Progress
) -> dict[str, TileWork]:
    """Run every slide through its steps.

    Parameters
    ----------
    jobs
        The slides; earlier ones are finished first.
    steps
        The steps.
    pool
        The workers that run them.
    on_outcome
        Called with each slide's outcome as soon as it is known.
    progress
        Receives progress updates.

    Returns
    -------
    dict of str to TileWork
        By slide: stored tiles decoded and reused to read its blocks.

    Raises
    ------
    PathologyError
        If a step reports a :class:`Halt`; outcomes so far stay recorded.
    """

    def event(message: Any) -> None:  # noqa: ANN401 - Dask's event
        slide_id, patches = message[1]
        progress.advanced(slide_id, patches)

    pool.client.subscribe_topic(_TOPIC, event)
    batch = _Batch(pool, steps, on_outcome, progress)
    batch.run(deque(jobs), at_once=pool.slots + 1)
    # Slides that were on a worker when it crashed are retried one at a time, to find the one that caused it.
    for suspect in batch.suspects:
        again: Any = replace(suspect, attempt=suspect.attempt + 1)  # type: ignore[type-var]
        batch.run(deque([again]), at_once=1)
    return batch.tiles


_TOPIC = "pathology-progress"


def _chunk(
    step: Callable[..., ChunkDone | Failure | Halt], job: Job, ks: tuple[int, ...]
) -> ChunkDone | Failure | Halt:
    """Run in a worker: compute some blocks and report progress to the client."""
    worker = get_worker()
    return step(job, ks, lambda patches: worker.log_event(_TOPIC, [job.slide_id, patches]))


@dataclass(eq=False)
class _Slide(Generic[J]):
    """A slide in progress."""

    job: J
    started: float
    number: int
    chunks: int = 0
    over: bool = False
    futures: set[Future[Any]] = field(default_factory=set)


class _Batch(Generic[J, T]):
    def __init__(self, pool: Workers, steps: Steps[J, T], on_outcome: Callable[[T], None], progress: Progress) -> None:
        self._client = pool.client
        self._slots = pool.slots
        self._predicting = dict(pool.predicting)
        self._steps = steps
        self._on_outcome = on_outcome
        self._progress = progress
        self._owners: dict[Future[Any], _Slide[J]] = {}
        self._completed = as_completed([], loop=self._client.loop)
        self.suspects: list[J] = []
        self.tiles: dict[str, TileWork] = {}

    def run(self, jobs: deque[J], *, at_once: int) -> None:
        """Run slides through their steps, ``at_once`` of them concurrently."""
        started = 0
        in_progress: set[_Slide[J]] = set()
        self._completed = as_completed([], loop=self._client.loop)

        def start() -> None:
            nonlocal started
            started += 1
            slide = _Slide(jobs.popleft(), time.time(), started)
            in_progress.add(slide)
            self._submit(slide, self._steps.prepare, slide.job)

        while jobs and len(in_progress) < at_once:
            start()
        for future in self._completed:
            slide = self._owners.pop(future)
            slide.futures.discard(future)
            if not slide.over:
                self._advance(slide, future)
            if slide.over:
                in_progress.discard(slide)
            while jobs and len(in_progress) < at_once:
                start()

    def _submit(self, slide: _Slide[J], step: Callable[..., Any], *args: Any) -> None:
        # Earlier slides first, so that results appear one after the other and not all at the end.
        resources = self._predicting if step is _chunk else {}
        future = self._client.submit(
            step, *args, pure=False, priority=-slide.number, retries=0, resources=resources or None
        )
        self._owners[future] = slide
        slide.futures.add(future)
        self._completed.add(future)

    def _advance(self, slide: _Slide[J], future: Future[Any]) -> None:
        try:
            outcome = future.result()
        except KilledWorker:
            self._end(slide)
            logger.warning("%s: a worker process crashed while processing this slide", slide.job.slide_id)
            if slide.job.attempt == 1:
                self.suspects.append(slide.job)
            else:
                reason = "the worker process crashed twice on this slide (damaged file, or not enough memory)"
                self._on_outcome(self._steps.failed(slide.job, Failure(reason)))
            return
        except Exception as error:  # Dask itself failed for this task; the batch continues
            outcome = Failure(f"unexpected error: {type(error).__name__}: {error}", traceback.format_exc())
        if isinstance(outcome, Halt):
            for other in self._owners:
                other.cancel()
            raise outcome.error
        if isinstance(outcome, Failure):
            self._end(slide)
            self._on_outcome(self._steps.failed(slide.job, outcome))
        elif isinstance(outcome, Prepared):
            self._progress.prepared(slide.job.slide_id, outcome.patches)
            self._count(slide, TileWork(needed=outcome.stored_tiles))
            parts = _parts(outcome.blocks, self._slots)
            slide.chunks = len(parts)
            for part in parts:
                self._submit(slide, _chunk, self._steps.chunk, slide.job, part)
            self._finish_if_done(slide)
        elif isinstance(outcome, ChunkDone):
            slide.chunks -= 1
            self._count(slide, outcome.tiles)
            self._finish_if_done(slide)
        else:
            slide.over = True
            self._on_outcome(outcome)

    def _count(self, slide: _Slide[J], tiles: TileWork) -> None:
        name = slide.job.slide_id
        self.tiles[name] = self.tiles.get(name, TileWork()) + tiles

    def _finish_if_done(self, slide: _Slide[J]) -> None:
        if slide.chunks == 0:
            self._submit(slide, self._steps.finish, slide.job, time.time() - slide.started)

    def _end(self, slide: _Slide[J]) -> None:
        slide.over = True
        for other in slide.futures:
            other.cancel()


def _parts(blocks: tuple[int, ...], slots: int) -> list[tuple[int, ...]]:
    """Split blocks into runs of neighbours: long ones first, none longer than 64, and short ones at the end.

    The first runs are long, since tiles at a run's boundary are decoded twice and its first blocks cause a wait; the
    last are short, so that all workers finish together (guided self-scheduling, Polychronopoulos and Kuck 1987).
    """
    parts = []
    start = 0
    while start < len(blocks):
        size = max(1, min(64, (len(blocks) - start) // (slots * 2)))
        parts.append(blocks[start : start + size])
        start += size
    return parts

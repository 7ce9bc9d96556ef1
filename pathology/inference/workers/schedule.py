"""Feeding slides to workers: in steps, a bounded number at a time, with nobody blamed for another's crash.

A slide passes through three steps, each a task of its own: ``prepare`` says which blocks are to do, ``chunk`` does
some of them, ``finish`` puts the slide together.  The blocks of one large slide so spread over all workers, and many
small slides do too.
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

from pathology.inference.workers.cluster import Workers
from pathology.progress import Progress
from pathology.tiling.tile_work import TileWork

__all__ = ["ChunkDone", "Failure", "Job", "Prepared", "Steps", "run_slides"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A slide whose blocks are known."""

    blocks: tuple[int, ...]
    """Places of the blocks still to do."""
    patches: int
    """Patches in those blocks."""
    stored_tiles: int = 0
    """Distinct stored tiles under those blocks."""


@dataclass(frozen=True)
class ChunkDone:
    """Some blocks of a slide, done and on disk."""

    patches: int
    tiles: TileWork
    """What reading them took."""


@dataclass(frozen=True)
class Failure:
    """Why a slide could not be done."""

    reason: str
    detail: str = ""
    """A traceback, for errors nobody foresaw."""


class Job(Protocol):
    """What a slide's steps are given: a frozen dataclass that can be sent to another process."""

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
    """What is done with a slide.  The first three run in workers and report a bad slide as :class:`Failure`."""

    prepare: Callable[[J], Prepared | Failure]
    chunk: Callable[[J, tuple[int, ...], Callable[[int], None]], ChunkDone | Failure]
    """Given the blocks, and whom to tell the number of patches whenever a block is done."""
    finish: Callable[[J, float], T | Failure]
    """Given the seconds since the slide's first step."""
    failed: Callable[[J, Failure], T]
    """Runs in the caller: records the failure."""


def run_slides(
    jobs: Sequence[J], steps: Steps[J, T], pool: Workers, settled: Callable[[T], None], progress: Progress
) -> dict[str, TileWork]:
    """Take every slide through its steps.

    Parameters
    ----------
    jobs
        The slides; earlier ones are finished first.
    steps
        What to do.
    pool
        Who does it.
    settled
        Called with each slide's outcome, as soon as it is known.
    progress
        Told how it advances.

    Returns
    -------
    dict of str to TileWork
        By slide: what reading its blocks took.
    """

    def event(message: Any) -> None:  # noqa: ANN401 - Dask's event
        slide_id, patches = message[1]
        progress.advanced(slide_id, patches)

    pool.client.subscribe_topic(_TOPIC, event)
    batch = _Batch(pool, steps, settled, progress)
    batch.run(deque(jobs), at_once=pool.slots + 1)
    # Slides that were on a worker when it died: one at a time, so that only the guilty one is blamed.
    for suspect in batch.suspects:
        again: Any = replace(suspect, attempt=suspect.attempt + 1)  # type: ignore[type-var]
        batch.run(deque([again]), at_once=1)
    return batch.tiles


_TOPIC = "pathology-progress"


def _chunk(step: Callable[..., ChunkDone | Failure], job: Job, ks: tuple[int, ...]) -> ChunkDone | Failure:
    """Run in a worker: do some blocks and tell the client how far it is."""
    worker = get_worker()
    return step(job, ks, lambda patches: worker.log_event(_TOPIC, [job.slide_id, patches]))


@dataclass(eq=False)
class _Slide(Generic[J]):
    """A slide on its way."""

    job: J
    began: float
    number: int
    chunks: int = 0
    over: bool = False
    futures: set[Future[Any]] = field(default_factory=set)


class _Batch(Generic[J, T]):
    def __init__(self, pool: Workers, steps: Steps[J, T], settled: Callable[[T], None], progress: Progress) -> None:
        self._client = pool.client
        self._slots = pool.slots
        self._predicting = dict(pool.predicting)
        self._steps = steps
        self._settled = settled
        self._progress = progress
        self._owners: dict[Future[Any], _Slide[J]] = {}
        self._completed = as_completed([], loop=self._client.loop)
        self.suspects: list[J] = []
        self.tiles: dict[str, TileWork] = {}

    def run(self, jobs: deque[J], *, at_once: int) -> None:
        """Take slides through their steps, ``at_once`` of them on their way."""
        begun = 0
        on_their_way: set[_Slide[J]] = set()
        self._completed = as_completed([], loop=self._client.loop)

        def begin() -> None:
            nonlocal begun
            begun += 1
            slide = _Slide(jobs.popleft(), time.time(), begun)
            on_their_way.add(slide)
            self._submit(slide, self._steps.prepare, slide.job)

        while jobs and len(on_their_way) < at_once:
            begin()
        for future in self._completed:
            slide = self._owners.pop(future)
            slide.futures.discard(future)
            if not slide.over:
                self._advance(slide, future)
            if slide.over:
                on_their_way.discard(slide)
            while jobs and len(on_their_way) < at_once:
                begin()

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
            logger.warning("%s: a worker process died with this slide", slide.job.slide_id)
            if slide.job.attempt == 1:
                self.suspects.append(slide.job)
            else:
                reason = "the worker process died twice on this slide (a damaged file, or not enough memory)"
                self._settled(self._steps.failed(slide.job, Failure(reason)))
            return
        except Exception as error:  # Dask itself failed for this task; the batch goes on
            outcome = Failure(f"unexpected error: {type(error).__name__}: {error}", traceback.format_exc())
        if isinstance(outcome, Failure):
            self._end(slide)
            self._settled(self._steps.failed(slide.job, outcome))
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
            self._settled(outcome)

    def _count(self, slide: _Slide[J], tiles: TileWork) -> None:
        name = slide.job.slide_id
        self.tiles[name] = self.tiles.get(name, TileWork()) + tiles

    def _finish_if_done(self, slide: _Slide[J]) -> None:
        if slide.chunks == 0:
            self._submit(slide, self._steps.finish, slide.job, time.time() - slide.began)

    def _end(self, slide: _Slide[J]) -> None:
        slide.over = True
        for other in slide.futures:
            other.cancel()


def _parts(blocks: tuple[int, ...], slots: int) -> list[tuple[int, ...]]:
    """Cut blocks into runs of neighbours: long ones first, none longer than 64, and short ones at the end.

    The first runs are long, since a run's border is decoded twice and its first blocks are waited for; the last are
    short, so that all workers end together (guided self-scheduling, Polychronopoulos and Kuck 1987).
    """
    parts = []
    start = 0
    while start < len(blocks):
        size = max(1, min(64, (len(blocks) - start) // (slots * 2)))
        parts.append(blocks[start : start + size])
        start += size
    return parts

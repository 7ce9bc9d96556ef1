"""Predict some blocks of a slide and write each to disk as soon as it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pathology.errors import CorruptSlideError
from pathology.scoring.bookkeeping.unfinished import UnfinishedSlide
from pathology.scoring.worker import cores, engine_of, reading_processes
from pathology.tiling.tile_work import TileWork

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pathology.inference.engines.base import Engine
    from pathology.inference.reading.pipeline import BlockSource
    from pathology.scoring.jobs import SlideJob
    from pathology.slide.stain.normalise import StainNormaliser
    from pathology.tiling.plan import TilePlan

__all__ = ["check_unchanged", "predict_chunk"]

_READING_THREADS = 2
"""When predicting on the CPU, two blocks ahead are enough, and more threads would compete with prediction."""
_CORES_FOR_GPU = 2
"""Cores reserved for the process that drives the GPU; all others read."""


def predict_chunk(job: SlideJob, ks: tuple[int, ...], report: Callable[[int], None]) -> tuple[int, TileWork]:
    """Predict some blocks.

    Parameters
    ----------
    job
        The slide, already prepared.
    ks
        Indices of the blocks in the plan.
    report
        Called with the number of patches of each finished block.

    Returns
    -------
    tuple
        Patches predicted, and stored tiles decoded and reused to read them.
    """
    from pathology.inference.reading.pipeline import predict_blocks
    from pathology.slide.stain.normalise import StainNormaliser

    unfinished = UnfinishedSlide(job.work)
    about = unfinished.about()
    plan = unfinished.plan(about)
    stain = StainNormaliser.from_record(about["stain"]) if about["stain"] is not None else None
    engine, turn = engine_of(job)

    def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        with turn:
            return engine.predict(patches)

    done = 0
    check_unchanged(job, about)
    with _reading(job, engine, plan, stain) as (source, unreadable, work):
        for block in predict_blocks(predict, engine.classes, engine.preferred_batch, source, plan, ks):
            unfinished.save_block(block.k, block.probabilities, unreadable(), engine.description)
            done += len(block.probabilities)
            report(len(block.probabilities))
        check_unchanged(job, about)
        return done, work()


def check_unchanged(job: SlideJob, about: Mapping[str, Any]) -> None:
    """Refuse to go on with a slide that was replaced since it was prepared.

    Raises
    ------
    CorruptSlideError
        If its content is another.
    """
    if job.signature() == about["signature"]:
        return
    from pathology.slide.open import open_reader

    # Touched or copied over with the same content is no change.
    with open_reader(job.file()) as reader:
        if reader.fingerprint != about["fingerprint"]:
            raise CorruptSlideError(
                "the slide was replaced while it was being scored",
                where=job.path,
                remedy="Run the same command again when it is no longer being written",
            )


@contextmanager
def _reading(
    job: SlideJob, engine: Engine, plan: TilePlan, stain: StainNormaliser | None
) -> Iterator[tuple[BlockSource, Callable[[], frozenset[tuple[int, int, int]]], Callable[[], TileWork]]]:
    """Provide the reader of the slide's blocks: threads of this process, or processes to supply a GPU."""
    from pathology.inference.engines.base import available_cores

    processes = job.readers
    if processes is None and engine.device.startswith("cuda"):
        processes = max(1, (cores() or available_cores()) - _CORES_FOR_GPU)
    if processes:
        state = json.dumps(job.signature())
        with reading_processes(processes).slide(job.file(), plan, stain, state=state) as source:
            yield source, lambda: source.unreadable_tiles, source.take_work
        return
    from pathology.inference.reading.threads import ReadingThreads
    from pathology.scoring.reader_pool import pooled_reader
    from pathology.tiling.blocks import BlockReader

    with pooled_reader(job.file()) as pooled:
        blocks = BlockReader(pooled.reader, plan.grid, stain.apply if stain is not None else None)
        with ReadingThreads(blocks, plan, _READING_THREADS) as threads:
            yield threads, lambda: pooled.reader.unreadable_tiles, pooled.take_work

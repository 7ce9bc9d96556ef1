"""Threads that read blocks, for prediction on the CPU, which is slower than reading."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pathology.tiling.blocks import BlockReader
from pathology.tiling.plan import TilePlan

__all__ = ["ReadingThreads"]


class ReadingThreads:
    """Reads the blocks of one plan in threads; a :class:`pathology.inference.reading.pipeline.BlockSource`.

    Close it, or use it in a ``with`` statement.

    Parameters
    ----------
    blocks
        Reads the slide.
    plan
        The patches.
    threads
        Blocks read at once.
    """

    def __init__(self, blocks: BlockReader, plan: TilePlan, threads: int = 2) -> None:
        self.ahead = threads
        self._blocks = blocks
        self._plan = plan
        self._ring = np.empty(0, np.uint8)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    @contextmanager
    def ring(self, capacity: int) -> Iterator[NDArray[np.uint8]]:
        """Provide memory for ``capacity`` patches."""
        patch = self._plan.grid.settings.patch
        self._ring = np.empty((capacity, patch, patch, 3), np.uint8)
        yield self._ring
        self._ring = np.empty(0, np.uint8)

    def read(self, k: int, places: tuple[slice, ...]) -> Future[NDArray[np.bool_]]:
        """Read the plan's ``k``-th block into the ring."""
        return self._pool.submit(self._read, k, places, self._ring)

    def _read(self, k: int, places: tuple[slice, ...], ring: NDArray[np.uint8]) -> NDArray[np.bool_]:
        memory = chain.from_iterable(ring[place] for place in places)
        return self._blocks.read_into(memory, int(self._plan.blocks[k]), self._plan.positions[self._plan.of_block(k)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

"""Reading and predicting at the same time: while one batch is computed, the next blocks are read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.tiling.blocks import BlockPatches, BlockReader
from pathology.tiling.plan import TilePlan

__all__ = ["BlockPrediction", "predict_blocks"]

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BlockPrediction:
    """Predictions of one block.

    Attributes
    ----------
    k
        Place among the plan's blocks.
    probabilities
        ``(n, C)`` float32; rows of NaN where a patch could not be read.
    """

    k: int
    probabilities: NDArray[np.float32]


def predict_blocks(
    predict: Predict,
    classes: int,
    batch_size: int,
    blocks: BlockReader,
    plan: TilePlan,
    ks: Sequence[int],
    *,
    readers: int = 2,
) -> Iterator[BlockPrediction]:
    """Predict blocks in order, yielding each as soon as its last patch is done.

    Batches run across block borders, so that only the last batch is padded.  At most ``readers + 1`` blocks are
    held at once.

    Parameters
    ----------
    predict
        ``(B, P, P, 3)`` uint8 to ``(B, C)`` float32, ``B`` <= ``batch_size``; see :meth:`Engine.predict`.
    classes
        ``C``.
    batch_size
        Patches handed over at once.
    blocks
        Reads the slide.
    plan
        The patches.
    ks
        Which of the plan's blocks, in the order wanted.
    readers
        Blocks read ahead, each in its own thread.
    """
    if not ks:
        return
    open_blocks: deque[tuple[int, NDArray[np.float32]]] = deque()
    waiting: deque[tuple[NDArray[np.float32], NDArray[np.intp]]] = deque()  # where the queued patches' rows go
    queue: list[NDArray[np.uint8]] = []
    queued = 0

    def flush(count: int) -> None:
        nonlocal queued
        joined = queue[0] if len(queue) == 1 else np.concatenate(queue)
        predictions = predict(joined[:count])
        queue[:] = [joined[count:]] if len(joined) > count else []
        queued -= count
        done = 0
        while done < count:
            result, rows = waiting.popleft()
            take = min(len(rows), count - done)
            result[rows[:take]] = predictions[done : done + take]
            done += take
            if take < len(rows):
                waiting.appendleft((result, rows[take:]))

    def read(k: int) -> BlockPatches:
        return blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)])

    with ThreadPoolExecutor(readers, thread_name_prefix="read") as pool:
        ahead: deque[tuple[int, Future[BlockPatches]]] = deque()
        pending = iter(ks)
        try:
            for k in pending:
                ahead.append((k, pool.submit(read, k)))
                if len(ahead) == readers:
                    break
            while ahead:
                k, future = ahead.popleft()
                patches = future.result()
                following = next(pending, None)
                if following is not None:
                    ahead.append((following, pool.submit(read, following)))
                result = np.full((len(patches.readable), classes), np.nan, np.float32)
                rows = np.flatnonzero(patches.readable)
                open_blocks.append((k, result))
                if len(rows):
                    queue.append(patches.pixels if len(rows) == len(patches.readable) else patches.pixels[rows])
                    waiting.append((result, rows))
                    queued += len(rows)
                while queued >= batch_size:
                    flush(batch_size)
                still_queued = {id(entry[0]) for entry in waiting}
                while open_blocks and id(open_blocks[0][1]) not in still_queued:
                    ready, values = open_blocks.popleft()
                    yield BlockPrediction(ready, values)
            if queued:
                flush(queued)
            for ready, values in open_blocks:
                yield BlockPrediction(ready, values)
        finally:
            for _, future in ahead:
                future.cancel()

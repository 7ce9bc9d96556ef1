"""Read and predict concurrently: while one batch is computed, the next blocks are read.

Patches are written to a ring buffer in the order of prediction, so that a batch is a slice of the ring and needs no
copy.  Results do not depend on whether threads or processes fill the ring.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pathology.tiling.plan import TilePlan

__all__ = ["BlockPrediction", "BlockSource", "predict_blocks"]

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_RING_BYTES = 2**30
"""Memory limit for patches, exceeded only if a single block plus one batch needs more."""


class BlockSource(Protocol):
    """Reads the blocks of one plan into a ring of patches."""

    @property
    def ahead(self) -> int:
        """Blocks to request at once, so that no reader is ever idle."""

    def ring(self, capacity: int) -> AbstractContextManager[NDArray[np.uint8]]:
        """Provide memory for patches, ``(capacity, P, P, 3)`` uint8, valid only inside the ``with`` statement."""

    def read(self, k: int, places: tuple[slice, ...]) -> Future[NDArray[np.bool_]]:
        """Read the plan's ``k``-th block into the ring's places, one after the other.

        Returns
        -------
        Future of numpy.ndarray
            ``(n,)`` bool: false where a stored tile under the patch could not be decoded.
        """


@dataclass(frozen=True, slots=True)
class BlockPrediction:
    """Predictions of one block.

    Attributes
    ----------
    k
        Index among the plan's blocks.
    probabilities
        ``(n, C)`` float32; rows of NaN where a patch could not be read.
    """

    k: int
    probabilities: NDArray[np.float32]


def predict_blocks(
    predict: Predict,
    classes: int,
    batch_size: int,
    source: BlockSource,
    plan: TilePlan,
    ks: Sequence[int],
) -> Iterator[BlockPrediction]:
    """Predict blocks in order and yield each as soon as its last patch is done.

    Batches span block boundaries, so that only the last batch is short.  Memory does not grow with the number of
    blocks.

    Parameters
    ----------
    predict
        ``(B, P, P, 3)`` uint8 to ``(B, C)`` float32, ``B`` <= ``batch_size``; see :meth:`Engine.predict`.
    classes
        ``C``.
    batch_size
        Patches handed over at once.
    source
        Reads the slide.
    plan
        The patches.
    ks
        Indices of the plan's blocks to predict, in this order.
    """
    if not ks:
        return
    sizes = [int(plan.offsets[k + 1] - plan.offsets[k]) for k in ks]
    starts = [0, *np.cumsum(sizes).tolist()]  # of each block in the order of prediction
    capacity = _capacity(max(sizes), batch_size, source.ahead, 3 * plan.grid.settings.patch**2, starts[-1])
    with source.ring(capacity) as ring:
        reads: deque[Future[NDArray[np.bool_]]] = deque()
        results: deque[NDArray[np.float32]] = deque()  # of the blocks asked for and not yet handed out
        readable: deque[NDArray[np.bool_]] = deque()
        asked = read = handed = predicted = 0  # blocks, blocks, blocks, patches
        try:
            while handed < len(ks):
                while asked < len(ks) and len(reads) < source.ahead and starts[asked + 1] - predicted <= capacity:
                    reads.append(source.read(ks[asked], _places(starts[asked], sizes[asked], capacity)))
                    results.append(np.empty((sizes[asked], classes), np.float32))
                    asked += 1
                if reads:
                    readable.append(reads.popleft().result())
                    read += 1
                while (waiting := starts[read] - predicted) >= batch_size or (waiting and read == len(ks)):
                    count = min(batch_size, waiting)
                    place = predicted % capacity  # batches divide the ring, so none runs over its end
                    found = predict(ring[place : place + count])
                    _hand_out(found, predicted, starts[handed:], results)
                    predicted += count
                while handed < read and starts[handed + 1] <= predicted:
                    values = results.popleft()
                    values[~readable.popleft()] = np.nan
                    yield BlockPrediction(ks[handed], values)
                    handed += 1
        finally:
            for future in reads:
                future.cancel()
            wait(reads)  # the ring must not be reused while a reader is still writing to it


def _capacity(largest: int, batch_size: int, ahead: int, patch_bytes: int, total: int) -> int:
    """Patches in the ring: a multiple of the batch, enough for one block behind an unfinished batch."""
    wanted = min(largest * ahead + batch_size, _RING_BYTES // patch_bytes, total)
    return -(-max(wanted, largest + batch_size) // batch_size) * batch_size


def _places(start: int, size: int, capacity: int) -> tuple[slice, ...]:
    """Return where a block's patches lie in the ring, wrapping around at its end."""
    first = start % capacity
    until_end = min(size, capacity - first)
    places = (slice(first, first + until_end), slice(0, size - until_end))
    return places if until_end < size else places[:1]


def _hand_out(
    found: NDArray[np.float32], first: int, starts: Sequence[int], results: Sequence[NDArray[np.float32]]
) -> None:
    """Put the predictions of patches ``first``, ``first + 1``, ... into the rows of the blocks they belong to."""
    last = first + len(found)
    for start, values in zip(starts, results, strict=False):
        if start >= last:
            break
        begin, end = max(first, start), min(last, start + len(values))
        if begin < end:
            values[begin - start : end - start] = found[begin - first : end - first]

"""Many stored tiles in one buffer, so that operations on all of them can be vectorised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PackedTiles"]


@dataclass(frozen=True, slots=True)
class PackedTiles:
    """The compressed bytes of ``n`` stored tiles.

    Attributes
    ----------
    data
        ``(bytes,)`` uint8: the tiles, in any order; there may be unused bytes between them.
    starts
        ``(n,)`` int64: where each tile begins in ``data``.
    lengths
        ``(n,)`` int64: its length in bytes; 0 if the scanner omitted it, -1 if it cannot be read.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, tiles: Sequence[bytes | memoryview | None]) -> PackedTiles:
        """Pack tiles one after the other; ``None`` marks one that cannot be read."""
        lengths = np.array([-1 if tile is None else len(tile) for tile in tiles], np.int64)
        taken = np.maximum(lengths, 0)
        data = np.frombuffer(b"".join(tile for tile in tiles if tile), np.uint8)
        return cls(data, np.cumsum(taken) - taken, lengths)

    def tile(self, i: int) -> memoryview:
        """Return the bytes of one tile; empty if it is missing."""
        start = int(self.starts[i])
        return self.data.data[start : start + max(0, int(self.lengths[i]))]

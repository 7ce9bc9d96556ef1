"""In which order blocks are read, so that neighbours follow each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pathology.tiling.plan import TilePlan

__all__ = ["compact_order"]

_STRIP: Final = 8
"""Block rows in a strip.  What a block shares with its neighbours must be kept for this many blocks: some 75 stored
tiles of 256 x 256 where nothing is shrunk, and twice as many of a quarter of the size at half the resolution; readers
keep more.  Only what crosses from one strip to the next may be decoded twice on slides too wide for that, under 2 % of
all tiles."""


def compact_order(plan: TilePlan, ks: Iterable[int]) -> tuple[int, ...]:
    """Sort blocks into strips of 8 block rows, column by column within a strip.

    A run of 64 neighbours in this order is a square of 8 x 8 blocks, whose border is a third of that of 64 blocks in a
    row: less is decoded twice where runs go to different workers.

    Parameters
    ----------
    plan
        The patches.
    ks
        Places of blocks in the plan.

    Returns
    -------
    tuple of int
        The same places.
    """

    def place(k: int) -> tuple[int, int, int]:
        row, column = divmod(int(plan.blocks[k]), plan.grid.block_columns)
        return row // _STRIP, column, row

    return tuple(sorted(ks, key=place))

"""The order in which blocks are read, so that neighbours follow each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pathology.tiling.plan import TilePlan

__all__ = ["compact_order"]

_STRIP: Final = 8
"""Block rows in a strip.  Tiles shared with neighbouring blocks must be cached for this many blocks: about 75 stored
tiles of 256 x 256 without downsampling, and twice as many of a quarter of the size at half the resolution; readers
cache more.  On slides too wide for that, only tiles that cross from one strip to the next may be decoded twice, under
2 % of all tiles."""


def compact_order(plan: TilePlan, ks: Iterable[int]) -> tuple[int, ...]:
    """Sort blocks into strips of 8 block rows, column by column within a strip.

    A run of 64 neighbours in this order is a square of 8 x 8 blocks, whose border is a third of that of 64 blocks in a
    row: fewer tiles are decoded twice if runs go to different workers.

    Parameters
    ----------
    plan
        The patches.
    ks
        Indices of blocks in the plan.

    Returns
    -------
    tuple of int
        The same indices, reordered.
    """

    def place(k: int) -> tuple[int, int, int]:
        row, column = divmod(int(plan.blocks[k]), plan.grid.block_columns)
        return row // _STRIP, column, row

    return tuple(sorted(ks, key=place))

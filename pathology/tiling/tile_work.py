"""Counting stored tiles: how many a pass over a slide needs and decodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pathology.slide.readers.base import Rect, SlideReader
from pathology.slide.resample import Scaling, choose_scaling, footprint
from pathology.tiling.plan import TilePlan

__all__ = ["TileWork", "tiles_under"]


@dataclass(frozen=True, slots=True)
class TileWork:
    """Tile counts of reading a slide's blocks: evidence that stored tiles are decoded once.

    Attributes
    ----------
    needed
        Distinct stored tiles under the blocks that were read.
    decoded
        Stored tiles decoded; one decoded twice counts twice.
    reused
        Tiles taken from a cache instead of being decoded again.
    """

    needed: int = 0
    decoded: int = 0
    reused: int = 0

    def __add__(self, other: TileWork) -> TileWork:
        """Return the sum of both."""
        return TileWork(self.needed + other.needed, self.decoded + other.decoded, self.reused + other.reused)

    def __str__(self) -> str:
        """One readable line."""
        return f"{self.decoded} decoded for {self.needed} needed, {self.reused} reused"


def tiles_under(reader: SlideReader, plan: TilePlan, ks: Iterable[int]) -> int:
    """Count the distinct stored tiles that reading some blocks touches.

    Parameters
    ----------
    reader
        The slide.
    plan
        The patches.
    ks
        Indices of the blocks in the plan.

    Returns
    -------
    int
        Tiles of the level read, including those that the scanner omitted and that need no decoding.
    """
    scaling = choose_scaling(reader, plan.grid.scale)
    level = reader.levels[scaling.level]
    width, height = level.tile_size
    touched = np.zeros((-(-level.height // height), -(-level.width // width)), np.bool_)
    for k in ks:
        for target in _read_at_once(plan, scaling, k):
            part = footprint(scaling, target)
            left, top = max(0, part.x * scaling.reduction), max(0, part.y * scaling.reduction)
            right, bottom = (part.x + part.width) * scaling.reduction, (part.y + part.height) * scaling.reduction
            touched[top // height : -(-bottom // height), left // width : -(-right // width)] = True
    return int(np.count_nonzero(touched))


def _read_at_once(plan: TilePlan, scaling: Scaling, k: int) -> list[Rect]:
    """Return the areas read for a block: each patch if patches need no resampling, or their bounding box."""
    index, positions = int(plan.blocks[k]), plan.positions[plan.of_block(k)]
    if scaling.rest != 1.0:
        return [plan.grid.window(index, positions)]
    return [plan.grid.window(index, positions[i : i + 1]) for i in range(len(positions))]

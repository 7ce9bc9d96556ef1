"""Which patches of a slide hold tissue, in the order in which they are read, stored and scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.tiling.grid import Grid, TissueShare

__all__ = ["TilePlan", "plan_tiles"]


@dataclass(frozen=True)
class TilePlan:
    """The chosen patches of one slide, block by block.

    Attributes
    ----------
    grid
        All positions.
    coords
        ``(N, 2)`` int32 level-0 ``(x, y)`` top left corners, in block order, row-major within a block.
    tissue
        ``(N,)`` float32 tissue share of each patch.
    positions
        ``(N,)`` int32: place of the patch among the positions of its block, row-major.
    blocks
        ``(K,)`` int32 indices of the blocks that hold at least one patch, ascending.
    offsets
        ``(K + 1,)`` int64: block ``blocks[k]`` holds patches ``offsets[k]`` to ``offsets[k + 1]``.
    """

    grid: Grid
    coords: NDArray[np.int32]
    tissue: NDArray[np.float32]
    positions: NDArray[np.int32]
    blocks: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.coords)

    def of_block(self, k: int) -> slice:
        """Slice of the patches in the ``k``-th block that holds any."""
        return slice(int(self.offsets[k]), int(self.offsets[k + 1]))


def plan_tiles(grid: Grid, share: TissueShare) -> TilePlan:
    """Choose the patches whose tissue share reaches the grid's minimum.

    Parameters
    ----------
    grid
        The slide's grid.
    share
        Tissue share of any square of the same slide.

    Returns
    -------
    TilePlan
        Possibly without patches.
    """
    coords, tissue, positions, blocks, offsets = [], [], [], [], [0]
    for index in range(len(grid)):
        corners = grid.origins(grid.block(index))
        shares = share(corners, grid.patch_extent)
        chosen = np.flatnonzero(shares >= grid.settings.min_tissue)
        if len(chosen):
            coords.append(corners[chosen])
            tissue.append(shares[chosen])
            positions.append(chosen.astype(np.int32))
            blocks.append(index)
            offsets.append(offsets[-1] + len(chosen))
    return TilePlan(
        grid,
        np.concatenate(coords) if coords else np.empty((0, 2), np.int32),
        np.concatenate(tissue) if tissue else np.empty(0, np.float32),
        np.concatenate(positions) if positions else np.empty(0, np.int32),
        np.array(blocks, np.int32),
        np.array(offsets, np.int64),
    )

"""The patches of a slide that contain tissue, in the order in which they are read, stored and scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology.slide.tissue.quality import ARTEFACTS
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.patch_quality import PatchQuality

__all__ = ["ExcludedPatches", "TilePlan", "plan_tiles"]


@dataclass(frozen=True)
class ExcludedPatches:
    """Patches with enough tissue, excluded for artefacts.

    Attributes
    ----------
    coords
        ``(M, 2)`` int32 level-0 ``(x, y)`` top left corners.
    tissue
        ``(M,)`` float32 tissue fraction of each.
    quality
        ``(M, 5)`` float32 fraction covered by each artefact.
    over
        ``(M, 5)`` bool: which of the fractions exceed their limits.
    """

    coords: NDArray[np.int32]
    tissue: NDArray[np.float32]
    quality: NDArray[np.float32]
    over: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.coords)


@dataclass(frozen=True)
class TilePlan:
    """The selected patches of one slide, block by block.

    Attributes
    ----------
    grid
        All positions.
    coords
        ``(N, 2)`` int32 level-0 ``(x, y)`` top left corners, in block order, row-major within a block.
    tissue
        ``(N,)`` float32 tissue fraction of each patch.
    positions
        ``(N,)`` int32: row-major index of the patch among the positions of its block.
    blocks
        ``(K,)`` int32 indices of the blocks with at least one patch, ascending.
    offsets
        ``(K + 1,)`` int64: block ``blocks[k]`` contains patches ``offsets[k]`` to ``offsets[k + 1]``.
    quality
        ``(N, 5)`` float32 fraction of each patch covered by each artefact, in the order of
        :data:`pathology.slide.tissue.quality.ARTEFACTS`; ``None`` if quality was not assessed.
    excluded
        Patches excluded for artefacts; ``None`` if quality was not assessed.
    """

    grid: Grid
    coords: NDArray[np.int32]
    tissue: NDArray[np.float32]
    positions: NDArray[np.int32]
    blocks: NDArray[np.int32]
    offsets: NDArray[np.int64]
    quality: NDArray[np.float32] | None = None
    excluded: ExcludedPatches | None = None

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.coords)

    def of_block(self, k: int) -> slice:
        """Slice of the patches in the ``k``-th non-empty block."""
        return slice(int(self.offsets[k]), int(self.offsets[k + 1]))


def plan_tiles(grid: Grid, share: TissueShare, quality: PatchQuality | None = None) -> TilePlan:
    """Select the patches whose tissue fraction reaches the grid's minimum and whose artefacts are within limits.

    Parameters
    ----------
    grid
        The slide's grid.
    share
        Tissue fractions of the same slide.
    quality
        Artefact fractions and their limits; ``None``: keep patches with artefacts too.

    Returns
    -------
    TilePlan
        May contain no patches.

    Examples
    --------
    >>> from pathology.settings import GridSettings
    >>> grid = Grid(GridSettings(patch=256, stride=256, mpp=1.0), dimensions=(4096, 3072), slide_mpp=0.5)
    >>> tissue = np.zeros((12, 16), bool)
    >>> tissue[2:6, 4:8] = True
    >>> plan = plan_tiles(grid, TissueShare(tissue, (4096, 3072)))
    >>> len(plan), plan.coords[0].tolist()
    (4, [1024, 512])
    """
    coords, tissue, positions, kept_quality, blocks, offsets = [], [], [], [], [], [0]
    bad_coords, bad_tissue, bad_quality, bad_over = [], [], [], []
    for index in range(len(grid)):
        corners = grid.origins(grid.block(index))
        shares = share(corners, grid.patch_extent)
        chosen = np.flatnonzero(shares >= grid.settings.min_tissue)
        if quality is not None and len(chosen):
            covered = quality.shares(corners[chosen], grid.patch_extent)
            over = quality.over(covered)
            good = ~over.any(axis=1)
            bad_coords.append(corners[chosen[~good]])
            bad_tissue.append(shares[chosen[~good]])
            bad_quality.append(covered[~good])
            bad_over.append(over[~good])
            kept_quality.append(covered[good])
            chosen = chosen[good]
        if len(chosen):
            coords.append(corners[chosen])
            tissue.append(shares[chosen])
            positions.append(chosen.astype(np.int32))
            blocks.append(index)
            offsets.append(offsets[-1] + len(chosen))
    artefacts = len(ARTEFACTS)
    excluded = ExcludedPatches(
        _joined(bad_coords, np.int32, 2),
        _joined(bad_tissue, np.float32),
        _joined(bad_quality, np.float32, artefacts),
        _joined(bad_over, np.bool_, artefacts),
    )
    return TilePlan(
        grid,
        _joined(coords, np.int32, 2),
        _joined(tissue, np.float32),
        _joined(positions, np.int32),
        np.array(blocks, np.int32),
        np.array(offsets, np.int64),
        _joined(kept_quality, np.float32, artefacts) if quality is not None else None,
        excluded if quality is not None else None,
    )


def _joined(parts: list[NDArray[Any]], kind: type[np.generic], *columns: int) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty((0, *columns), kind)

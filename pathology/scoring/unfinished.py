"""Intermediate results of an unfinished slide on disk: its plan and the predictions of finished blocks.

Each step saves its output here before it returns, so that an interrupted run loses at most the blocks in progress.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology.atomic_files import write_text
from pathology.errors import OutputError
from pathology.settings import GridSettings
from pathology.tiling.grid import Grid
from pathology.tiling.plan import TilePlan

__all__ = ["Outputs", "UnfinishedSlide"]

_PLAN = "plan.npz"
_ABOUT = "about.json"
_ARTEFACT = "artefact_"


@dataclass(frozen=True, eq=False)
class Outputs:
    """The engine's outputs for all patches of a slide.

    Attributes
    ----------
    values
        ``(N, K)`` float32; rows of NaN could not be read.
    unreadable_tiles
        Stored tiles that could not be decoded.
    engine
        Description of the engine, or of several if an interrupted run used another one.
    """

    values: NDArray[np.float32]
    unreadable_tiles: int
    engine: str


class UnfinishedSlide:
    """The folder of an unfinished slide.

    Parameters
    ----------
    folder
        See :attr:`pathology.scoring.jobs.SlideJob.work`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # -- the slide ----------------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """Return what was saved about the slide; empty if nothing was."""
        try:
            about: dict[str, Any] = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return about

    def note(self, about: Mapping[str, Any]) -> None:
        """Save facts about the slide."""
        write_text(self.folder / _ABOUT, json.dumps(about, indent=1, ensure_ascii=False))

    def clear(self) -> None:
        """Begin anew."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def remove(self) -> None:
        """Remove the folder: the slide is finished."""
        shutil.rmtree(self.folder)

    # -- its patches --------------------------------------------------------------------------------------------------

    @property
    def has_plan(self) -> bool:
        """Whether the patches were selected."""
        return (self.folder / _PLAN).exists()

    def save_plan(
        self,
        plan: TilePlan,
        *,
        overview: NDArray[np.uint8],
        tissue: NDArray[np.bool_],
        artefacts: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Save the patches, the overview image, and the masks over the whole slide."""
        np.savez(
            self.folder / _PLAN,
            coords=plan.coords,
            tissue=plan.tissue,
            positions=plan.positions,
            blocks=plan.blocks,
            offsets=plan.offsets,
            overview=overview,
            mask=tissue,
            allow_pickle=False,
            **{f"{_ARTEFACT}{name}": mask for name, mask in artefacts.items()},
        )

    def plan(self, about: Mapping[str, Any]) -> TilePlan:
        """Return the patches."""
        with np.load(self.folder / _PLAN, allow_pickle=False) as saved:
            return _plan(saved, about)

    def maps(self, about: Mapping[str, Any]) -> tuple[TilePlan, NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
        """Return the patches, the overview image, and the masks: ``tissue`` first, then the artefacts."""
        with np.load(self.folder / _PLAN, allow_pickle=False) as saved:
            masks = {"tissue": saved["mask"]}
            masks |= {n.removeprefix(_ARTEFACT): saved[n] for n in saved.files if n.startswith(_ARTEFACT)}
            return _plan(saved, about), saved["overview"], masks

    # -- its finished blocks ------------------------------------------------------------------------------------------

    def _block(self, k: int) -> Path:
        return self.folder / f"block-{k:06d}.npz"

    def has_block(self, k: int) -> bool:
        """Whether the ``k``-th block of the plan is done."""
        return self._block(k).exists()

    def save_block(
        self, k: int, values: NDArray[np.float32], unreadable: frozenset[tuple[int, int, int]], engine: str
    ) -> None:
        """Save the engine's outputs for the ``k``-th block.

        Every unreadable tile known so far is included, so that the union over all blocks does not depend on where a run
        was interrupted.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        final = self._block(k)
        aside = final.with_suffix(".writing")
        try:
            with aside.open("wb") as file:
                tiles = np.array(sorted(unreadable), np.int32).reshape(-1, 3)
                np.savez(file, probabilities=values, unreadable=tiles, engine=np.array(engine))
            aside.replace(final)
        except OSError as error:
            raise OutputError(
                f"cannot write the predictions of a block ({error.strerror})", where=self.folder
            ) from error

    def outputs(self, blocks: int) -> Outputs:
        """Return the engine's outputs for all blocks, in the order of the plan."""
        parts: list[NDArray[np.float32]] = []
        unreadable: set[tuple[int, ...]] = set()
        engines: set[str] = set()
        for k in range(blocks):
            with np.load(self._block(k), allow_pickle=False) as block:
                parts.append(block["probabilities"])
                unreadable.update(map(tuple, block["unreadable"].tolist()))
                engines.add(str(block["engine"]))
        return Outputs(np.concatenate(parts), len(unreadable), ", ".join(sorted(engines)))


def _plan(saved: Any, about: Mapping[str, Any]) -> TilePlan:  # noqa: ANN401 - numpy's NpzFile has no public type
    grid = Grid(GridSettings.model_validate(about["grid"]), tuple(about["dimensions"]), about["mpp"])
    return TilePlan(grid, saved["coords"], saved["tissue"], saved["positions"], saved["blocks"], saved["offsets"])

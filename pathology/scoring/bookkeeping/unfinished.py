"""Intermediate results of an unfinished slide on disk: its plan and the predictions of finished blocks.

Each step saves its output here before it returns, so that an interrupted run loses at most the blocks in progress.
"""

from __future__ import annotations

import io
import json
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology.atomic_files import write_bytes, write_text
from pathology.errors import OutputError
from pathology.settings import GridSettings
from pathology.tiling.grid import Grid
from pathology.tiling.plan import TilePlan

__all__ = ["Outputs", "UnfinishedSlide"]

_READING = threading.Lock()
_PLAN = "plan.npz"
_ABOUT = "about.json"
_ARTEFACT = "artefact_"

_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)
"""What reading our own ``.npz`` files raises where one is missing, empty, cut off or overwritten."""


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
            about = json.loads((self.folder / _ABOUT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return about if isinstance(about, dict) else {}

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

    def save_plan(
        self,
        plan: TilePlan,
        *,
        overview: NDArray[np.uint8],
        tissue: NDArray[np.bool_],
        artefacts: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Save the patches, the overview image, and the masks over the whole slide."""
        content = io.BytesIO()
        np.savez(
            content,
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
        write_bytes(self.folder / _PLAN, content.getvalue())

    def saved_plan(self, about: Mapping[str, Any]) -> TilePlan | None:
        """Return the patches that an earlier run selected; ``None`` if it did not, or if not all of it can be read.

        A power cut can leave a file that is there and empty, or cut off.
        """
        try:
            plan, _, _ = self.maps(about)
        except _UNREADABLE:
            return None
        return plan

    def plan(self, about: Mapping[str, Any]) -> TilePlan:
        """Return the patches."""
        with _loaded(self.folder / _PLAN) as saved:
            return _plan(saved, about)

    def maps(self, about: Mapping[str, Any]) -> tuple[TilePlan, NDArray[np.uint8], dict[str, NDArray[np.bool_]]]:
        """Return the patches, the overview image, and the masks: ``tissue`` first, then the artefacts."""
        with _loaded(self.folder / _PLAN) as saved:
            masks = {"tissue": saved["mask"]}
            masks |= {n.removeprefix(_ARTEFACT): saved[n] for n in saved.files if n.startswith(_ARTEFACT)}
            return _plan(saved, about), saved["overview"], masks

    # -- its finished blocks ------------------------------------------------------------------------------------------

    def _block(self, k: int) -> Path:
        return self.folder / f"block-{k:06d}.npz"

    def has_block(self, k: int, patches: int) -> bool:
        """Whether the ``k``-th block of the plan, of so many patches, is done.

        A file that cannot be read or does not hold them is removed: the block is predicted again.
        """
        try:
            values, _, _ = self._saved_block(k)
        except FileNotFoundError:
            return False
        except _UNREADABLE:
            values = np.empty((0, 0), np.float32)
        if len(values) == patches and patches:
            return True
        self._block(k).unlink(missing_ok=True)
        return False

    def _saved_block(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int32], str]:
        with _loaded(self._block(k)) as block:
            return block["probabilities"], block["unreadable"], str(block["engine"])

    def save_block(
        self, k: int, values: NDArray[np.floating], unreadable: frozenset[tuple[int, int, int]], engine: str
    ) -> None:
        """Save the engine's outputs for the ``k``-th block.

        Every unreadable tile known so far is included, so that the union over all blocks does not depend on where a run
        was interrupted.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        content = io.BytesIO()
        tiles = np.array(sorted(unreadable), np.int32).reshape(-1, 3)
        np.savez(content, probabilities=values, unreadable=tiles, engine=np.array(engine))
        write_bytes(self._block(k), content.getvalue())

    def _done_block(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int32], str]:
        try:
            return self._saved_block(k)
        except _UNREADABLE as error:
            raise OutputError(
                "the predictions of a block cannot be read back",
                where=self._block(k),
                remedy="Check the disk and run the same command again",
            ) from error

    def values(self, blocks: int) -> Iterator[NDArray[np.floating]]:
        """Yield the engine's outputs of each block, in the order of the plan; memory does not grow with the slide.

        Raises
        ------
        OutputError
            As for :meth:`outputs`.
        """
        for k in range(blocks):
            yield self._done_block(k)[0]

    def engines(self, blocks: int) -> str:
        """Return the description of the engine, or of several if an interrupted run used another one."""
        return ", ".join(sorted({self._done_block(k)[2] for k in range(blocks)}))

    def outputs(self, blocks: int) -> Outputs:
        """Return the engine's outputs for all blocks, in the order of the plan.

        Raises
        ------
        OutputError
            If a block that was written cannot be read again; the next run computes it anew.
        """
        parts: list[NDArray[np.float32]] = []
        unreadable: set[tuple[int, ...]] = set()
        engines: set[str] = set()
        for k in range(blocks):
            values, tiles, engine = self._done_block(k)
            parts.append(values)
            unreadable.update(map(tuple, tiles.tolist()))
            engines.add(engine)
        return Outputs(np.concatenate(parts), len(unreadable), ", ".join(sorted(engines)))


@contextmanager
def _loaded(path: Path) -> Iterator[Any]:  # numpy's NpzFile has no public type
    # From memory: of a file that is cut off, numpy would leave the file open.
    content = io.BytesIO(path.read_bytes())
    # NumPy reads each array's header by ast.literal_eval, whose recursion depth CPython 3.11 counts for all threads
    # together: two at once can fail with a SystemError.
    with _READING, np.load(content, allow_pickle=False) as saved:
        yield saved


def _plan(saved: Any, about: Mapping[str, Any]) -> TilePlan:  # noqa: ANN401 - numpy's NpzFile has no public type
    grid = Grid(GridSettings.model_validate(about["grid"]), tuple(about["dimensions"]), about["mpp"])
    return TilePlan(grid, saved["coords"], saved["tissue"], saved["positions"], saved["blocks"], saved["offsets"])

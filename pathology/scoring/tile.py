"""Tile a batch of slides into patch stores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pathology.errors import SlideError, StoreError, UsageError
from pathology.folder_lock import locked_folder
from pathology.inference.workers.schedule import ChunkDone, Failure, Prepared, Steps, run_slides
from pathology.memory import give_back_freed_memory, then_gives_back_memory
from pathology.progress import Progress, SilentProgress
from pathology.scoring.guard import guarded
from pathology.scoring.prepare import Stain, prepare, write_quality_picture
from pathology.scoring.reader_pool import pooled_reader
from pathology.scoring.select import select_slides
from pathology.settings import GridSettings, QualitySettings, TissueSettings
from pathology.slide.readers.base import SlideReader
from pathology.tiling.blocks import BlockReader
from pathology.tiling.order import compact_order
from pathology.tiling.store import PatchStore, StoreMode
from pathology.tiling.stored_tiles import StoredTiles, on_stored_tiles
from pathology.tiling.tile_work import TileWork, tiles_under

__all__ = ["TileJob", "TiledSlide", "tile"]


@dataclass(frozen=True)
class TileJob:
    """One slide to tile."""

    slide_id: str
    path: Path
    option_mpp: float | None
    manifest_mpp: float | None
    grid: GridSettings
    native: bool
    tissue: TissueSettings
    quality: QualitySettings | None
    stain: Stain
    mode: StoreMode
    store: Path
    attempt: int = 1
    problem: str = ""

    @property
    def picture(self) -> Path:
        """Path of the image of tissue and artefacts."""
        return self.store.with_suffix(".quality.png")


@dataclass(frozen=True)
class TiledSlide:
    """The outcome of tiling one slide.

    Attributes
    ----------
    slide_id, path
        Identity.
    store
        Its patch store.
    patches
        Number of patches in it.
    excluded
        Number of patches excluded for artefacts.
    tiles
        Stored tiles needed, decoded and reused in this run; ``encoded`` stores decode none.
    unchanged
        Whether it was already finished by an earlier run.
    error
        Why it failed; empty if it succeeded.
    """

    slide_id: str
    path: Path
    store: Path
    patches: int = 0
    excluded: int = 0
    tiles: TileWork = field(default_factory=TileWork)
    unchanged: bool = False
    error: str = ""


def tile(
    slides: str | PathLike[str] | Iterable[str | PathLike[str]],
    out: str | PathLike[str],
    grid: GridSettings | None = None,
    *,
    mode: StoreMode = "reference",
    native: bool = False,
    tissue: TissueSettings | None = None,
    quality: QualitySettings | None = None,
    stain: Stain = "none",
    mpp: float | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[TiledSlide, ...]:
    """Cut slides into patch stores ``<slide_id>.zarr``; an interrupted run resumes with the next block.

    With artefact detection, each store is accompanied by ``<slide_id>.quality.png``: the slide with its tissue and
    artefacts.

    Parameters
    ----------
    slides
        Slide files, folders or CSV manifests.
    out
        Folder for the stores.
    grid
        Patch size, scale, stride; ``None``: 224 px at 1 µm/px.
    mode
        ``reference``: coordinates only; ``encoded``: the slide's compressed tiles, if patches coincide with tiles;
        ``decoded``: pixels.
    native
        Take patches at the scale of each slide's level 0, ignoring ``grid.mpp``.
    tissue
        Settings of tissue detection.
    quality
        Artefact limits above which a patch is excluded; ``None`` disables artefact detection.
    stain
        Stain normalisation, fitted once per slide.
    mpp
        Micrometres per level-0 pixel of every slide, overriding files and manifests.
    workers
        Number of local worker processes, each of which reads two blocks at once; ``None``: one per two cores.
    progress
        Receives progress reports.

    Returns
    -------
    tuple of TiledSlide
        One per slide, including failed ones.

    Raises
    ------
    UsageError
        If the selection is invalid, or stain normalisation is requested with ``encoded``.
    OutputError
        If ``out`` cannot be written, or another run writes to it.

    Examples
    --------
    >>> from pathology import GridSettings, PatchStore
    >>> (made,) = tile(slide_path, folder, GridSettings(patch=64, stride=64, mpp=1.0))
    >>> with PatchStore.open(made.store) as store:
    ...     store[0].shape
    (64, 64, 3)
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; it must be at least 1")
    if mode == "encoded" and stain != "none":
        raise UsageError(
            "the slide's compressed tiles cannot be stain-normalised",
            remedy="Choose --pixels decoded, or --pixels reference, which normalises when patches are read",
        )
    progress = progress or SilentProgress()
    entries = select_slides([slides] if isinstance(slides, str | PathLike) else slides)
    if remote := next((entry.url for entry in entries if entry.url), None):
        raise UsageError(
            "remote slides can be scored but not tiled, because a store refers to its slide",
            where=remote,
            remedy="Copy the slide to a file system first",
        )
    out = Path(out).absolute()
    jobs = [
        TileJob(
            entry.slide_id,
            entry.path.absolute(),
            mpp,
            entry.mpp,
            grid or GridSettings(),
            native,
            tissue or TissueSettings(),
            quality,
            stain,
            mode,
            out / f"{entry.slide_id}.zarr",
            problem=entry.problem,
        )
        for entry in entries
    ]
    with locked_folder(out):
        return _tile(jobs, workers, progress)


def _tile(jobs: Sequence[TileJob], workers: int | None, progress: Progress) -> tuple[TiledSlide, ...]:
    """Tile what is not finished, in a folder that is locked."""
    results = {job.slide_id: earlier for job in jobs if (earlier := _earlier(job)) is not None}
    todo = [job for job in jobs if job.slide_id not in results]
    progress.began(len(todo), len(results))
    if todo:
        from pathology.inference.workers.cluster import connect

        def record_outcome(result: TiledSlide) -> None:
            results[result.slide_id] = result
            outcome = result.error or f"{result.patches} patches"
            progress.finished(result.slide_id, outcome, failed=bool(result.error))

        with connect(workers=workers or max(1, (os.cpu_count() or 1) // 2)) as pool:
            progress.workers(pool.slots, pool.dashboard)
            work = run_slides(todo, Steps(_prepare, _chunk, _finish, _failed), pool, record_outcome, progress)
        for slide_id, tiles in work.items():
            results[slide_id] = replace(results[slide_id], tiles=tiles)
    return tuple(results[job.slide_id] for job in jobs)


def _asked(job: TileJob) -> dict[str, Any]:
    """Attributes that identify the requested store."""
    return {
        "asked": {
            "grid": job.grid.model_dump(mode="json", exclude={"mpp"} if job.native else None),
            "native": job.native,
            "tissue": job.tissue.model_dump(mode="json"),
            "quality": job.quality.model_dump(mode="json") if job.quality is not None else None,
            "stain": job.stain,
            "mode": job.mode,
            "mpp": [job.option_mpp, job.manifest_mpp],
        }
    }


def _earlier(job: TileJob) -> TiledSlide | None:
    from pathology.slide.open import open_reader

    try:
        with PatchStore.open(job.store, slide=job.path) as store:
            attributes = store.attributes
            if any(attributes.get(name) != value for name, value in _asked(job).items()):
                return None
            with open_reader(job.path) as reader:
                if reader.fingerprint != store.fingerprint:
                    return None
            return _tiled(job, store, unchanged=True)
    except (StoreError, OSError, ValueError):
        return None


def _tiled(job: TileJob, store: PatchStore, *, unchanged: bool = False) -> TiledSlide:
    excluded = len(store.excluded) if store.excluded is not None else 0
    return TiledSlide(job.slide_id, job.path, job.store, len(store), excluded, unchanged=unchanged)


@guarded
@then_gives_back_memory
def _prepare(job: TileJob) -> Prepared:
    if job.problem:
        raise SlideError(job.problem)
    with pooled_reader(job.path) as pooled:
        reader = pooled.reader
        slide = prepare(
            reader,
            option_mpp=job.option_mpp,
            manifest_mpp=job.manifest_mpp,
            tissue=job.tissue,
            quality=job.quality,
            grid=lambda mpp: _grid(job, reader, mpp),
            stain=job.stain,
        )
        pooled.take_work()  # tiles decoded for tissue detection do not count as read for blocks
        plan = slide.plan
        store = PatchStore.create(
            job.store,
            plan,
            job.mode,
            slide=job.path,
            fingerprint=reader.fingerprint,
            description={
                **_asked(job),
                "reader": reader.backend,
                "mpp_source": slide.scale.source,
                "tissue_mm2": slide.tissue_mm2,
                "warnings": list(slide.warnings),
            },
            tiles=StoredTiles(reader, plan.grid) if job.mode == "encoded" else None,
            stain=slide.stain,
        )
        write_quality_picture(job.picture, slide, job.slide_id)
        if job.mode == "reference":
            return Prepared((), 0)
        todo = compact_order(plan, (k for k in range(len(plan.blocks)) if not store.has_block(k)))
        patches = int(np.diff(plan.offsets)[list(todo)].sum())
        return Prepared(todo, patches, patches if job.mode == "encoded" else tiles_under(reader, plan, todo))


def _grid(job: TileJob, reader: SlideReader, mpp: float) -> GridSettings:
    grid = job.grid.model_copy(update={"mpp": mpp}) if job.native else job.grid
    return on_stored_tiles(reader, grid, mpp) if job.mode == "encoded" else grid


@guarded
def _chunk(job: TileJob, ks: tuple[int, ...], report: Callable[[int], None]) -> ChunkDone:
    store = PatchStore.resume(job.store)
    plan = store.plan
    done = 0
    with pooled_reader(job.path) as pooled:
        tiles = StoredTiles(pooled.reader, plan.grid) if job.mode == "encoded" else None
        blocks = BlockReader(pooled.reader, plan.grid, store.stain.apply if store.stain is not None else None)
        for k in ks:
            positions = plan.positions[plan.of_block(k)]
            if tiles is not None:
                store.write_tiles(k, *tiles.read(int(plan.blocks[k]), positions))
            else:
                store.write_block(k, blocks.read(int(plan.blocks[k]), positions))
            done += len(positions)
            report(len(positions))
        give_back_freed_memory()
        return ChunkDone(done, pooled.take_work())


@guarded
def _finish(job: TileJob, seconds: float) -> TiledSlide:
    del seconds  # a store records what was done, not how long it took
    store = PatchStore.resume(job.store)
    store.finish()
    return _tiled(job, store)


def _failed(job: TileJob, failure: Failure) -> TiledSlide:
    # A store without finished blocks is removed; one with finished blocks is kept for resuming.
    if job.store.exists() and not any((job.store / "pixels").glob("c.*")):
        shutil.rmtree(job.store, ignore_errors=True)
    return TiledSlide(job.slide_id, job.path, job.store, error=failure.reason)

"""Tiling a batch of slides into patch stores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pathology.errors import NoTissueError, OutputError, StoreError, UsageError
from pathology.inference.progress import Progress, SilentProgress
from pathology.inference.schedule import ChunkDone, Failure, Prepared, Steps, run_slides
from pathology.scoring.guard import guarded
from pathology.scoring.selection import SlideEntry, select_slides
from pathology.settings import GridSettings, TissueSettings
from pathology.tiling.store import PatchStore, StoreMode

__all__ = ["TileJob", "TiledSlide", "tile"]


@dataclass(frozen=True)
class TileJob:
    """One slide to tile."""

    slide_id: str
    path: Path
    option_mpp: float | None
    manifest_mpp: float | None
    grid: GridSettings
    tissue: TissueSettings
    mode: StoreMode
    store: Path
    attempt: int = 1


@dataclass(frozen=True)
class TiledSlide:
    """What became of one slide.

    Attributes
    ----------
    slide_id, path
        Identity.
    store
        Its patch store.
    patches
        Number of patches in it.
    unchanged
        Whether an earlier run had finished it.
    error
        Why there is no store; empty if there is.
    """

    slide_id: str
    path: Path
    store: Path
    patches: int = 0
    unchanged: bool = False
    error: str = ""


def tile(
    slides: str | PathLike[str] | Iterable[str | PathLike[str]],
    out: str | PathLike[str],
    grid: GridSettings | None = None,
    *,
    mode: StoreMode = "reference",
    tissue: TissueSettings | None = None,
    mpp: float | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[TiledSlide, ...], int]:
    """Cut slides into patch stores ``<slide_id>.zarr``; an interrupted run goes on with the next block.

    Parameters
    ----------
    slides
        Slide files, folders or CSV manifests.
    out
        Folder for the stores.
    grid
        Patch size, scale, stride; ``None``: 224 px at 1 µm/px.
    mode
        ``reference``: coordinates only; ``decoded``: pixels as well.
    tissue
        How tissue is found.
    mpp
        Micrometres per level-0 pixel of every slide, overriding what files and manifests say.
    workers
        Local worker processes; ``None``: one.
    progress
        Told how the batch advances.

    Returns
    -------
    tuple of TiledSlide
        One a slide, failed ones included.
    int
        Stored tiles decoded in this run.

    Raises
    ------
    UsageError
        If the selection is unusable.
    OutputError
        If ``out`` cannot be written.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; it must be at least 1")
    progress = progress or SilentProgress()
    entries = select_slides([slides] if isinstance(slides, str | PathLike) else slides)
    out = Path(out).absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"stores cannot be written here ({error.strerror})", where=out) from error
    jobs = [_job(entry, out, grid or GridSettings(), tissue or TissueSettings(), mode, mpp) for entry in entries]
    results = {job.slide_id: earlier for job in jobs if (earlier := _earlier(job)) is not None}
    todo = [job for job in jobs if job.slide_id not in results]
    progress.began(len(todo), len(results))
    decoded = 0
    if todo:
        from pathology.inference.cluster import connect

        def settled(result: TiledSlide) -> None:
            results[result.slide_id] = result
            outcome = result.error or f"{result.patches} patches"
            progress.finished(result.slide_id, outcome, failed=bool(result.error))

        with connect(workers=workers or 1) as pool:
            progress.workers(pool.slots, pool.dashboard)
            decoded = run_slides(todo, Steps(_prepare, _chunk, _finish, _failed), pool, settled, progress)
    return tuple(results[job.slide_id] for job in jobs), decoded


def _job(
    entry: SlideEntry, out: Path, grid: GridSettings, tissue: TissueSettings, mode: StoreMode, mpp: float | None
) -> TileJob:
    store = out / f"{entry.slide_id}.zarr"
    return TileJob(entry.slide_id, entry.path.absolute(), mpp, entry.mpp, grid, tissue, mode, store)


def _asked(job: TileJob) -> dict[str, Any]:
    """What the store's attributes must say for it to be the one asked for."""
    return {
        "grid": job.grid.model_dump(mode="json"),
        "tissue": job.tissue.model_dump(mode="json"),
        "mode": job.mode,
        "given_mpp": [job.option_mpp, job.manifest_mpp],
    }


def _earlier(job: TileJob) -> TiledSlide | None:
    from pathology.slide.open import open_slide

    try:
        with PatchStore.open(job.store, slide=job.path) as store:
            attributes = store.attributes
            if any(attributes.get(name) != value for name, value in _asked(job).items()):
                return None
            with open_slide(job.path) as reader:
                if reader.fingerprint != store.fingerprint:
                    return None
            return TiledSlide(job.slide_id, job.path, job.store, len(store), unchanged=True)
    except (StoreError, OSError, ValueError):
        return None


@guarded
def _prepare(job: TileJob) -> Prepared:
    import numpy as np

    from pathology.slide.open import open_slide
    from pathology.slide.scale import resolve_mpp
    from pathology.slide.thumbnail import thumbnail
    from pathology.slide.tissue import find_tissue
    from pathology.tiling.grid import Grid, TissueShare
    from pathology.tiling.plan import plan_tiles

    with open_slide(job.path) as reader:
        scale = resolve_mpp(reader, option=job.option_mpp, manifest=job.manifest_mpp)
        overview = thumbnail(reader, scale.mpp, job.tissue.mpp)
        mask = find_tissue(overview.pixels, overview.mpp, job.tissue).mask
        plan = plan_tiles(Grid(job.grid, reader.dimensions, scale.mpp), TissueShare(mask, reader.dimensions))
        if not len(plan):
            raise NoTissueError(
                "no tissue was found" if not mask.any() else "no patch holds enough tissue",
                remedy="Look at the slide; if it holds tissue, lower --min-tissue",
            )
        store = PatchStore.create(
            job.store,
            plan,
            job.mode,
            slide=job.path,
            fingerprint=reader.fingerprint,
            description={
                **_asked(job),
                "reader": reader.backend,
                "mpp_source": scale.source,
                "tissue_mm2": float(mask.mean() * np.prod(reader.dimensions) * (scale.mpp / 1000) ** 2),
            },
        )
    if job.mode == "reference":
        return Prepared((), 0)
    todo = [k for k in range(len(plan.blocks)) if not store.has_block(k)]
    return Prepared(tuple(todo), int(np.diff(plan.offsets)[todo].sum()))


@guarded
def _chunk(job: TileJob, ks: tuple[int, ...], report: Callable[[int], None]) -> ChunkDone:
    from pathology.slide.open import open_slide
    from pathology.tiling.blocks import BlockReader

    store = PatchStore.resume(job.store)
    plan = store.plan
    done = 0
    with open_slide(job.path) as reader:
        blocks = BlockReader(reader, plan.grid)
        for k in ks:
            patches = blocks.read(int(plan.blocks[k]), plan.positions[plan.of_block(k)])
            store.write_block(k, patches)
            done += len(patches.pixels)
            report(len(patches.pixels))
        return ChunkDone(done, reader.tile_counts.decoded)


@guarded
def _finish(job: TileJob, seconds: float) -> TiledSlide:
    del seconds  # a store says what was done, not how long it took
    store = PatchStore.resume(job.store)
    store.finish()
    return TiledSlide(job.slide_id, job.path, job.store, len(store))


def _failed(job: TileJob, failure: Failure) -> TiledSlide:
    # A store that was never begun leaves nothing behind; one with finished blocks stays to be resumed.
    if job.store.exists() and not any(job.store.rglob("c")):
        shutil.rmtree(job.store, ignore_errors=True)
    return TiledSlide(job.slide_id, job.path, job.store, error=failure.reason)

"""The three steps of scoring a slide, as they run inside a worker process.

``prepare_slide`` finds tissue and chooses patches, ``score_chunk`` predicts some blocks, ``finish_slide`` puts
everything together.  Each leaves its result on disk under the slide's folder before it returns, so that an
interrupted run loses at most the blocks in flight.  None of them raises for a bad slide: they return a
:class:`Failure` with a reason for people.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from pathology.errors import OutputError
from pathology.inference.workers.schedule import ChunkDone, Prepared
from pathology.inference.workers.settings import THREADS
from pathology.memory import then_gives_back_memory
from pathology.scoring.guard import guarded
from pathology.scoring.jobs import SlideJob
from pathology.settings import GridSettings
from pathology.tiling.grid import Grid
from pathology.tiling.order import compact_order
from pathology.tiling.plan import TilePlan
from pathology.tiling.tile_work import TileWork, tiles_under

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pathology.bundle.card import Card
    from pathology.bundle.catalogue import Bundle
    from pathology.findings.slide_result import SlideResult
    from pathology.inference.engines.base import Engine
    from pathology.inference.reading.pipeline import BlockSource
    from pathology.inference.reading.processes import ReadingProcesses
    from pathology.outputs.figures.patch_gallery import RepresentativePatch
    from pathology.outputs.reports.mitoses import Candidate
    from pathology.slide.stain.normalise import StainNormaliser

__all__ = ["engine_for", "finish_slide", "grid_settings", "prepare_slide", "score_chunk"]

P = ParamSpec("P")
R = TypeVar("R")

_READING_THREADS = 2
"""Where the processor predicts, two blocks ahead are enough, and more threads would take its time."""
_CORES_FOR_GPU = 2
"""Cores left to the process that holds a GPU; all others read."""

_MIN_TISSUE = {"classification": 0.5, "detection": 0.01}
"""Smallest tissue share of a patch unless the settings say; see :attr:`pathology.settings.ScoreSettings.min_tissue`."""

_PLAN = "plan.npz"
_ABOUT = "about.json"
_SPOILT = "spoilt_"


def grid_settings(job: SlideJob, card: Card) -> GridSettings:
    """Return the grid a model wants, with the run's overrides."""
    return GridSettings(
        patch=card.patch,
        mpp=card.mpp,
        stride=job.settings.stride or card.stride or card.patch,
        min_tissue=job.settings.min_tissue if job.settings.min_tissue is not None else _MIN_TISSUE[card.task],
        block=job.settings.block,
    )


# -- what a worker process keeps ------------------------------------------------------------------------------


class _Loaded:
    """Engines of this process: each model is loaded once, however many slides are scored with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[tuple[str, ...], tuple[Engine, threading.Lock]] = {}
        self._reading: dict[int, ReadingProcesses] = {}

    def engine(self, job: SlideJob) -> tuple[Engine, threading.Lock]:
        from pathology.inference.engines.select import make_engine
        from pathology.scoring.aggregate import needs_features

        kind = job.engine_used or job.engine
        features = needs_features(job.settings.aggregator)
        weights = job.weights_sha256, job.int8_sha256
        wanted = (*weights, str(job.bundle), kind, str(job.device), job.settings.precision, str(features))
        with self._lock:
            if wanted not in self._engines:
                engine = make_engine(
                    load(job),
                    kind=kind,
                    device=job.device,
                    precision=job.settings.precision,
                    threads=_threads(),
                    features=features,
                )
                self._engines[wanted] = engine, threading.Lock()
            return self._engines[wanted]

    def reading(self, processes: int) -> ReadingProcesses:
        from pathology.inference.reading.processes import ReadingProcesses

        with self._lock:
            if processes not in self._reading:
                self._reading[processes] = ReadingProcesses(processes)
            return self._reading[processes]


_loaded = _Loaded()


def _threads() -> int | None:
    """Cores this worker process may use; see :data:`pathology.inference.workers.settings.THREADS`."""
    from distributed import get_worker

    if given := os.environ.get(THREADS):
        return int(given)
    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # not inside a Dask worker
        return None


def load(job: SlideJob) -> Bundle:
    """Load the job's bundle."""
    from pathology.bundle.catalogue import load_bundle

    return load_bundle(job.bundle)


def engine_for(job: SlideJob) -> str:
    """Return the name of the engine that suits a job's model on this worker."""
    from pathology.inference.engines.select import choose_engine

    return choose_engine(load(job), device=job.device, precision=job.settings.precision)


# -- step 1 ------------------------------------------------------------------------------------------------------


@guarded
@then_gives_back_memory
def prepare_slide(job: SlideJob) -> Prepared:
    """Open the slide, find its tissue, choose its patches; or take up what an earlier run left."""
    from pathology.outputs.results.slide_folder import OVERVIEW_LONGEST_SIDE
    from pathology.scoring.prepare import prepare, write_quality_picture
    from pathology.scoring.region import region_mask
    from pathology.slide.open import open_reader
    from pathology.slide.thumbnail import thumbnail

    started = time.time()
    job.work.mkdir(parents=True, exist_ok=True)
    card, region = load(job).card, job.settings.region
    with open_reader(job.file()) as reader:
        key = job.key(reader.fingerprint)
        about = _read_about(job)
        if about.get("key") == key and (job.work / _PLAN).exists():
            plan = _load_plan(job, about)
        else:
            shutil.rmtree(job.work)
            job.work.mkdir()
            slide = prepare(
                reader,
                option_mpp=job.option_mpp,
                manifest_mpp=job.manifest_mpp,
                tissue=job.settings.tissue,
                quality=job.settings.quality,
                grid=lambda _: grid_settings(job, card),
                stain=card.stain,
                region=partial(region_mask, region, job.slide_id, reader.fingerprint) if region is not None else None,
            )
            plan, mpp = slide.plan, slide.scale.mpp
            write_quality_picture(job.out / "quality.png", slide, job.slide_id)
            # The picture everything is drawn on: a small slide deserves a finer one than the mask's.
            shrink = max(1.0, max(reader.dimensions) / OVERVIEW_LONGEST_SIDE)
            np.savez(
                job.work / _PLAN,
                coords=plan.coords,
                tissue=plan.tissue,
                positions=plan.positions,
                blocks=plan.blocks,
                offsets=plan.offsets,
                overview=thumbnail(reader, mpp, mpp * shrink).pixels,
                mask=slide.tissue.mask,
                allow_pickle=False,
                **{f"{_SPOILT}{name}": mask for name, mask in (slide.quality.masks if slide.quality else {}).items()},
            )
            about = {
                "key": key,
                "fingerprint": reader.fingerprint,
                "signature": job.signature(),
                "reader": reader.backend,
                "dimensions": list(reader.dimensions),
                "mpp": mpp,
                "mpp_source": slide.scale.source,
                "warnings": list(slide.warnings),
                "tissue_mm2": slide.tissue_mm2,
                "grid": plan.grid.settings.model_dump(mode="json"),
                "stain": slide.stain.record() if slide.stain is not None else None,
                "seconds": 0.0,
            }
        about["seconds"] = float(about["seconds"]) + time.time() - started
        _write_about(job, about)
        todo = compact_order(plan, (k for k in range(len(plan.blocks)) if not _block_file(job, k).exists()))
        return Prepared(todo, int(np.diff(plan.offsets)[list(todo)].sum()), tiles_under(reader, plan, todo))


def _read_about(job: SlideJob) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((job.work / _ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return about


def _write_about(job: SlideJob, about: dict[str, Any]) -> None:
    from pathology.atomic_files import write_text

    write_text(job.work / _ABOUT, json.dumps(about, indent=1, ensure_ascii=False))


def _load_plan(job: SlideJob, about: dict[str, Any]) -> TilePlan:
    with np.load(job.work / _PLAN, allow_pickle=False) as saved:
        return _plan_from(saved, about)


def _plan_from(saved: Any, about: dict[str, Any]) -> TilePlan:  # noqa: ANN401 - numpy's NpzFile has no public type
    grid = Grid(GridSettings.model_validate(about["grid"]), tuple(about["dimensions"]), about["mpp"])
    return TilePlan(grid, saved["coords"], saved["tissue"], saved["positions"], saved["blocks"], saved["offsets"])


def _block_file(job: SlideJob, k: int) -> Path:
    return job.work / f"block-{k:06d}.npz"


# -- step 2 ------------------------------------------------------------------------------------------------------


@guarded
def score_chunk(job: SlideJob, ks: tuple[int, ...], report: Callable[[int], None]) -> ChunkDone:
    """Predict some blocks; each is on disk as soon as it is done.

    Parameters
    ----------
    job
        The slide, already prepared.
    ks
        Places of the blocks in the plan.
    report
        Called with the number of patches whenever a block is done.
    """
    from pathology.inference.reading.pipeline import predict_blocks
    from pathology.slide.stain.normalise import StainNormaliser

    about = _read_about(job)
    plan = _load_plan(job, about)
    stain = StainNormaliser.from_record(about["stain"]) if about["stain"] is not None else None
    engine, turn = _loaded.engine(job)

    def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        with turn:
            return engine.predict(patches)

    done = 0
    with _reading(job, engine, plan, stain) as (source, unreadable, work):
        for block in predict_blocks(predict, engine.classes, engine.preferred_batch, source, plan, ks):
            _save_block(job, block.k, block.probabilities, unreadable(), engine.description)
            done += len(block.probabilities)
            report(len(block.probabilities))
        return ChunkDone(done, work())


@contextmanager
def _reading(
    job: SlideJob, engine: Engine, plan: TilePlan, stain: StainNormaliser | None
) -> Iterator[tuple[BlockSource, Callable[[], frozenset[tuple[int, int, int]]], Callable[[], TileWork]]]:
    """Provide who reads the slide's blocks: threads of this process, or processes where a GPU must be fed."""
    from pathology.inference.engines.base import available_cores

    processes = job.readers
    if processes is None and engine.device.startswith("cuda"):
        processes = max(1, (_threads() or available_cores()) - _CORES_FOR_GPU)
    if processes:
        state = json.dumps(job.signature())
        with _loaded.reading(processes).slide(job.file(), plan, stain, state=state) as source:
            yield source, lambda: source.unreadable_tiles, source.take_work
        return
    from pathology.inference.reading.threads import ReadingThreads
    from pathology.scoring.reader_pool import pooled_reader
    from pathology.tiling.blocks import BlockReader

    with pooled_reader(job.file()) as lent:
        blocks = BlockReader(lent.reader, plan.grid, stain.apply if stain is not None else None)
        with ReadingThreads(blocks, plan, _READING_THREADS) as threads:
            yield threads, lambda: lent.reader.unreadable_tiles, lent.take_work


def _save_block(
    job: SlideJob, k: int, probabilities: NDArray[np.float32], unreadable: frozenset[tuple[int, int, int]], engine: str
) -> None:
    # Every unreadable tile known so far goes along: the union over all blocks is then the same whichever blocks
    # an interrupted run had already done.
    final = _block_file(job, k)
    aside = final.with_suffix(".writing")
    try:
        with aside.open("wb") as file:
            tiles = np.array(sorted(unreadable), np.int32).reshape(-1, 3)
            np.savez(file, probabilities=probabilities, unreadable=tiles, engine=np.array(engine))
        aside.replace(final)
    except OSError as error:
        raise OutputError(f"a block's predictions cannot be written ({error.strerror})", where=job.work) from error


# -- step 3 ------------------------------------------------------------------------------------------------------


@guarded
def finish_slide(job: SlideJob, seconds: float) -> SlideResult:
    """Aggregate the blocks, write the slide's results and remove what was unfinished.

    Parameters
    ----------
    job
        The slide, all blocks predicted.
    seconds
        Wall time from the slide's first step to now.
    """
    from pathology.outputs.results.slide_folder import write_slide_folder
    from pathology.scoring.aggregate import slide_answer

    about = _read_about(job)
    with np.load(job.work / _PLAN, allow_pickle=False) as saved:
        plan = _plan_from(saved, about)
        overview, mask = saved["overview"], saved["mask"]
        spoilt = {name.removeprefix(_SPOILT): saved[name] for name in saved.files if name.startswith(_SPOILT)}
    parts: list[NDArray[np.float32]] = []
    unreadable: set[tuple[int, ...]] = set()
    engines: set[str] = set()
    for k in range(len(plan.blocks)):
        with np.load(_block_file(job, k), allow_pickle=False) as block:
            parts.append(block["probabilities"])
            unreadable.update(map(tuple, block["unreadable"].tolist()))
            engines.add(str(block["engine"]))
    probabilities = np.concatenate(parts)
    card = load(job).card
    detections = answer = None
    if card.task == "detection":
        from pathology.scoring.detections import patch_scores, slide_detections

        detections = slide_detections(
            card,
            plan,
            probabilities,
            slide_id=job.slide_id,
            fingerprint=about["fingerprint"],
            region=mask if job.settings.region is not None else None,
        )
        probabilities = patch_scores(probabilities)
    else:
        probabilities, answer = slide_answer(load(job), probabilities, job.settings.aggregator)

    def gallery(rows: Sequence[int]) -> tuple[Candidate, ...]:
        from pathology.outputs.reports.mitoses import cut_gallery
        from pathology.slide.open import open_reader

        assert detections is not None
        with open_reader(job.file()) as reader:
            return cut_gallery(reader, detections, rows, about["mpp"])

    def representative(rows: Sequence[Sequence[int]]) -> tuple[RepresentativePatch, ...]:
        from pathology.outputs.figures.patch_gallery import cut_patches
        from pathology.slide.open import open_reader

        weights = answer.attention if answer is not None else None
        with open_reader(job.file()) as reader:
            return cut_patches(reader, rows, card.classes, probabilities, plan.coords, plan.grid.patch_extent, weights)

    result = write_slide_folder(
        job.out,
        card=card,
        plan=plan,
        probabilities=probabilities,
        detections=detections,
        gallery=gallery,
        answer=answer,
        representative=representative,
        overview=overview,
        mask=mask,
        spoilt=spoilt,
        about={
            "slide_id": job.slide_id,
            "patient_id": job.patient_id,
            "path": job.shown,
            "model": job.model,
            "model_sha256": job.weights_sha256,
            "tissue_mm2": about["tissue_mm2"],
            "seconds": seconds,
            "reader": about["reader"],
            "mpp": about["mpp"],
            "mpp_source": about["mpp_source"],
            "width": about["dimensions"][0],
            "height": about["dimensions"][1],
            "fingerprint": about["fingerprint"],
            "engine": ", ".join(sorted(engines)),
            "key": about["key"],
            "attempts": job.attempt,
            "warnings": tuple(about["warnings"]),
            "unreadable_tiles": len(unreadable),
            "settings": job.settings.model_dump(mode="json"),
            "extra": {"signature": about["signature"], **({"stain": about["stain"]} if about["stain"] else {})},
        },
    )
    shutil.rmtree(job.work)
    return result

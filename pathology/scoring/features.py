"""Features of a batch of slides: every patch through one or several encoders, one store a slide and encoder."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, OutputError, SlideError, StoreError, UsageError
from pathology.features.hdf5_files import write_stamp, write_trident
from pathology.features.store import store_attributes, write_store
from pathology.inference.workers.schedule import ChunkDone, Failure, Prepared, Steps, run_slides
from pathology.memory import give_back_freed_memory, then_gives_back_memory
from pathology.progress import Progress, SilentProgress
from pathology.scoring.bookkeeping.unfinished import UnfinishedSlide
from pathology.scoring.guard import guarded
from pathology.scoring.jobs import source_signature
from pathology.scoring.prepare import prepare
from pathology.scoring.reader_pool import pooled_reader
from pathology.scoring.select import select_slides
from pathology.scoring.worker import cores
from pathology.settings import GridSettings, QualitySettings, TissueSettings
from pathology.slide.stain.normalise import StainNormaliser
from pathology.tiling.blocks import BlockReader
from pathology.tiling.order import compact_order

if TYPE_CHECKING:
    from pathology.encoders.installed import Encoder
    from pathology.inference.engines.base import Engine
    from pathology.inference.engines.encoder import EncoderEngine
    from pathology.tiling.plan import TilePlan

__all__ = ["EncodedSlide", "FeatureFormat", "check_format", "encode_slides"]

FeatureFormat = Literal["zarr", "trident", "stamp"]
"""Layout of the files: our own stores, or what TRIDENT or STAMP reads."""

_WRITERS = {"trident": write_trident, "stamp": write_stamp}
_READING_THREADS = 2


@dataclass(frozen=True)
class EncodeJob:
    """One slide to encode."""

    slide_id: str
    path: Path
    option_mpp: float | None
    manifest_mpp: float | None
    grid: GridSettings
    quality: QualitySettings | None
    encoders: tuple[str, ...]
    keys: tuple[str, ...]
    format: FeatureFormat
    engine: str
    device: str | None
    precision: str
    out: Path
    attempt: int = 1
    problem: str = ""

    @property
    def work(self) -> Path:
        """Folder of unfinished blocks; of files without room for our settings, also of what was asked."""
        return self.out / f".{self.slide_id}.work"

    def files(self) -> list[Path]:
        """Return one store per encoder: in ``out``, or with several encoders in a folder of each."""
        name = f"{self.slide_id}.zarr" if self.format == "zarr" else f"{self.slide_id}.h5"
        if len(self.encoders) == 1:
            return [self.out / name]
        return [self.out / encoder.replace(":", "-") / name for encoder in self.encoders]

    def asked(self) -> dict[str, Any]:
        """Return what determines the vectors; compared when resuming."""
        return {
            "keys": list(self.keys),
            "grid": self.grid.model_dump(mode="json"),
            "quality": self.quality.model_dump(mode="json") if self.quality is not None else None,
            "mpp_given": [self.option_mpp, self.manifest_mpp],
            "precision": self.precision,
        }


@dataclass(frozen=True)
class EncodedSlide:
    """The outcome of one slide.

    Attributes
    ----------
    slide_id, path
        Identity.
    files
        Its stores, one per encoder.
    patches
        Patches with features.
    unreadable
        Patches left out because a stored tile under them could not be decoded.
    unchanged
        Whether an earlier run had finished it.
    error
        Why it failed; empty if it succeeded.
    """

    slide_id: str
    path: Path
    files: tuple[Path, ...]
    patches: int = 0
    unreadable: int = 0
    unchanged: bool = False
    error: str = ""


def encode_slides(
    slides: str | PathLike[str] | Iterable[str | PathLike[str]],
    encoders: Sequence[str],
    out: str | PathLike[str],
    *,
    format: FeatureFormat = "zarr",
    patch: int | None = None,
    target_mpp: float | None = None,
    stride: int | None = None,
    min_tissue: float = 0.5,
    quality: QualitySettings | None = None,
    mpp: float | None = None,
    engine: str = "auto",
    device: str | None = None,
    precision: str = "fast",
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[EncodedSlide, ...]:
    """Compute the features of slides; an interrupted run resumes with the next block.

    Several encoders see the same patches, which are read and decoded once.

    Parameters
    ----------
    slides
        Slide files, folders or CSV manifests.
    encoders
        Names of encoders; see :func:`pathology.encoders.load_encoder`.
    out
        Folder for ``<slide_id>.zarr`` (or ``.h5``); with several encoders, for a folder of each.
    format
        Layout of the files.
    patch, target_mpp
        Side of a patch in pixels and its micrometres per pixel; ``None``: what the encoders were trained with, which
        must then be the same for all.
    stride
        Distance between patches in pixels; ``None``: they touch.
    min_tissue
        Smallest tissue fraction of a patch.
    quality
        Artefact limits above which a patch is excluded; ``None``: none is.
    mpp
        Micrometres per level-0 pixel of every slide, overriding files and manifests.
    engine, device, precision
        See :func:`pathology.inference.engines.encoder.make_encoder_engine`.
    workers
        Local worker processes; ``None``: one per GPU, or one.
    progress
        Receives progress reports.

    Returns
    -------
    tuple of EncodedSlide
        One per slide, including failed ones.

    Raises
    ------
    UsageError
        If the selection is invalid, or the encoders need different patches.
    BundleError
        If an encoder's weights are missing.
    OutputError
        If ``out`` cannot be written.

    Examples
    --------
    >>> (made,) = encode_slides(slide_path, [str(bundle_path)], folder)
    >>> from pathology.features import open_features
    >>> open_features(made.files[0]).vector
    1024
    """
    from pathology.encoders.installed import load_encoder

    progress = progress or SilentProgress()
    loaded = [load_encoder(name) for name in encoders]
    grid = _grid(loaded, patch, target_mpp, stride, min_tissue)
    entries = select_slides([slides] if isinstance(slides, str | PathLike) else slides)
    if remote := next((entry.url for entry in entries if entry.url), None):
        raise UsageError(
            "features of remote slides are not computed", where=remote, remedy="Copy the slide to a file system first"
        )
    out = Path(out).absolute()
    jobs = [
        EncodeJob(
            entry.slide_id,
            entry.path.absolute(),
            mpp,
            entry.mpp,
            grid,
            quality,
            tuple(encoder.name if encoder.bundle is None else str(encoder.directory) for encoder in loaded),
            tuple(encoder.key() for encoder in loaded),
            format,
            engine,
            device,
            precision,
            out,
            problem=entry.problem,
        )
        for entry in entries
    ]
    _make_folders(jobs)
    results = {job.slide_id: earlier for job in jobs if (earlier := _earlier(job)) is not None}
    todo = [job for job in jobs if job.slide_id not in results]
    progress.began(len(todo), len(results))
    if todo:
        _run(todo, results, workers, device, progress)
    return tuple(results[job.slide_id] for job in jobs)


def _grid(
    encoders: Sequence[Encoder], patch: int | None, mpp: float | None, stride: int | None, min_tissue: float
) -> GridSettings:
    if not encoders:
        raise UsageError("no encoder was given", remedy="Give one with --encoder; see: pathology encoders list")
    if len({encoder.name for encoder in encoders}) < len(encoders):
        raise UsageError("an encoder was given twice")
    if len({encoder.specification.stain for encoder in encoders}) > 1:
        raise UsageError("the encoders need patches with different stain normalisation", remedy="Run them apart")
    wanted = {(encoder.specification.patch, encoder.specification.mpp) for encoder in encoders}
    if len(wanted) > 1 and (patch is None or mpp is None):
        said = ", ".join(
            f"{encoder.name} {encoder.specification.patch} px at {encoder.specification.mpp:g} µm/px"
            for encoder in encoders
        )
        raise UsageError(
            f"the encoders were trained with different patches ({said})",
            remedy="Run them apart, or give --patch and --target-mpp, and every encoder gets those patches resized",
        )
    own = encoders[0].specification
    side = patch or own.patch
    return GridSettings(patch=side, mpp=mpp or own.mpp, stride=stride or side, min_tissue=min_tissue)


def _make_folders(jobs: Sequence[EncodeJob]) -> None:
    for folder in {path.parent for job in jobs for path in job.files()} | {job.out for job in jobs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write features to this folder ({error.strerror})", where=folder) from error


def _run(
    todo: Sequence[EncodeJob],
    results: dict[str, EncodedSlide],
    workers: int | None,
    device: str | None,
    progress: Progress,
) -> None:
    from pathology.inference.workers.cluster import connect, default_workers

    def record(result: EncodedSlide) -> None:
        results[result.slide_id] = result
        progress.finished(result.slide_id, result.error or f"{result.patches} patches", failed=bool(result.error))

    with connect(workers=workers or default_workers(device), device=device) as pool:
        progress.workers(pool.slots, pool.dashboard)
        run_slides(todo, Steps(_prepare, _chunk, _finish, _failed), pool, record, progress)


def _earlier(job: EncodeJob) -> EncodedSlide | None:
    """Return the outcome of an earlier run with the same settings; ``None`` if there is none."""
    if job.format == "zarr":
        records = [store_attributes(path) for path in job.files()]
    else:  # others' files have no place for our settings; what was asked lies beside them
        beside = UnfinishedSlide(job.work).about().get("finished")
        records = [beside if path.is_file() else None for path in job.files()]
    wanted = {"asked": job.asked(), "signature": _signature(job.path)}
    found = records[0]
    if any(record is None or {n: record.get(n) for n in wanted} != wanted for record in records) or found is None:
        return None
    return EncodedSlide(
        job.slide_id, job.path, tuple(job.files()), int(found["patches"]), int(found["unreadable"]), unchanged=True
    )


def _signature(path: Path) -> list[list[str | int]]:
    try:
        return source_signature(path)
    except OSError:  # the slide fails later, with a reason
        return []


@guarded
@then_gives_back_memory
def _prepare(job: EncodeJob) -> Prepared:
    unfinished = UnfinishedSlide(job.work)
    if job.problem:
        raise SlideError(job.problem)
    job.work.mkdir(exist_ok=True)
    about = unfinished.about()
    with pooled_reader(job.path) as pooled:
        reader = pooled.reader
        known = about.get("asked") == job.asked() and about.get("fingerprint") == reader.fingerprint
        plan = unfinished.saved_plan(about) if known else None
        if plan is None:
            unfinished.clear()
            slide = prepare(
                reader,
                option_mpp=job.option_mpp,
                manifest_mpp=job.manifest_mpp,
                tissue=TissueSettings(),
                quality=job.quality,
                grid=lambda _: job.grid,
                stain=_encoders_of(job)[0].specification.stain,
            )
            unfinished.save_plan(slide.plan, overview=slide.overview.pixels, tissue=slide.tissue.mask, artefacts={})
            unfinished.note(
                {
                    "asked": job.asked(),
                    "fingerprint": reader.fingerprint,
                    "signature": _signature(job.path),
                    "grid": job.grid.model_dump(mode="json"),
                    "dimensions": list(reader.dimensions),
                    "mpp": slide.scale.mpp,
                    "stain": slide.stain.record() if slide.stain is not None else None,
                    "warnings": list(slide.warnings),
                }
            )
            plan = slide.plan
    patches = np.diff(plan.offsets).tolist()
    todo = compact_order(plan, (k for k, n in enumerate(patches) if not unfinished.has_block(k, n)))
    return Prepared(todo, sum(patches[k] for k in todo))


@guarded
def _chunk(job: EncodeJob, ks: tuple[int, ...], report: Callable[[int], None]) -> ChunkDone:
    from pathology.inference.reading.pipeline import predict_blocks
    from pathology.inference.reading.threads import ReadingThreads

    unfinished = UnfinishedSlide(job.work)
    about = unfinished.about()
    plan = unfinished.plan(about)
    stain = StainNormaliser.from_record(about["stain"]) if about["stain"] is not None else None
    engine, turn = _engine_of(job)

    def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        with turn:
            found = engine.predict(patches)
        # Later, a row that is not a number means a patch that could not be read.
        if not (np.abs(found) <= np.finfo(np.float16).max).all():
            raise UsageError(
                f"a vector of {', '.join(job.encoders)} is too large for half precision or not a number"
                f" ({engine.description})",
                remedy="Use --precision exact; if it remains, the weights are damaged",
            )
        return found

    done = 0
    with pooled_reader(job.path) as pooled:
        if pooled.reader.fingerprint != about["fingerprint"]:
            raise CorruptSlideError(
                "the slide was replaced while its features were computed",
                remedy="Run the same command again when it is no longer being written",
            )
        blocks = BlockReader(pooled.reader, plan.grid, stain.apply if stain is not None else None)
        with ReadingThreads(blocks, plan, _READING_THREADS) as source:
            for block in predict_blocks(predict, engine.classes, engine.preferred_batch, source, plan, ks):
                vectors = block.probabilities.astype(np.float16)
                unfinished.save_block(block.k, vectors, pooled.reader.unreadable_tiles, engine.description)
                done += len(vectors)
                report(len(vectors))
        give_back_freed_memory()
        return ChunkDone(done, pooled.take_work())


@guarded
@then_gives_back_memory
def _finish(job: EncodeJob, seconds: float) -> EncodedSlide:
    del seconds  # a store records what was done, not how long it took
    unfinished = UnfinishedSlide(job.work)
    about = unfinished.about()
    plan = unfinished.plan(about)
    engines = unfinished.engines(len(plan.blocks))
    # A patch that could not be read has NaN for all encoders; infinity is a vector too large for float16.
    readable = np.concatenate([~np.isnan(rows).any(axis=1) for rows in unfinished.values(len(plan.blocks))])
    if not readable.any():
        raise StoreError("no patch of this slide could be read", remedy="The file is damaged; copy it again")
    coords = plan.coords[readable]
    finished = {
        "asked": job.asked(),
        "signature": about["signature"],
        "patches": len(coords),
        "unreadable": int((~readable).sum()),
    }
    first = 0
    for encoder, path in zip(_encoders_of(job), job.files(), strict=True):
        columns = slice(first, first + encoder.specification.vector)
        first = columns.stop
        vectors = _readable(unfinished, plan, columns)
        attributes = _attributes(job, about, plan, encoder) | finished | {"engine": engines}
        if job.format == "zarr":
            write_store(path, coords, vectors, encoder.specification.vector, attributes)
        else:
            _WRITERS[job.format](path, coords, vectors, encoder.specification.vector, attributes)
    if job.format == "zarr":
        unfinished.remove()
    else:
        unfinished.clear()
        unfinished.note({"finished": finished})
    return EncodedSlide(job.slide_id, job.path, tuple(job.files()), finished["patches"], finished["unreadable"])


def _readable(unfinished: UnfinishedSlide, plan: TilePlan, columns: slice) -> Iterator[NDArray[np.floating]]:
    for rows in unfinished.values(len(plan.blocks)):
        yield rows[~np.isnan(rows).any(axis=1), columns]


def _attributes(job: EncodeJob, about: dict[str, Any], plan: TilePlan, encoder: Encoder) -> dict[str, Any]:
    grid = plan.grid
    return {
        "slide_id": job.slide_id,
        "encoder": encoder.identity(),
        "patch": grid.settings.patch,
        "stride": grid.settings.stride,
        "mpp": grid.settings.mpp,
        "slide_mpp": about["mpp"],
        "patch_level0": grid.settings.patch * grid.scale,
        "dimensions": about["dimensions"],
        "fingerprint": about["fingerprint"],
        "warnings": about["warnings"],
    }


def _failed(job: EncodeJob, failure: Failure) -> EncodedSlide:
    # Blocks that are done are kept for resuming; without any there is nothing to keep.
    if job.work.exists() and not any(job.work.glob("block-*")):
        shutil.rmtree(job.work, ignore_errors=True)
    return EncodedSlide(job.slide_id, job.path, tuple(job.files()), error=failure.reason)


# What a worker process keeps between slides.
_lock = threading.Lock()
_loaded: dict[tuple[str, ...], list[Encoder]] = {}
_engines: dict[tuple[str, ...], tuple[EncoderEngine, threading.Lock]] = {}


def _encoders_of(job: EncodeJob) -> list[Encoder]:
    from pathology.encoders.installed import load_encoder

    if job.keys not in _loaded:
        _loaded[job.keys] = [load_encoder(name) for name in job.encoders]
    return _loaded[job.keys]


def _engine_of(job: EncodeJob) -> tuple[Engine, threading.Lock]:
    """Return the engine for a job, and the lock to hold while predicting."""
    from pathology.inference.engines.encoder import EncoderEngine, make_encoder_engine

    wanted = (*job.keys, job.engine, str(job.device), job.precision, str(job.grid.patch))
    with _lock:
        if wanted not in _engines:
            parts = [
                (
                    encoder,
                    make_encoder_engine(
                        encoder, kind=job.engine, device=job.device, precision=job.precision, threads=cores()
                    ),
                )
                for encoder in _encoders_of(job)
            ]
            _engines[wanted] = EncoderEngine(parts, patch=job.grid.patch, threads=cores()), threading.Lock()
        return _engines[wanted]


def check_format(name: str) -> FeatureFormat:
    """Return a format by name.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    if name not in get_args(FeatureFormat):
        raise UsageError(
            f"--format: unknown value {name!r}", remedy=f"Choose one of: {', '.join(get_args(FeatureFormat))}"
        )
    found: FeatureFormat = name  # type: ignore[assignment]
    return found

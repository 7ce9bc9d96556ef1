"""Score a batch of slides: determine the remaining work, distribute it, and write the tables."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathology.bundle.catalogue import load_bundle
from pathology.configuration import CONFIG_NAME, configured, write_config
from pathology.errors import PathologyError, SlideError
from pathology.findings.slide_result import SlideResult
from pathology.folder_lock import locked_folder
from pathology.outputs.results.journal import Journal
from pathology.outputs.results.record import damaged_files, read_slide_record
from pathology.outputs.results.run import batch_files_whole, read_run, write_run
from pathology.path_text import path_text
from pathology.progress import Progress, SilentProgress
from pathology.scoring.bookkeeping.batch_files import BatchFiles
from pathology.scoring.bookkeeping.merge import lock_name, part_folder, part_numbers, refuse_mixture
from pathology.scoring.environment import check_options
from pathology.scoring.jobs import SlideJob
from pathology.scoring.region import check_region, region_key
from pathology.scoring.select import SlideEntry, lasting_source, select_slides
from pathology.settings import RunSettings, ScoreConfig, ScoreSettings
from pathology.tiling.tile_work import TileWork

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.workers.cluster import Workers
    from pathology.inference.workers.schedule import Failure
    from pathology.inference.workers.slurm import SlurmSettings

__all__ = ["BatchResult", "score"]

_TRIALS = 3
"""Times that loading the model is tried: a worker may also die of something that has nothing to do with the model."""
_AGAIN = f"pathology score --config {CONFIG_NAME} --out OTHER"


@dataclass(frozen=True)
class BatchResult:
    """A scored batch.

    Attributes
    ----------
    out
        The results folder.
    slides
        One result per slide, in the order of the selection.
    unchanged
        Number of slides already finished by an earlier run.
    tiles
        Stored tiles decoded and reused in this run, by slide.
    """

    out: Path
    slides: tuple[SlideResult, ...]
    unchanged: int
    tiles: Mapping[str, TileWork] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[SlideResult, ...]:
        """The slides that could not be scored."""
        return tuple(result for result in self.slides if result.status == "failed")

    def __iter__(self) -> Iterator[SlideResult]:
        return iter(self.slides)

    def __len__(self) -> int:
        return len(self.slides)


def score(
    slides: str | PathLike[str] | Iterable[str | PathLike[str]],
    model: str | Path,
    out: str | PathLike[str],
    *,
    settings: ScoreSettings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> BatchResult:
    """Score slides with a model and write the results folder.

    Slides finished by an earlier run into the same folder are not touched unless the slide, the model or the
    settings changed; interrupted slides resume where they stopped.  One bad slide never stops the batch.

    Parameters
    ----------
    slides
        Slide files, folders, CSV manifests, or URLs supported by fsspec (``s3://bucket/folder``).
    model
        A bundle's name or folder.
    out
        The results folder; created if it does not exist.
    settings
        Scoring settings; ``None``: the defaults.
    progress
        Receives progress reports.
    **options
        Any field of :class:`pathology.settings.ScoreConfig`, by its name in a ``--config`` file: ``workers=2``,
        ``engine="torch"``, ``mpp=0.25``, ``stride=112``.  Options override ``settings``.

    Returns
    -------
    BatchResult
        Results of all slides, including failed ones.

    Raises
    ------
    UsageError, BundleError, MissingDependencyError
        If an option, the selection or the model is invalid, or a device, engine or library is missing; no slide
        counts as failed in that case.
    OutputError
        If ``out`` cannot be written.

    Examples
    --------
    >>> batch = score(slide_path, bundle_path, folder / "results", engine="torch")
    >>> [(result.slide_id, result.status) for result in batch.slides]
    [('slide', 'scored')]
    """
    sources = [slides] if isinstance(slides, str | PathLike) else list(slides)
    config = configured(
        ScoreConfig,
        {
            **(settings.model_dump(mode="json") if settings is not None else {}),
            **options,
            "slides": [path_text(source) for source in sources],
            "model": fspath(model),
        },
    )
    settings, run = config.scoring, config.run
    progress = progress or SilentProgress()
    jobs_of_slurm = None
    if run.slurm is not None:
        from pathology.inference.workers.slurm import read_slurm_settings

        jobs_of_slurm = read_slurm_settings(run.slurm)
    bundle = load_bundle(model)
    check_options(bundle.card, settings, run)
    if settings.aggregator != "mean":
        from pathology.scoring.aggregate import check_aggregator

        check_aggregator(bundle.card, settings.aggregator)
    if settings.region is not None:
        check_region(settings.region)
    entries = select_slides(sources)
    out = Path(out).absolute()
    if run.part is not None:
        number, count = part_numbers(run.part)
        entries = entries[number - 1 :: count]
    with locked_folder(out, lock_name(run.part)):
        refuse_mixture(out, run.part)
        return _score(entries, bundle, out, config, jobs_of_slurm, progress)


def _score(
    entries: Sequence[SlideEntry],
    bundle: Bundle,
    out: Path,
    config: ScoreConfig,
    slurm: SlurmSettings | None,
    progress: Progress,
) -> BatchResult:
    """Score what is not finished, in a folder that is locked."""
    settings, run = config.scoring, config.run
    card_digest = bundle.card.digest()
    jobs = [_job(entry, bundle, out, settings, run, card_digest) for entry in entries]
    files = BatchFiles(out, [job.slide_id for job in jobs], bundle.card)
    of_run = out if run.part is None else part_folder(out, run.part)
    for job in jobs:
        earlier = _earlier(job, files.journal, retry_failed=run.retry_failed, thorough=run.verify)
        if earlier is not None:
            files.hold(earlier)
    todo = [job for job in jobs if job.slide_id not in files.results]
    files.journal.release()
    unchanged = len(files.results)
    progress.began(len(todo), unchanged)
    record = read_run(of_run) or _run_record(bundle, settings, run)
    tiles: dict[str, TileWork] = {}
    if todo:
        record = _run_record(bundle, settings, run)
        if slurm is not None:
            record["options"]["slurm"] = slurm.model_dump(mode="json")
        record["engine_used"] = _earlier_engine(of_run, bundle, run.engine)
        write_config(out / CONFIG_NAME, _from_anywhere(config).model_copy(update={"part": None}), _AGAIN)
        write_run(of_run, {**record, "state": "running"})

        def record_outcome(result: SlideResult) -> None:
            files.add(result, tables=run.part is None)
            progress.finished(result.slide_id, _outcome(result), failed=result.status == "failed")

        def chosen(name: str) -> None:
            record["engine_used"] = name
            write_run(of_run, {**record, "state": "running"})

        try:
            tiles, used = _run(
                todo,
                bundle.card,
                record_outcome,
                progress,
                run,
                slurm,
                engine_used=record["engine_used"],
                chosen=chosen,
            )
        finally:
            # Also after an interrupt: the tables are at most some minutes old.
            if run.part is None:
                files.write_tables()
        record |= {"state": "finished", "ended": _now(), "engine_used": used}
    if run.part is not None:
        finished = {"state": "finished", "ended": _now(), **record}
        write_run(of_run, {**finished, "bundle": str(bundle.directory), "slides": files.slides_record()})
    elif todo or not batch_files_whole(out):
        files.finish(record)
    return BatchResult(out, tuple(files.ordered()), unchanged, tiles)


# -- the results folder -------------------------------------------------------------------------------------------


def _job(
    entry: SlideEntry,
    bundle: Bundle,
    out: Path,
    settings: ScoreSettings,
    run: RunSettings,
    card_digest: str,
) -> SlideJob:
    return SlideJob(
        slide_id=entry.slide_id,
        patient_id=entry.patient_id,
        # Resolves "..", but not links.
        path=entry.path if entry.url else Path(os.path.abspath(entry.path)),  # noqa: PTH100
        url=entry.url,
        option_mpp=run.mpp,
        manifest_mpp=entry.mpp,
        bundle=bundle.directory,
        weights_sha256=bundle.card.weights_sha256,
        int8_sha256=_int8(bundle),
        card_digest=card_digest,
        model=f"{bundle.card.name} {bundle.card.version}",
        settings=settings,
        engine=run.engine,
        device=run.device,
        readers=run.readers,
        out=out / "slides" / entry.slide_id,
        problem=entry.problem,
        region_key=region_key(settings.region, entry.slide_id) if settings.region is not None else "",
    )


def _earlier(job: SlideJob, journal: Journal, *, retry_failed: bool, thorough: bool) -> SlideResult | None:
    """Return the result of an earlier run if it is still valid and its files are whole."""
    try:
        record = read_slide_record(job.out) if thorough else journal.record(job.out)
        signature = job.signature()
    except (OSError, ValueError, SlideError):
        return None
    result = record.result
    if damaged_files(job.out, record, thorough=thorough):
        return None
    if result.status == "failed":
        # What failed for want of memory or disk space is tried again.
        stale = result.extra.get("signature") != signature or result.key != job.key("")
        if retry_failed or stale or result.extra.get("passing"):
            return None
        return result
    if result.extra.get("signature") != signature or result.key != job.key(result.fingerprint or ""):
        return None
    if (result.path, result.patient_id) != (job.shown, job.patient_id):
        return None
    return result


def _failed(card: Card, job: SlideJob, failure: Failure) -> SlideResult:
    try:
        signature = job.signature()
    except (OSError, ValueError, PathologyError):
        signature = []
    result = SlideResult(
        slide_id=job.slide_id,
        patient_id=job.patient_id,
        path=job.shown,
        status="failed",
        model=job.model,
        model_sha256=job.weights_sha256,
        error=failure.reason,
        key=job.key(""),
        attempts=job.attempt,
        settings=job.settings.model_dump(mode="json"),
        extra={"signature": signature, **({"passing": True} if failure.passing else {})},
    )
    from pathology.outputs.slide_folder import write_failure

    write_failure(job.out, result, card, made=datetime.now(UTC), traceback=failure.detail)
    return result


def _int8(bundle: Bundle) -> str:
    """Hash of a bundle's network in 8-bit integers; empty where it has none."""
    return bundle.card.int8.constants_sha256 if bundle.card.int8 is not None else ""


def _earlier_engine(out: Path, bundle: Bundle, engine: str) -> str:
    """Return the engine that an earlier run chose, so that all results of a folder come from one engine."""
    run = read_run(out)
    try:
        hashes = run["model"]["weights_sha256"], run["model"].get("int8_sha256", "")
        same = hashes == (bundle.card.weights_sha256, _int8(bundle)) and run["options"]["engine"] == engine
        return str(run["engine_used"]) if same else ""
    except (KeyError, TypeError):
        return ""


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _from_anywhere(config: ScoreConfig) -> ScoreConfig:
    """Return a configuration that means the same in any working directory, without what gives access to addresses."""
    full = lasting_source
    model, scheduler, region = config.model, config.scheduler, config.region
    return config.model_copy(
        update={
            "slides": tuple(map(full, config.slides)),
            "model": full(model) if Path(model).is_dir() and len(Path(model).parts) > 1 else model,
            "scheduler": full(scheduler) if scheduler is not None and Path(scheduler).is_file() else scheduler,
            "slurm": config.slurm.absolute() if config.slurm is not None else None,
            "region": region.model_copy(update={"results": full(region.results)}) if region is not None else None,
        }
    )


def _run_record(bundle: Bundle, settings: ScoreSettings, run: RunSettings) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    libraries = (
        "sarcoma-pathology",
        "torch",
        "torchvision",
        "openvino",
        "numpy",
        "zarr",
        "dask",
        "imagecodecs",
        "tifffile",
        "openslide-python",
    )
    return {
        "command": sys.argv,
        "began": _now(),
        "versions": {"python": platform.python_version(), **{name: v for name in libraries if (v := installed(name))}},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "model": {
            "name": bundle.card.name,
            "version": bundle.card.version,
            "weights_sha256": bundle.card.weights_sha256,
            **({"int8_sha256": _int8(bundle)} if _int8(bundle) else {}),
        },
        "settings": settings.model_dump(mode="json"),
        "options": run.model_dump(mode="json", include={"mpp", "workers", "scheduler", "engine", "device"}),
        "research_use_only": True,
    }


def _outcome(result: SlideResult) -> str:
    if result.status == "failed":
        return result.error
    return f"{result.summary} ({result.patches} patches, {result.seconds or 0:.1f} s)"


def _run(
    jobs: list[SlideJob],
    card: Card,
    on_outcome: Callable[[SlideResult], None],
    progress: Progress,
    run: RunSettings,
    slurm: SlurmSettings | None,
    *,
    engine_used: str,
    chosen: Callable[[str], None],
) -> tuple[dict[str, TileWork], str]:
    # Imported here: an unchanged batch needs neither Dask nor torch and returns immediately.
    from pathology.inference.workers.cluster import connect, default_workers
    from pathology.inference.workers.schedule import Steps, run_slides
    from pathology.scoring.tasks import finish_slide, prepare_slide, score_chunk

    steps = Steps(prepare_slide, score_chunk, finish_slide, partial(_failed, card))
    local = 0 if run.scheduler or slurm else run.workers or default_workers(run.device)
    with connect(
        workers=local,
        scheduler=run.scheduler,
        slurm=slurm,
        device=run.device,
        dashboard=run.dashboard,
        certificates=run.tls,
    ) as pool:
        progress.workers(pool.slots, pool.dashboard)
        first = replace(jobs[0], engine_used=engine_used if jobs[0].engine == "auto" else jobs[0].engine)
        name = _tried(first, pool)
        if name != engine_used:
            engine_used = name
            chosen(engine_used)
        jobs = [replace(job, engine_used=engine_used) for job in jobs]
        return run_slides(jobs, steps, pool, on_outcome, progress), engine_used


def _tried(job: SlideJob, pool: Workers) -> str:
    """Load the model in a worker and return the engine that works; a worker that dies of something else is replaced."""
    from distributed.scheduler import KilledWorker

    from pathology.scoring.environment import try_engine

    for _ in range(_TRIALS):
        trial = pool.client.submit(try_engine, job, pure=False, retries=0, resources=dict(pool.predicting) or None)
        try:
            return str(trial.result())
        except KilledWorker:
            continue
    said = pool.messages()
    raise PathologyError(
        f"the worker process crashed {_TRIALS} times while loading the model{f': {said}' if said else ''}",
        remedy="Run 'pathology doctor'",
    )

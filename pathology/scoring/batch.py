"""Scoring a batch of slides: what is still to do, who does it, and the tables at the end."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pathology.bundle.catalogue import load_bundle
from pathology.errors import OutputError, UsageError
from pathology.findings.slide_result import SlideResult
from pathology.outputs.atomic import write_text
from pathology.scoring.jobs import ChunkDone, Failure, Prepared, SlideJob, source_signature
from pathology.scoring.selection import SlideEntry, select_slides
from pathology.settings import ScoreSettings

if TYPE_CHECKING:
    from distributed import Client, Future

    from pathology.bundle.catalogue import Bundle

__all__ = ["BatchResult", "Progress", "score"]


class Progress(Protocol):
    """Told how a batch advances.  Every method is called from the thread that called :func:`score`, except
    :meth:`advanced`, which may come from another.
    """

    def began(self, slides: int, unchanged: int) -> None:
        """``slides`` are to be scored; ``unchanged`` were finished before."""

    def workers(self, count: int, dashboard: str | None) -> None:
        """``count`` workers are ready; ``dashboard`` is the address of Dask's, if any."""

    def prepared(self, slide_id: str, patches: int) -> None:
        """A slide has ``patches`` still to be predicted."""

    def advanced(self, slide_id: str, patches: int) -> None:
        """So many more patches of a slide are done."""

    def finished(self, result: SlideResult) -> None:
        """A slide is scored or has failed."""


class _Silent:
    def began(self, slides: int, unchanged: int) -> None: ...
    def workers(self, count: int, dashboard: str | None) -> None: ...
    def prepared(self, slide_id: str, patches: int) -> None: ...
    def advanced(self, slide_id: str, patches: int) -> None: ...
    def finished(self, result: SlideResult) -> None: ...


@dataclass(frozen=True)
class BatchResult:
    """A scored batch.

    Attributes
    ----------
    out
        The results folder.
    slides
        One result a slide, in the order of the selection.
    unchanged
        How many of them were finished by an earlier run.
    decoded_tiles
        Stored tiles decoded for patches in this run.
    """

    out: Path
    slides: tuple[SlideResult, ...]
    unchanged: int
    decoded_tiles: int = 0

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
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: ScoreSettings | None = None,
    mpp: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    engine: str = "auto",
    device: str | None = None,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> BatchResult:
    """Score slides with a model and write the results folder.

    Slides finished by an earlier run into the same folder are not touched unless the slide, the model or the
    settings changed; interrupted slides go on where they stopped.  One bad slide never stops the batch.

    Parameters
    ----------
    slides
        Slide files, folders or CSV manifests.
    model
        A bundle's name or folder.
    out
        The results folder; made if it is not there.
    settings
        How to score; ``None``: the defaults.
    mpp
        Micrometres per level-0 pixel of every slide, overriding what files and manifests say.
    workers
        Local worker processes; ``None``: one a GPU, else one.
    scheduler
        Address of a running Dask scheduler, instead of local workers.
    engine, device
        See :func:`pathology.inference.select.make_engine`.
    retry_failed
        Try slides again that failed before and have not changed.
    progress
        Told how the batch advances.

    Returns
    -------
    BatchResult
        Results of all slides, failed ones included.

    Raises
    ------
    UsageError, BundleError
        If the selection or the model is unusable; nothing has been written then.
    OutputError
        If ``out`` cannot be written.
    """
    settings = settings or ScoreSettings()
    progress = progress or _Silent()
    if mpp is not None and not mpp > 0:
        raise UsageError(f"mpp is {mpp}; it must be above 0 micrometres per pixel")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; it must be at least 1")
    bundle = load_bundle(model)
    entries = select_slides([slides] if isinstance(slides, str | PathLike) else slides)
    out = Path(out).absolute()
    with _results_folder(out):
        jobs = [_job(entry, bundle, out, settings, mpp, engine, device) for entry in entries]
        results: dict[str, SlideResult] = {}
        for job in jobs:
            earlier = _earlier(job, retry_failed=retry_failed)
            if earlier is not None:
                results[job.slide_id] = earlier
        todo = [job for job in jobs if job.slide_id not in results]
        unchanged = len(results)
        progress.began(len(todo), unchanged)
        order = [job.slide_id for job in jobs]
        decoded = 0
        if todo:
            record = _run_record(bundle, settings, mpp, workers, scheduler, engine, device)
            _write_run(out, {**record, "state": "running"})

            def settled(result: SlideResult) -> None:
                results[result.slide_id] = result
                _write_tables(out, [results[name] for name in order if name in results], bundle)
                progress.finished(result)

            decoded = _run(todo, settled, progress, workers=workers, scheduler=scheduler, device=device)
            _write_run(out, {**record, "state": "finished", "ended": _now(), "slides": _slides_record(results, order)})
        if todo or not (out / "index.html").exists():
            _write_index(out, [results[name] for name in order], bundle)
            _write_tables(out, [results[name] for name in order], bundle)
    return BatchResult(out, tuple(results[name] for name in order), unchanged, decoded)


# -- the results folder -------------------------------------------------------------------------------------------


@contextmanager
def _results_folder(out: Path) -> Iterator[None]:
    """Make the folder, prove that it can be written, and keep a second run out of it."""
    made = not out.exists()
    try:
        (out / "slides").mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        if made and out.exists():
            shutil.rmtree(out, ignore_errors=True)
        raise OutputError(
            f"results cannot be written here ({error.strerror})", where=out, remedy="Choose another --out folder"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError("another run is writing these results", where=out, remedy="Wait for it, or choose another --out") from error
        except OSError:
            pass  # a file system without locks: two runs would only do the same work twice
        yield
    (out / ".lock").unlink(missing_ok=True)


def _job(
    entry: SlideEntry, bundle: Bundle, out: Path, settings: ScoreSettings, mpp: float | None, engine: str, device: str | None
) -> SlideJob:
    return SlideJob(
        slide_id=entry.slide_id,
        patient_id=entry.patient_id,
        path=entry.path.absolute(),
        option_mpp=mpp,
        manifest_mpp=entry.mpp,
        bundle=bundle.directory,
        weights_sha256=bundle.card.weights_sha256,
        model=f"{bundle.card.name} {bundle.card.version}",
        settings=settings,
        engine=engine,
        device=device,
        out=out / "slides" / entry.slide_id,
    )


def _earlier(job: SlideJob, *, retry_failed: bool) -> SlideResult | None:
    """Return the result of an earlier run if it still holds."""
    try:
        result = SlideResult.model_validate_json((job.out / "slide.json").read_text(encoding="utf-8"))
        signature = source_signature(job.path)
    except (OSError, ValueError):
        return None
    if result.status == "failed":
        if retry_failed or result.extra.get("signature") != signature or result.key != job.key(""):
            return None
        return result
    if result.extra.get("signature") != signature or result.key != job.key(result.fingerprint or ""):
        return None
    if (result.path, result.patient_id) != (str(job.path), job.patient_id):
        return None
    return result


def _failed(job: SlideJob, failure: Failure) -> SlideResult:
    try:
        signature = source_signature(job.path)
    except OSError:
        signature = []
    result = SlideResult(
        slide_id=job.slide_id,
        patient_id=job.patient_id,
        path=str(job.path),
        status="failed",
        model=job.model,
        model_sha256=job.weights_sha256,
        error=failure.reason,
        key=job.key(""),
        attempts=job.attempt,
        settings=job.settings.model_dump(mode="json"),
        extra={"signature": signature},
    )
    job.out.mkdir(parents=True, exist_ok=True)
    if failure.detail:
        write_text(job.out / "traceback.txt", failure.detail)
    from pathology.outputs.slide_folder import write_failure

    write_failure(job.out, result)
    return result


def _write_tables(out: Path, results: list[SlideResult], bundle: Bundle) -> None:
    from pathology.outputs.tables import write_results

    write_results(out, results, bundle.card.classes)


def _write_index(out: Path, results: list[SlideResult], bundle: Bundle) -> None:
    from pathology.outputs.report import write_batch_report

    write_batch_report(out, results, bundle.card)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _run_record(bundle: Bundle, settings: ScoreSettings, mpp: float | None, workers: int | None, scheduler: str | None, engine: str, device: str | None) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    libraries = ("sarcoma-pathology", "torch", "torchvision", "openvino", "numpy", "zarr", "dask", "imagecodecs", "tifffile", "openslide-python")
    return {
        "command": sys.argv,
        "began": _now(),
        "versions": {"python": platform.python_version(), **{name: v for name in libraries if (v := installed(name))}},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "model": {"name": bundle.card.name, "version": bundle.card.version, "weights_sha256": bundle.card.weights_sha256},
        "settings": settings.model_dump(mode="json"),
        "options": {"mpp": mpp, "workers": workers, "scheduler": scheduler, "engine": engine, "device": device},
        "research_use_only": True,
    }


def _slides_record(results: dict[str, SlideResult], order: list[str]) -> list[dict[str, Any]]:
    return [results[name].model_dump(mode="json", include={"slide_id", "path", "status", "fingerprint", "key"}) for name in order]


def _write_run(out: Path, record: dict[str, Any]) -> None:
    write_text(out / "run.json", json.dumps(record, indent=1, ensure_ascii=False))


# -- running --------------------------------------------------------------------------------------------------------

_TOPIC = "pathology-progress"


def _chunk(job: SlideJob, ks: tuple[int, ...]) -> ChunkDone | Failure:
    """Run in a worker: score some blocks and tell the client how far it is."""
    from distributed import get_worker

    from pathology.scoring.tasks import score_chunk

    worker = get_worker()
    return score_chunk(job, ks, report=lambda patches: worker.log_event(_TOPIC, [job.slide_id, patches]))


@dataclass
class _Running:
    """A slide on its way."""

    job: SlideJob
    began: float
    chunks: int = 0
    over: bool = False
    futures: set[Any] = field(default_factory=set)


def _run(
    jobs: list[SlideJob], settled: Callable[[SlideResult], None], progress: Progress, *, workers: int | None, scheduler: str | None, device: str | None
) -> int:
    from pathology.inference.cluster import connect, default_workers

    with connect(workers=workers or (0 if scheduler else default_workers(device)), scheduler=scheduler) as pool:
        progress.workers(pool.slots, pool.dashboard)

        def event(message: Any) -> None:  # noqa: ANN401 - Dask's event
            slide_id, patches = message[1]
            progress.advanced(slide_id, patches)

        pool.client.subscribe_topic(_TOPIC, event)
        batch = _Batch(pool.client, pool.slots, settled, progress)
        batch.run(deque(jobs), at_once=pool.slots + 1)
        # Slides that were on a worker when it died: one at a time, so that only the guilty one is blamed.
        for suspect in batch.suspects:
            batch.run(deque([replace(suspect, attempt=suspect.attempt + 1)]), at_once=1)
        return batch.decoded


class _Batch:
    """Feeds slides to the workers, a bounded number at a time."""

    def __init__(self, client: Client, slots: int, settled: Callable[[SlideResult], None], progress: Progress) -> None:
        self._client = client
        self._slots = slots
        self._settled = settled
        self._progress = progress
        self.suspects: list[SlideJob] = []
        self.decoded = 0

    def run(self, jobs: deque[SlideJob], *, at_once: int) -> None:
        from distributed import as_completed

        from pathology.scoring.tasks import prepare_slide

        total = len(jobs)
        owners: dict[Any, _Running] = {}
        completed = as_completed([])

        def submit(slide: _Running, priority: int, step: Callable[..., Any], *args: Any) -> None:  # noqa: ANN401
            future: Future = self._client.submit(step, slide.job, *args, pure=False, priority=priority, retries=0)
            owners[future] = slide
            slide.futures.add(future)
            completed.add(future)

        def begin() -> None:
            job = jobs.popleft()
            submit(_Running(job, time.time()), -(total - len(jobs)), prepare_slide)

        while jobs and len(owners) < at_once:
            begin()
        for future in completed:
            slide = owners.pop(future)
            slide.futures.discard(future)
            if not slide.over:
                self._advance(slide, future, submit)
            active = {id(s) for s in owners.values()}
            while jobs and len(active) < at_once:
                begin()
                active = {id(s) for s in owners.values()}

    def _advance(self, slide: _Running, future: Future, submit: Callable[..., None]) -> None:
        from distributed.scheduler import KilledWorker

        from pathology.scoring.tasks import finish_slide

        try:
            outcome = future.result()
        except KilledWorker:
            self._end(slide)
            if slide.job.attempt == 1:
                self.suspects.append(slide.job)
            else:
                reason = "the worker process that read this slide died twice (a damaged file, or not enough memory)"
                self._settled(_failed(slide.job, Failure(reason)))
            return
        except Exception as error:  # the scheduler itself failed for this task; the batch goes on
            outcome = Failure(f"unexpected error: {type(error).__name__}: {error}", traceback.format_exc())
        match outcome:
            case Failure():
                self._end(slide)
                self._settled(_failed(slide.job, outcome))
            case Prepared(blocks=blocks):
                self._progress.prepared(slide.job.slide_id, outcome.patches)
                parts = _parts(blocks, self._slots)
                slide.chunks = len(parts)
                for part in parts:
                    submit(slide, 0, _chunk, part)
                if not parts:
                    submit(slide, 1, finish_slide, time.time() - slide.began)
            case ChunkDone():
                slide.chunks -= 1
                self.decoded += outcome.decoded_tiles
                if slide.chunks == 0:
                    submit(slide, 1, finish_slide, time.time() - slide.began)
            case SlideResult():
                slide.over = True
                self._settled(outcome)

    def _end(self, slide: _Running) -> None:
        slide.over = True
        for other in slide.futures:
            other.cancel()


def _parts(blocks: tuple[int, ...], slots: int) -> list[tuple[int, ...]]:
    """Cut blocks into runs of neighbours, a few for every worker slot, none longer than 64."""
    if not blocks:
        return []
    size = max(1, min(64, -(-len(blocks) // (slots * 2))))
    return [blocks[start : start + size] for start in range(0, len(blocks), size)]

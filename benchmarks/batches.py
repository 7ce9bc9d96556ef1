"""Time, memory and descriptors over a large batch, where a slide should cost no more at the end than at the start.

    python -m benchmarks batches [--stubbed 10000] [--scheduled 0] [--slides 0] [--scratch FOLDER] [--json OUT.json]

``--stubbed``: workers, reading, inference and reports are replaced by writing a small record, and everything else is
that of ``pathology.score``: selection, journal, tables, index page.  Then the finished batch is resumed.
``--scheduled``: the same with real workers, which write those records.
``--slides``: so many small slides through ``pathology.score`` itself, with a random model.

Compared are the first and the last tenth of the batch, after the first fiftieth: there processes start and libraries
load.  Time is wall time and, since others may load the machine, processor time of this process, which keeps the books.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import psutil

from pathology.findings.slide_result import ClassFinding, SlideResult
from pathology.inference.workers.schedule import ChunkDone, Prepared
from pathology.outputs.results.record import write_slide_record
from pathology.scoring.bookkeeping.batch_files import BatchFiles
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture
from pathology.tiling.tile_work import TileWork

_STUBBED = ("prepare_slide", "score_chunk", "finish_slide")
_KEPT = ("add", "finish", "write_tables")


def prepare_slide(job):
    """Stand in for reading."""
    del job
    return Prepared((0,), 1)


def score_chunk(job, ks, report):
    """Stand in for inference."""
    del job, ks
    report(1)
    return ChunkDone(1, TileWork())


def finish_slide(job, seconds):
    """Write what a resumed run looks at: a record, and a file beside it."""
    result = SlideResult(
        slide_id=job.slide_id,
        patient_id=job.patient_id,
        path=job.shown,
        status="scored",
        prediction="a",
        classes=tuple(
            ClassFinding(name=n, colour="#0072b2", probability=p, share=p, area_mm2=p)
            for n, p in (("a", 0.7), ("b", 0.3))
        ),
        model=job.model,
        model_sha256=job.weights_sha256,
        patches=1,
        tissue_mm2=1.0,
        seconds=seconds,
        fingerprint="stub",
        key=job.key("stub"),
        settings=job.settings.model_dump(mode="json"),
        extra={"signature": job.signature()},
    )
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "report.html").write_text("<!doctype html>", encoding="utf-8")
    write_slide_record(job.out, result, [job.out / "report.html"])
    return result


def try_engine(job):
    """Stand in for the engine's trial."""
    del job
    return "torch"


def run_here(jobs, card, on_outcome, progress, run, slurm, *, engine_used, chosen):
    """Stand in for the workers: write the records in this process."""
    del card, progress, run, slurm, engine_used
    chosen("torch")
    for job in jobs:
        on_outcome(finish_slide(job, 0.0))
    return {}, "torch"


class Samples:
    """Progress that measures whenever a slide is finished."""

    def __init__(self, every):
        self.every = every
        self.rows = []
        self.count = 0

    def began(self, slides, unchanged):
        """Do nothing."""

    def workers(self, count, dashboard):
        """Do nothing."""

    def prepared(self, slide_id, patches):
        """Do nothing."""

    def advanced(self, slide_id, patches):
        """Do nothing."""

    def finished(self, slide_id, outcome, *, failed):
        """Measure this process and its workers."""
        if failed:
            raise SystemExit(f"{slide_id}: {outcome}")
        self.count += 1
        if self.count % self.every:
            return
        mine = psutil.Process()
        family = [mine, *mine.children(recursive=True)]
        memory = descriptors = 0
        for member in family:
            try:
                memory += member.memory_full_info().uss
                descriptors += member.num_fds()
            except psutil.Error:
                continue
        own = mine.memory_full_info().uss / 2**20
        self.rows.append((self.count, time.perf_counter(), time.process_time(), memory / 2**20, descriptors, own))

    def compared(self):
        """Return the figures of the first and the last tenth, and their ratios."""
        total = self.rows[-1][0]
        first = [row for row in self.rows if 0.02 * total <= row[0] <= 0.12 * total]
        last = [row for row in self.rows if row[0] >= 0.9 * total]

        def per_slide(rows, column):
            return (rows[-1][column] - rows[0][column]) / (rows[-1][0] - rows[0][0])

        def peak(rows, column):
            return max(row[column] for row in rows)

        figures = {"slides": total}
        for name, of, column in (
            ("seconds per slide", per_slide, 1),
            ("processor seconds per slide, this process", per_slide, 2),
            ("memory of all processes, MiB", peak, 3),
            ("memory of this process, MiB", peak, 5),
            ("descriptors of all processes", peak, 4),
        ):
            start, end = of(first, column), of(last, column)
            figures[name] = {
                "first tenth": round(start, 5),
                "last tenth": round(end, 5),
                "ratio": round(end / start, 3),
            }
        return figures


def timed(spent, name):
    """Return a method of the batch's bookkeeping that also adds up its time; one called by another counts once."""
    real = getattr(BatchFiles, name)

    def measured(self, *arguments, **options):
        began, inside = time.perf_counter(), spent["inside"]
        spent["inside"] = True
        try:
            return real(self, *arguments, **options)
        finally:
            spent["inside"] = inside
            if not inside:
                spent["seconds"] += time.perf_counter() - began

    return measured


def small_slides(folder, count):
    """Write one small slide, and further names of the same file."""
    folder.mkdir()
    first = write_svs(folder / "s00000.svs", TissuePicture(360, 300, tissue=0.8, seed=1), factors=(1,), mpp=0.5)
    for number in range(1, count):
        (folder / f"s{number:05}.svs").hardlink_to(first)
    return folder


def measure(count, scratch, *, kind, workers=1):
    """Score a batch and return what it cost.

    Parameters
    ----------
    count
        Number of slides.
    scratch
        A folder; the results stay in ``out`` in it.
    kind
        ``stubbed``, ``scheduled`` or ``scored``; see above.
    workers
        Worker processes.
    """
    from pathology.scoring.batch import score

    temporary = scratch / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    model = write_random_bundle(scratch / "model", patch=64)
    slides = small_slides(scratch / "slides", count)
    spent = {"seconds": 0.0, "inside": False}
    samples = Samples(max(1, count // 200))
    options = {"workers": workers, "engine": "torch"}
    with ExitStack() as stack:
        for name in _KEPT:
            stack.enter_context(mock.patch.object(BatchFiles, name, timed(spent, name)))
        if kind == "stubbed":
            stack.enter_context(mock.patch("pathology.scoring.batch._run", run_here))
        elif kind == "scheduled":
            for name in _STUBBED:
                stack.enter_context(mock.patch(f"pathology.scoring.tasks.{name}", globals()[name]))
            stack.enter_context(mock.patch("pathology.scoring.environment.try_engine", try_engine))
        began = time.perf_counter()
        batch = score(slides, model, scratch / "out", progress=samples, **options)
        whole = time.perf_counter() - began
        if batch.failed:
            raise SystemExit(f"{len(batch.failed)} slides failed: {batch.failed[0].error}")
        began = time.perf_counter()
        again = score(slides, model, scratch / "out", **options)
        resumed = time.perf_counter() - began
    if again.unchanged != count:
        raise SystemExit(f"only {again.unchanged} of {count} slides were found finished")
    return {
        **samples.compared(),
        "seconds in all": round(whole, 1),
        "seconds of bookkeeping": round(spent["seconds"], 2),
        "seconds to resume the finished batch": round(resumed, 2),
        "temporary folders left behind": len(list(temporary.glob("pathology-*"))),
        "unfinished folders left behind": len(list((scratch / "out").glob("slides/*/unfinished"))),
    }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stubbed", type=int, default=10_000, help="slides whose records this process writes")
    parser.add_argument("--scheduled", type=int, default=0, help="slides whose records workers write")
    parser.add_argument("--slides", type=int, default=0, help="small slides scored for real")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="folder for slides and results; the results are then kept")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {}
    counts = {"stubbed": arguments.stubbed, "scheduled": arguments.scheduled, "scored": arguments.slides}
    for name, count in counts.items():
        if not count:
            continue
        scratch = arguments.scratch or Path(tempfile.mkdtemp(prefix="batches-"))
        (scratch / name).mkdir(parents=True)
        try:
            found[name] = measure(count, scratch / name, kind=name, workers=arguments.workers)
        finally:
            if arguments.scratch is None:
                shutil.rmtree(scratch)
        print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Throughput of two worker processes relative to two bare engines running in parallel, one core each.

    python -m benchmarks workers --slide SLIDE [--model osteosarcoma-viability] [--engine openvino] [--json OUT.json]

The workers are those of ``pathology.score``: Dask processes that read the slide, predict, and save every block.  Their
rate is measured between the first and the last tenth of the slide's patches, which excludes start-up, tissue detection
and the report.  The bare engines predict patches in memory, before and after, since the load of a shared machine
changes within a minute.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.scoring import hold_patches, plan, rate_in_memory

CORES = 2


class Pace:
    """Records when patches are done."""

    def __init__(self):
        self.lock = threading.Lock()
        self.done = [(time.perf_counter(), 0)]
        self.total = 0

    def began(self, slides, unchanged):
        """Do nothing."""

    def workers(self, count, dashboard):
        """Do nothing."""

    def finished(self, _, outcome, *, failed):
        """Stop if there is nothing to measure."""
        if failed:
            raise SystemExit(outcome)

    def prepared(self, _, patches):
        """Store the number of patches."""
        self.total += patches

    def advanced(self, _, patches):
        """Record the time."""
        with self.lock:
            self.done.append((time.perf_counter(), self.done[-1][1] + patches))

    def rate(self):
        """Return patches per second between the first and the last tenth."""
        within = [(when, done) for when, done in self.done if 0.1 * self.total <= done <= 0.9 * self.total]
        (first, before), (last, after) = within[0], within[-1]
        return (after - before) / (last - first)


def bare_rate(slide, model, kind, seconds, together):
    """Return patches per second of one engine on one core with patches in memory, while another does the same."""
    from pathology.bundle.catalogue import load_bundle
    from pathology.inference.engines.select import make_engine
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader

    bundle = load_bundle(model)
    engine = make_engine(bundle, kind=kind, precision="fast", threads=1)
    patches = plan(slide, bundle.card.patch)
    with open_reader(slide) as reader:
        count = engine.preferred_batch * max(2, 256 // engine.preferred_batch)
        held = hold_patches(BlockReader(reader, patches.grid), patches, count)
    engine.predict(held[: engine.preferred_batch])
    together.wait()
    return rate_in_memory(engine, held, seconds)


def bare(arguments):
    """Return the total rate of as many bare engines as workers, each in a separate process."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        together = manager.Barrier(CORES)
        with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
            rates = [
                pool.submit(bare_rate, arguments.slide, arguments.model, arguments.engine, arguments.seconds, together)
                for _ in range(CORES)
            ]
            return sum(rate.result() for rate in rates)


def workers(arguments):
    """Return the rate of worker processes on the slide."""
    import pathology

    pace = Pace()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as out:
        pathology.score(
            arguments.slide, arguments.model, out, workers=CORES, engine=arguments.engine, device="cpu", progress=pace
        )
    return pace.rate(), pace.total


def main():
    """Alternate both measurements and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--model", default="osteosarcoma-viability")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--seconds", type=float, default=10, help="duration of each bare engine run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="folder for temporary results")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load, rows, total = os.getloadavg()[0], [], 0
    ceiling = [bare(arguments)]
    for _ in range(arguments.rounds):
        rate, total = workers(arguments)
        ceiling.append(bare(arguments))
        rows.append({"workers": rate, "bare": float(np.mean(ceiling[-2:]))})
        share = rate / rows[-1]["bare"]
        print(f"workers {rate:.1f}, bare {ceiling[-2]:.1f} and {ceiling[-1]:.1f} patches/s: {share:.1%}")
    share = float(np.median([row["workers"] / row["bare"] for row in rows]))
    print(
        f"{total} patches; {CORES} worker processes reach {share:.1%} of {CORES} bare engines; load before {load:.1f}"
    )
    if arguments.json:
        found = {"rounds": rows, "share": share, "patches": total, "load": load}
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

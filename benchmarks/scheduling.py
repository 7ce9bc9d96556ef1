"""Measure scheduling overhead with up to 64 workers: steps that only sleep, on workers in threads.

    python -m benchmarks scheduling [--blocks 1000] [--seconds 0.25] [--workers 2 64] [--json OUT.json]

Each block takes a fixed time, as if a network ran.  The overhead is the run time in excess of the busiest worker's
blocks; with uneven shares, in excess of all blocks distributed evenly.
"""

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dask
from distributed import Client, LocalCluster, get_worker

from pathology.inference.workers.cluster import Workers
from pathology.inference.workers.schedule import ChunkDone, Prepared, Steps, run_slides
from pathology.inference.workers.settings import DASK_SETTINGS
from pathology.progress import SilentProgress
from pathology.tiling.tile_work import TileWork

DONE = "blocks-done"
"""Topic under which workers report finished blocks."""


@dataclass(frozen=True)
class WaitingJob:
    """A slide with a number of blocks."""

    slide_id: str
    blocks: int
    seconds: float
    attempt: int = 1


def prepare(job):
    """Return the blocks."""
    return Prepared(tuple(range(job.blocks)), job.blocks)


def chunk(job, ks, report):
    """Sleep for the duration of the blocks."""
    for _ in ks:
        time.sleep(job.seconds)
        report(1)
    worker = get_worker()
    worker.log_event(DONE, {"by": str(worker.name), "blocks": len(ks)})
    return ChunkDone(len(ks), TileWork())


def finish(job, seconds):
    """Return the slide."""
    del seconds
    return job.slide_id


def failed(job, failure):
    """Never called: no slide fails here."""
    del job
    raise RuntimeError(failure.reason)


def measure(workers, blocks, seconds):
    """Run one slide; return the measurements."""
    done_by = Counter()
    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        began = time.perf_counter()
        pool = Workers(client, workers, None)
        steps = Steps(prepare, chunk, finish, failed)
        run_slides([WaitingJob("slide", blocks, seconds)], steps, pool, lambda _: None, SilentProgress())
        took = time.perf_counter() - began
        for _, said in client.get_events(DONE):
            done_by[said["by"]] += said["blocks"]
    ideal, busiest = blocks / workers * seconds, max(done_by.values()) * seconds
    return {
        "workers": workers,
        "blocks": blocks,
        "seconds_a_block": seconds,
        "seconds": took,
        "seconds_shared_out_evenly": ideal,
        "cost_of_scheduling": (took - busiest) / took,
        "cost_with_uneven_shares": (took - ideal) / took,
        "workers_that_worked": len(done_by),
        "most_blocks_of_a_worker": max(done_by.values()),
        "least_blocks_of_a_worker": min(done_by.values()),
    }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.25])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 64])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [measure(n, arguments.blocks, s) for n, s in zip(arguments.workers, arguments.seconds, strict=True)]
    for row in rows:
        print(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

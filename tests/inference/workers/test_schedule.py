"""Feeding workers, with steps that compute nothing."""

import time
from collections import Counter
from dataclasses import dataclass

import dask
import pytest
from distributed import Client, LocalCluster, get_worker
from hypothesis import given
from hypothesis import strategies as st

from pathology.inference.workers.cluster import Workers
from pathology.inference.workers.schedule import ChunkDone, Failure, Prepared, Steps, _parts, run_slides
from pathology.inference.workers.settings import DASK_SETTINGS
from pathology.progress import SilentProgress
from pathology.tiling.tile_work import TileWork


@dataclass(frozen=True)
class StubJob:
    slide_id: str
    blocks: int
    attempt: int = 1


DONE = "stub-blocks"


def prepare(job):
    return Prepared(tuple(range(job.blocks)), job.blocks) if job.blocks else Failure("nothing to see")


def chunk(job, ks, report):
    time.sleep(0.02 * len(ks))
    report(len(ks))
    worker = get_worker()
    worker.log_event(DONE, {"by": str(worker.name), "slide": job.slide_id, "ks": list(ks)})
    return ChunkDone(len(ks), TileWork(decoded=len(ks)))


def finish(job, seconds):
    return job.slide_id


def failed(job, failure):
    return f"{job.slide_id}: {failure.reason}"


STEPS = Steps(prepare, chunk, finish, failed)


@pytest.fixture(scope="module")
def sixty_four():
    with (
        # 64 workers on few cores answer late.
        dask.config.set(DASK_SETTINGS | {"distributed.comm.timeouts.connect": "300s"}),
        LocalCluster(
            n_workers=64,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,  # they share one process, whose memory is none of their doing
            dashboard_address=None,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Workers(client, 64, None)


def done(pool, wanted):
    """What workers said of the slides wanted."""
    return [said for _, said in pool.client.get_events(DONE) if said["slide"] in wanted]


def test_one_slide_spreads_over_64_workers(sixty_four):
    outcomes = []
    work = run_slides([StubJob("large", 1000)], STEPS, sixty_four, outcomes.append, SilentProgress())
    assert outcomes == ["large"]
    assert work["large"].decoded == 1000
    said = done(sixty_four, {"large"})
    assert sorted(k for entry in said for k in entry["ks"]) == list(range(1000))
    shares = Counter()
    for entry in said:
        shares[entry["by"]] += len(entry["ks"])
    assert len(shares) >= 48  # a worker that a loaded machine starts late may find nothing left to do


def test_many_small_slides_spread_over_64_workers(sixty_four):
    names = [f"small{number}" for number in range(200)]
    outcomes = []
    run_slides([StubJob(name, 3) for name in names], STEPS, sixty_four, outcomes.append, SilentProgress())
    assert sorted(outcomes) == sorted(names)
    assert len({entry["by"] for entry in done(sixty_four, set(names))}) >= 32


def test_a_bad_slide_stops_no_other(sixty_four):
    outcomes = []
    jobs = [StubJob("first", 5), StubJob("empty", 0), StubJob("last", 5)]
    run_slides(jobs, STEPS, sixty_four, outcomes.append, SilentProgress())
    assert sorted(outcomes) == ["empty: nothing to see", "first", "last"]


@given(st.integers(0, 5000), st.integers(1, 200))
def test_parts_are_all_blocks_in_order(count, slots):
    parts = _parts(tuple(range(count)), slots)
    assert [k for part in parts for k in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes, default=0) <= 64
    # Nobody works alone at the end.
    assert count == 0 or sizes[-1] == 1

"""Processes that train together: one of them writes, all of them hold the same."""

import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch.multiprocessing as mp
from torch.distributed import TCPStore

from pathology.training.common.distributed import distributed_training


def _one(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"WORLD_SIZE": "3", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}

    def make() -> tuple[Path, np.ndarray]:
        (folder / f"made-by-{rank}").touch()
        return folder, np.arange(5) + rank

    with distributed_training("cpu") as ranks:
        where, numbers = ranks.made_by_first(make)
        assert ranks.smallest(10 - rank) == 8
        assert ranks.from_first(rank + 0.5) == 0.5
        (folder / f"{rank}-holds-{where.name}-{'-'.join(map(str, numbers))}").touch()


def test_what_the_first_process_makes_is_made_once_and_held_by_all(tmp_path):
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    mp.spawn(_one, (store.port, tmp_path), nprocs=3)
    held = {f"{rank}-holds-{tmp_path.name}-0-1-2-3-4" for rank in range(3)}
    assert {path.name for path in tmp_path.iterdir()} == {"made-by-0", *held}


def test_alone_it_is_made_here():
    with distributed_training("cpu") as ranks:
        assert ranks.made_by_first(lambda: "here") == "here"

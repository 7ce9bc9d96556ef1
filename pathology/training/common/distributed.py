"""Distributed training on several devices with a torch process group started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from pathology.errors import UsageError

__all__ = ["Distributed", "distributed_training"]

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""Timeout: the other processes wait while the first one tiles the slides, which may take days."""


@dataclass(frozen=True)
class Distributed:
    """One process of a distributed training.

    Attributes
    ----------
    rank, world
        Rank of this process and number of processes.
    device
        Device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap a network to average gradients over all processes; wrap again when the trainable parameters change."""
        if self.world == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def smallest(self, value: int) -> int:
        """Return the minimum of a value over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def from_first(self, value: float) -> float:
        """Return the value of the first process."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def made_by_first(self, make: Callable[[], T]) -> T:
        """Call a function in the first process and return its result in all, so that files have one writer."""
        if self.world == 1:
            return make()
        made = [make() if self.first else None]
        dist.broadcast_object_list(made, 0, device=self.device)
        return cast("T", made[0])

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def distributed_training(device: str | None = None) -> Iterator[Distributed]:
    """Join the process group of ``torchrun``, or run as a single process.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:N``; ``None``: CUDA if available.  With several processes, each uses the CUDA
        device of its local rank.

    Raises
    ------
    UsageError
        If the device does not exist.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} does not exist", remedy="Choose cpu, cuda or cuda:N")
    if wanted != "cpu" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is available", remedy="Omit --device, or run 'pathology doctor'")
    if world == 1:
        yield Distributed(0, 1, torch.device(wanted))
        return
    local = int(os.environ["LOCAL_RANK"])
    chosen = torch.device("cpu") if wanted == "cpu" else torch.device("cuda", local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Distributed(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()

"""One training on several devices: torch's own process group, as ``torchrun`` starts it."""

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
"""The others wait while the first process cuts slides into patches, which may take days."""


@dataclass(frozen=True)
class Distributed:
    """One process among those that train together.

    Attributes
    ----------
    rank, world
        Its number and how many there are.
    device
        Its device.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are averaged over all processes; made anew when what learns changes."""
        if self.world == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def smallest(self, value: int) -> int:
        """Return the smallest of a number over all processes."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def from_first(self, value: float) -> float:
        """Return the first process's number."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def made_by_first(self, make: Callable[[], T]) -> T:
        """Return what the first process makes; the others wait for it and get a copy, so that files have one writer."""
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
    """Join the processes that ``torchrun`` started; alone where it did not.

    Parameters
    ----------
    device
        ``cpu``, ``cuda`` or ``cuda:N``; ``None``: CUDA where there is a device.  With several processes each takes the
        CUDA device of its own number.

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
        raise UsageError("no CUDA device is available", remedy="Leave out --device, or see: pathology doctor")
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

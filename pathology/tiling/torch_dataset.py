"""Patch stores as a torch dataset: shuffled, but read block by block.

The only module of this package that imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from pathology.errors import UsageError
from pathology.tiling.store import PatchStore

__all__ = ["ShuffledPatches"]


def _where(store: int, patch: int) -> tuple[int, int]:
    return store, patch


class ShuffledPatches(IterableDataset[tuple[Any, Any]]):
    """Patches of one or many slides in random order, for training.

    Reading single patches at random would decode the same blocks again and again.  So blocks are drawn at random from
    all stores, a few are held in memory, and patches are drawn at random from these.  With 16 blocks of 81 patches, a
    batch of 64 comes from about 15 blocks across all slides.

    Every patch is yielded once per epoch.  The order depends on seed, epoch, part and number of loader workers::

        patches = ShuffledPatches(["a.zarr", "b.zarr"], target=lambda store, patch: labels[store])
        loader = DataLoader(patches, batch_size=64, num_workers=4)
        for epoch in range(10):
            patches.set_epoch(epoch)
            for pixels, label in loader:
                ...

    Parameters
    ----------
    stores
        Patch stores or their folders.
    target
        Maps a store's index in ``stores`` and a patch's index in the store to the target yielded with the patch;
        by default, these two indices.
    transform
        Maps ``(P, P, 3)`` uint8 to the yielded patch; by default a ``(3, P, P)`` uint8 tensor.
    shuffle
        Whether to shuffle; otherwise stores and patches are in order (within each loader worker).
    open_blocks
        Blocks held in memory per loader worker.  One of 2048 pixels takes 13 MB.
    seed
        Seed of the order.
    part
        ``(i, n)``: only the i-th of n parts, for training on several devices.  Blocks are distributed round-robin, so
        parts differ in length by a few blocks.
    keep
        For each store ``(N,)`` bool, the patches to use; by default all.  No other patch is decoded.

    Raises
    ------
    StoreError
        If a store cannot be opened.
    UsageError
        If there is no store, or a parameter is out of range.
    """

    def __init__(
        self,
        stores: Sequence[PatchStore | str | PathLike[str]],
        *,
        target: Callable[[int, int], Any] = _where,
        transform: Callable[[NDArray[np.uint8]], Any] | None = None,
        shuffle: bool = True,
        open_blocks: int = 16,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
        keep: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        super().__init__()
        if not stores:
            raise UsageError("no patch stores given")
        if open_blocks < 1:
            raise UsageError(f"open_blocks is {open_blocks}; it must be at least 1")
        if not 0 <= part[0] < part[1]:
            raise UsageError(f"part is {part}; it must be (i, n) with 0 <= i < n")
        if keep is not None and len(keep) != len(stores):
            raise UsageError(f"keep has masks for {len(keep)} stores; there are {len(stores)}")
        self._keep = None if keep is None else [np.asarray(chosen, np.bool_) for chosen in keep]
        self._target, self._transform = target, transform
        self._shuffle, self._open_blocks, self._seed, self._part = shuffle, open_blocks, seed, part
        # In memory shared with loader workers, so that persistent workers see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._places: list[tuple[Path, Path | None]] = []
        self._opened: dict[int, PatchStore] = {}
        self._opened_by = os.getpid()
        pairs, readable = [], []
        for number, given in enumerate(stores):
            store = given if isinstance(given, PatchStore) else PatchStore.open(given)
            self._places.append((store.path, store.slide_path))
            self._opened[number] = store
            starts = store.plan.offsets[:-1]
            taken = store.readable
            if self._keep is not None:
                if self._keep[number].shape != taken.shape:
                    raise UsageError(
                        f"the keep mask has {len(self._keep[number])} entries; the store has {len(taken)} patches",
                        where=store.path,
                    )
                taken = taken & self._keep[number]
            lengths = np.add.reduceat(taken, starts, dtype=np.intp) if len(starts) else np.empty(0, np.intp)
            # Blocks without a patch to keep are not read.
            used = np.arange(len(starts)) if self._keep is None else np.flatnonzero(lengths)
            pairs.append(np.stack([np.full(len(used), number), used], axis=1))
            readable.append(lengths[used])
        self._blocks = np.concatenate(pairs)[part[0] :: part[1]]
        self._lengths = np.concatenate(readable)[part[0] :: part[1]]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; call it before each pass, as with torch's samplers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Patches per epoch, without those known to be unreadable."""
        return int(self._lengths.sum())

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield ``(patch, target)``; patches that turn out to be unreadable are skipped."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        order = np.arange(len(self._blocks))
        seed = (self._seed, int(self._epoch))
        if self._shuffle:
            np.random.default_rng(seed).shuffle(order)
        blocks = iter(self._blocks[order[number::workers]])
        random = np.random.default_rng((*seed, self._part[0], number))
        held: list[_OpenBlock] = []
        while True:
            while (
                len(held) < (self._open_blocks if self._shuffle else 1)
                and (following := next(blocks, None)) is not None
            ):
                block = self._read(int(following[0]), int(following[1]), random)
                if block.left:
                    held.append(block)
            if not held:
                return
            # Blocks are weighted by their remaining patches, so that all patches are equally likely.
            left = np.array([block.left for block in held])
            chosen = int(np.searchsorted(np.cumsum(left), random.integers(left.sum()), side="right"))
            block = held[chosen]
            pixels, patch = block.take()
            if not block.left:
                held.pop(chosen)
            shown = torch.from_numpy(pixels).permute(2, 0, 1) if self._transform is None else self._transform(pixels)
            yield shown, self._target(block.store, patch)

    def _read(self, store: int, k: int, random: np.random.Generator) -> _OpenBlock:
        found = self._store(store)
        part = found.plan.of_block(k)
        numbers = np.arange(part.start, part.stop)
        if self._keep is not None:
            numbers = numbers[self._keep[store][part]]
        patches = found.read(numbers)
        order = np.flatnonzero(patches.readable)
        if self._shuffle:
            random.shuffle(order)
        return _OpenBlock(store, numbers, patches.pixels, order[::-1].tolist())

    def _store(self, number: int) -> PatchStore:
        # File descriptors and zarr handles belong to the process that opened them.
        if self._opened_by != os.getpid():
            self._opened, self._opened_by = {}, os.getpid()
        if number not in self._opened:
            path, slide = self._places[number]
            self._opened[number] = PatchStore.open(path, slide=slide)
        return self._opened[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}


class _OpenBlock:
    """A block with patches still to be yielded."""

    def __init__(self, store: int, numbers: NDArray[np.intp], pixels: NDArray[np.uint8], order: list[int]) -> None:
        self.store = store
        self._numbers, self._pixels, self._order = numbers, pixels, order

    @property
    def left(self) -> int:
        return len(self._order)

    def take(self) -> tuple[NDArray[np.uint8], int]:
        place = self._order.pop()
        # A copy, so that keeping one patch does not keep its whole block alive.
        return self._pixels[place].copy(), int(self._numbers[place])

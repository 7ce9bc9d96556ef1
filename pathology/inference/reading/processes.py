"""Processes that read blocks, for prediction on a GPU: it consumes patches faster than the threads of one process,
which share one interpreter lock, can decode and cut them.

Each process decodes and resamples blocks and writes the patches into memory shared with the process that drives the
GPU; only a few hundred bytes per block are exchanged.  If a process crashes, as decoders sometimes do on damaged
files, it is replaced and the block is tried once more; a block that crashes two processes fails its slide.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pathology.errors import PathologyError, SlideError
from pathology.inference.reading.process_main import BlockRead, BlockRequest, SlideRequest
from pathology.inference.reading.shared_patches import PatchRing
from pathology.slide.stain.normalise import StainNormaliser
from pathology.tiling.plan import TilePlan
from pathology.tiling.tile_work import TileWork

__all__ = ["ReadingProcesses", "SlideInProcesses"]

_SLIDES_KEPT = 4
"""Slides kept open in the processes: those being read, and the most recently used ones for the tasks to come."""


class ReadingProcesses:
    """Processes that read blocks of any slide.  Close it, or use it in a ``with`` statement.

    Parameters
    ----------
    count
        Number of processes.  They start when there is something to read.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._slides: OrderedDict[SlideRequest, int] = OrderedDict()
        self._used: dict[int, int] = {}
        self._idle_rings: list[tuple[int, PatchRing]] = []
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._readers = [_ReadingProcess(self._tasks) for _ in range(count)]
        self._closed = False

    @contextmanager
    def slide(
        self, path: Path, plan: TilePlan, stain: StainNormaliser | None = None, *, state: str = ""
    ) -> Iterator[SlideInProcesses]:
        """Read one slide with these processes; several slides may be read at once.

        Parameters
        ----------
        path
            The slide file.
        plan
            Its patches.
        stain
            Changes the patches' colours.
        state
            A string that changes when the file does.
        """
        grid = plan.grid
        record = json.dumps(stain.record(), sort_keys=True) if stain is not None else ""
        request = SlideRequest(path, state, grid.settings.model_dump_json(), grid.dimensions, grid.slide_mpp, record)
        with self._lock:
            number = self._slides.setdefault(request, next(self._numbers))
            self._slides.move_to_end(request)
            self._used[number] = self._used.get(number, 0) + 1
            idle = [(known, n) for known, n in self._slides.items() if not self._used.get(n)]
            for known, n in idle[: max(0, len(self._slides) - _SLIDES_KEPT)]:
                del self._slides[known]
                self._forget(n)
        try:
            yield SlideInProcesses(self, number, request, plan)
        finally:
            with self._lock:
                self._used[number] -= 1

    def _forget(self, number: int) -> None:
        for reader in self._readers:
            reader.to_forget.put(number)

    @contextmanager
    def _ring(self, capacity: int, patch: int) -> Iterator[tuple[int, PatchRing]]:
        """Provide a ring, reusing an idle one of the same size: allocating memory costs time."""
        wanted = (capacity, patch, patch, 3)
        with self._lock:
            fitting = next((idle for idle in self._idle_rings if idle[1].patches.shape == wanted), None)
            if fitting is not None:
                self._idle_rings.remove(fitting)
            else:
                while self._idle_rings:
                    number, ring = self._idle_rings.pop()
                    ring.close()
                    self._forget(number)
        in_use = fitting or (next(self._numbers), PatchRing(capacity, patch))
        try:
            yield in_use
        finally:
            with self._lock:
                self._idle_rings.append(in_use)

    def _submit(self, task: _Task) -> None:
        for reader in self._readers:
            reader.ensure_started()
        self._tasks.put(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the processes.  Closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        for _ in self._readers:
            self._tasks.put(None)
        for reader in self._readers:
            reader.join()
        for _, ring in self._idle_rings:
            ring.close()


class SlideInProcesses:
    """Reads the blocks of one slide in processes; a :class:`pathology.inference.reading.pipeline.BlockSource`."""

    def __init__(self, processes: ReadingProcesses, number: int, request: SlideRequest, plan: TilePlan) -> None:
        # Twice as many blocks as processes: no new blocks are requested while a batch is being predicted.
        self.ahead = processes.count * 2
        self._processes = processes
        self._number = number
        self._request = request
        self._plan = plan
        self._numbered_ring: tuple[int, PatchRing] | None = None
        self._lock = threading.Lock()
        self._unreadable: set[tuple[int, int, int]] = set()
        self._decoded = 0
        self._reused = 0

    @property
    def unreadable_tiles(self) -> frozenset[tuple[int, int, int]]:
        """Stored tiles that could not be decoded so far, as ``(level, column, row)``."""
        with self._lock:
            return frozenset(self._unreadable)

    def take_work(self) -> TileWork:
        """Return how many stored tiles were decoded and reused."""
        with self._lock:
            return TileWork(decoded=self._decoded, reused=self._reused)

    @contextmanager
    def ring(self, capacity: int) -> Iterator[NDArray[np.uint8]]:
        """Provide memory for ``capacity`` patches."""
        with self._processes._ring(capacity, self._plan.grid.settings.patch) as numbered:
            self._numbered_ring = numbered
            yield numbered[1].patches

    def read(self, k: int, places: tuple[slice, ...]) -> Future[NDArray[np.bool_]]:
        """Read the plan's ``k``-th block into the ring."""
        assert self._numbered_ring is not None
        number, ring = self._numbered_ring
        positions = self._plan.positions[self._plan.of_block(k)]
        block = BlockRequest(self._number, number, int(self._plan.blocks[k]), positions, places)
        task = _Task(self._number, self._request, number, ring, block, self._count)
        self._processes._submit(task)
        return task.future

    def _count(self, found: BlockRead) -> None:
        with self._lock:
            self._unreadable |= found.unreadable_tiles
            self._decoded += found.decoded
            self._reused += found.reused


class _Task:
    """A block to read, with everything a process needs to know to read it."""

    def __init__(
        self,
        slide: int,
        request: SlideRequest,
        ring: int,
        memory: PatchRing,
        block: BlockRequest,
        count: Callable[[BlockRead], None],
    ) -> None:
        self.slide, self.request, self.ring, self.memory, self.block = slide, request, ring, memory, block
        self.count = count
        self.future: Future[NDArray[np.bool_]] = Future()


class _Died(Exception):  # noqa: N818 - an event between two functions of this file
    """The process has exited."""


class _ReadingProcess:
    """One process, and the thread that communicates with it."""

    def __init__(self, tasks: SimpleQueue[_Task | None]) -> None:
        self.to_forget: SimpleQueue[int] = SimpleQueue()
        self._tasks = tasks
        self._known: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="reading", daemon=True)
        self._started = False

    def ensure_started(self) -> None:
        """Start the thread if it is not running."""
        if not self._started:
            self._started = True
            self._thread.start()

    def join(self) -> None:
        """Wait for the thread, and hence the process, to end."""
        if self._started:
            self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                try:
                    found = self._read(task)
                except _Died:
                    found = self._read(task)
            except _Died:
                task.future.set_exception(
                    SlideError(
                        "a reading process crashed twice on the same part of the slide (damaged file, or not enough "
                        "memory)",
                        where=task.request.path,
                        remedy="Copy the slide from its source again",
                    )
                )
            except Exception as error:
                task.future.set_exception(error)
            else:
                task.count(found)
                task.future.set_result(found.readable)
        self._end()

    def _read(self, task: _Task) -> BlockRead:
        if self._process is None:
            self._begin()
        forgotten = []
        while not self.to_forget.empty():
            forgotten.append(self.to_forget.get())
        if forgotten := [number for number in forgotten if number in self._known]:
            self._known.difference_update(forgotten)
            self._ask("forget", forgotten)
        if task.ring not in self._known:
            capacity, patch = task.memory.patches.shape[:2]
            self._ask("ring", task.ring, capacity, patch, handle=task.memory.descriptor)
            self._known.add(task.ring)
        if task.slide not in self._known:
            self._ask("slide", task.slide, task.request)
            self._known.add(task.slide)
        found = self._ask("block", task.block)
        if not isinstance(found, BlockRead):
            raise PathologyError(f"a reading process sent an unexpected reply: {found!r}")
        return found

    def _ask(self, *message: Any, handle: int | None = None) -> BlockRead | None:
        assert self._connection is not None
        assert self._process is not None
        try:
            self._connection.send(message)
            if handle is not None:
                send_handle(self._connection, handle, self._process.pid)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._end()
            raise _Died from error
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            # A separate program, not a fork: threads and CUDA do not survive forking, and no caller needs a guard
            # around its main part.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no outside input
                [sys.executable, "-m", "pathology.inference.reading.process_main", str(descriptor)],
                pass_fds=[descriptor],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._known.clear()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._connection = None

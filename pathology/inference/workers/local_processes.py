"""Local worker processes: started, replaced if they end, stopped; their folder of temporary files, and its sweeping."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from distributed import Client

from pathology.errors import PathologyError

__all__ = ["LocalProcesses", "scratch_folder", "sweep_scratch"]

_PREFIX: Final = "pathology-"
_HELD: Final = "held"
"""File in the temporary folder of a run, locked for as long as the run lives."""
_REPLACEMENTS: Final = 8
"""Number of times a worker may end and be replaced in a row; beyond, starting it is hopeless."""
_LAST_LINES: Final = 5
_LARGEST_LOG: Final = 64 * 1024
_CALM: Final = 60.0
"""Seconds after which a replaced worker counts as working."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder that only this user can enter, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        unlocked = folder / f"{_HELD}.new"
        with unlocked.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Named once it is locked: another run that sweeps never finds it free.
            unlocked.rename(folder / _HELD)
            yield folder


def sweep_scratch() -> None:
    """Remove the temporary folders of this user's runs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            handle = os.open(folder / _HELD, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # not a folder of a run
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its run is alive
        finally:
            os.close(handle)


class LocalProcesses:
    """Worker processes, each replaced when it ends.

    Parameters
    ----------
    commands
        Command and environment of each worker.
    folder
        Where their messages are kept.
    """

    def __init__(self, commands: Sequence[tuple[list[str], Mapping[str, str]]], folder: Path) -> None:
        self._commands, self._folder = commands, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started: list[float] = []
        self._replaced = [0] * len(commands)
        self._over = threading.Event()
        self._hopeless = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="workers", daemon=True)

    def __enter__(self) -> LocalProcesses:
        """Start them."""
        for number in range(len(self._commands)):
            self._processes.append(self._start(number))
            self._started.append(time.monotonic())
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them."""
        self.stop_replacing()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_replacing(self) -> None:
        """Let workers end from now on."""
        self._over.set()
        if self._watching.is_alive():
            self._watching.join()

    def wait_for(self, client: Client, count: int, *, timeout: float) -> None:
        """Wait until all workers have registered.

        Raises
        ------
        PathologyError
            If they do not, with what they wrote last.
        """
        until = time.monotonic() + timeout
        while len(client.nthreads()) < count:
            if self._hopeless.is_set() or time.monotonic() > until:
                said = self.messages()
                raise PathologyError(
                    f"the worker processes did not start{f': {said}' if said else ''}",
                    remedy="Check free memory and the space in /dev/shm and in the temporary folder; "
                    "run: pathology doctor",
                )
            time.sleep(0.05)

    def messages(self) -> str:
        """Return the last lines that workers wrote to standard error."""
        lines: list[str] = []
        for path in sorted(self._folder.glob("worker-*.log")):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LARGEST_LOG))
                lines += [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-_LAST_LINES:])

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        command, environment = self._commands[number]
        with (self._folder / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter, no outside input
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=False,
            )

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for number, process in enumerate(self._processes):
                if process.poll() is None:
                    continue
                calm = time.monotonic() - self._started[number] > _CALM
                self._replaced[number] = 1 if calm else self._replaced[number] + 1
                if self._replaced[number] > _REPLACEMENTS:
                    self._hopeless.set()
                    return
                self._processes[number] = self._start(number)
                self._started[number] = time.monotonic()

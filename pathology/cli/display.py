"""Progress of long commands: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

__all__ = ["BarProgress", "LineProgress", "shown_bytes", "shown_progress"]


def shown_progress() -> BarProgress | LineProgress:
    """Return progress bars if standard error is a terminal, else log lines."""
    terminal = Console(stderr=True)
    return BarProgress(terminal) if terminal.is_terminal else LineProgress()


@contextmanager
def shown_bytes(total: float) -> Iterator[Callable[[str, int], None]]:
    """Show the progress of a download: a bar on a terminal; a line per file in a log.

    Parameters
    ----------
    total
        Total number of bytes expected.

    Yields
    ------
    callable
        Takes the name of the file and the number of bytes received.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def say(name: str, count: int) -> None:
            del count
            if name not in seen:
                seen.add(name)
                print(f"downloading {name}", file=sys.stderr, flush=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(compact=True), console=console) as bars:
        task = bars.add_task("", total=total)
        yield lambda name, count: bars.update(task, description=_short(name), advance=count)


class BarProgress:
    """Progress bars: one for the batch, and one per slide in progress."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=False,
        )
        self._batch: TaskID | None = None
        self._slides: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def began(self, slides: int, unchanged: int) -> None:
        """Show the batch's bar."""
        if unchanged:
            self._bars.console.print(f"{unchanged} slides are already scored and unchanged.")
        if slides:
            self._batch = self._bars.add_task("all slides", total=slides, unit="slides")

    def workers(self, count: int, dashboard: str | None) -> None:
        """Print the address of the dashboard."""
        del count
        if dashboard:
            self._bars.console.print(f"Dask dashboard: {dashboard}")

    def prepared(self, slide_id: str, patches: int) -> None:
        """Show the slide's bar."""
        with self._lock:
            self._slides[slide_id] = self._bars.add_task(_short(slide_id), total=patches, unit="patches")

    def advanced(self, slide_id: str, patches: int) -> None:
        """Advance the slide's bar."""
        with self._lock:
            if slide_id in self._slides:
                self._bars.advance(self._slides[slide_id], patches)

    def finished(self, slide_id: str, outcome: str, *, failed: bool) -> None:
        """Remove the slide's bar and advance the batch's."""
        with self._lock:
            if (bar := self._slides.pop(slide_id, None)) is not None:
                self._bars.remove_task(bar)
            if failed:
                self._bars.console.print(
                    f"failed: {slide_id}: {outcome}", style="yellow", markup=False, highlight=False
                )
            if self._batch is not None:
                self._bars.advance(self._batch)


class LineProgress:
    """One plain line per slide, for logs."""

    def __init__(self) -> None:
        self._total = 0
        self._done = 0

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def began(self, slides: int, unchanged: int) -> None:
        """Print the number of slides to process."""
        self._total = slides
        if slides:
            self._say(f"{slides} slide{'' if slides == 1 else 's'} to process, {unchanged} already done.")

    def workers(self, count: int, dashboard: str | None) -> None:
        """Print the address of the dashboard."""
        del count
        if dashboard:
            self._say(f"Dask dashboard: {dashboard}")

    def prepared(self, slide_id: str, patches: int) -> None:
        """Do nothing: one line when the slide is done is enough for a log."""

    def advanced(self, slide_id: str, patches: int) -> None:
        """Do nothing."""

    def finished(self, slide_id: str, outcome: str, *, failed: bool) -> None:
        """Print one line for the slide."""
        self._done += 1
        self._say(f"[{self._done}/{self._total}] {slide_id}: {'failed: ' if failed else ''}{outcome}")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _short(name: str, width: int = 32) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"

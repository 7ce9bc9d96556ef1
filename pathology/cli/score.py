"""``pathology score``: the batch with its progress shown."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from pathology.settings import ScoreSettings

if TYPE_CHECKING:
    from pathology.findings.slide_result import SlideResult

__all__ = ["run"]


def run(
    slides: list[Path],
    model: str,
    out: Path,
    *,
    mpp: float | None,
    workers: int | None,
    scheduler: str | None,
    stride: int | None,
    min_tissue: float,
    engine: str,
    device: str | None,
    precision: str,
    retry_failed: bool,
    verbose: bool,
) -> int:
    """Score and return the exit status: 0 all scored, 1 some failed."""
    from pydantic import ValidationError

    from pathology.errors import UsageError
    from pathology.scoring.batch import score

    try:
        settings = ScoreSettings.model_validate({"stride": stride, "min_tissue": min_tissue, "precision": precision})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from error
    began = time.monotonic()
    terminal = Console(stderr=True)
    display: BarProgress | LineProgress = BarProgress(terminal) if terminal.is_terminal else LineProgress()
    with display:
        batch = score(
            slides,
            model,
            out,
            settings=settings,
            mpp=mpp,
            workers=workers,
            scheduler=scheduler,
            engine=engine,
            device=device,
            retry_failed=retry_failed,
            progress=display,
        )
    failed = batch.failed
    scored = len(batch) - len(failed)
    if batch.unchanged == len(batch):
        print(f"Nothing to do: all {len(batch)} slides were finished before and have not changed.")
    print(f"{scored} scored, {len(failed)} failed, in {time.monotonic() - began:.1f} s.")
    for result in failed:
        print(f"  failed: {result.slide_id}: {result.error}")
    if failed and batch.unchanged:
        print("  (slides that failed before are tried again with --retry-failed)")
    if verbose:
        print(f"Stored tiles decoded for patches: {batch.decoded_tiles}.")
    print(f"Table:  {out / 'results.csv'}\nReport: {out / 'index.html'}\nResearch use only.")
    return 1 if failed else 0


class BarProgress:
    """Two bars: the batch, and the slides on their way."""

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
            self._bars.console.print(f"{unchanged} slides were finished before and have not changed.")
        if slides:
            self._batch = self._bars.add_task("all slides", total=slides, unit="slides")

    def workers(self, count: int, dashboard: str | None) -> None:
        """Say where the dashboard is."""
        del count
        if dashboard:
            self._bars.console.print(f"Dask dashboard: {dashboard}")

    def prepared(self, slide_id: str, patches: int) -> None:
        """Show the slide's bar."""
        with self._lock:
            self._slides[slide_id] = self._bars.add_task(_short(slide_id), total=patches, unit="patches")

    def advanced(self, slide_id: str, patches: int) -> None:
        """Move the slide's bar."""
        with self._lock:
            if slide_id in self._slides:
                self._bars.advance(self._slides[slide_id], patches)

    def finished(self, result: SlideResult) -> None:
        """Take the slide's bar away and move the batch's."""
        with self._lock:
            if (bar := self._slides.pop(result.slide_id, None)) is not None:
                self._bars.remove_task(bar)
            if result.status == "failed":
                self._bars.console.print(f"failed: {result.slide_id}: {result.error}", style="yellow", markup=False, highlight=False)
            if self._batch is not None:
                self._bars.advance(self._batch)


class LineProgress:
    """One plain line a slide, for logs."""

    def __init__(self) -> None:
        self._total = 0
        self._done = 0

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def began(self, slides: int, unchanged: int) -> None:
        """Say what is to do."""
        self._total = slides
        if slides:
            self._say(f"{slides} slides to score, {unchanged} finished before.")

    def workers(self, count: int, dashboard: str | None) -> None:
        """Say where the dashboard is."""
        del count
        if dashboard:
            self._say(f"Dask dashboard: {dashboard}")

    def prepared(self, slide_id: str, patches: int) -> None:
        """Nothing: a line when the slide is done is enough for a log."""

    def advanced(self, slide_id: str, patches: int) -> None:
        """Nothing, likewise."""

    def finished(self, result: SlideResult) -> None:
        """One line for the slide."""
        self._done += 1
        outcome = f"failed: {result.error}" if result.status == "failed" else f"{result.prediction} ({result.patches} patches, {result.seconds or 0:.1f} s)"
        self._say(f"[{self._done}/{self._total}] {result.slide_id}: {outcome}")

    @staticmethod
    def _say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _short(name: str, width: int = 32) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"

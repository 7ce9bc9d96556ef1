"""The files of a batch as a whole, kept up at a constant cost per slide."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.journal import JOURNAL, Journal
from pathology.outputs.results.run import write_run

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = ["BatchFiles"]

_LEAST_PAUSE: Final = 10.0
"""Seconds between two writings of the tables during a run, at least."""
_SHARE: Final = 0.01
"""Largest share of a run's time spent on writing tables."""


class BatchFiles:
    """The files of a batch in its results folder.

    After every slide one line is added to the journal.  The tables hold all slides and are therefore written at
    intervals and at the end: writing them after every slide would take a time that grows with the square of the batch.

    Parameters
    ----------
    out
        The results folder.
    order
        Ids of all slides of the batch, in the order of the rows.
    card
        The model.
    """

    def __init__(self, out: Path, order: Sequence[str], card: Card) -> None:
        self._out, self._order, self._card = out, tuple(order), card
        self.journal = Journal(out / JOURNAL)
        self.results: dict[str, SlideResult] = {}
        """Results so far, by slide."""
        self._settings: dict[str, Any] = {}
        self._next = 0.0
        self._untabled = False

    def ordered(self) -> list[SlideResult]:
        """Return the results so far, in the order of the batch."""
        return [self.results[name] for name in self._order if name in self.results]

    def hold(self, result: SlideResult) -> None:
        """Keep a result, finished now or by an earlier run, for the tables."""
        # Nearly all slides have the same settings, which are half of a result's memory: they are held once.
        if result.settings == self._settings:
            result = result.model_copy(update={"settings": self._settings})
        else:
            self._settings = result.settings
        self.results[result.slide_id] = result

    def add(self, result: SlideResult, *, tables: bool = True) -> None:
        """Record a slide that has just been finished.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        self.hold(result)
        self.journal.append(self._out / "slides" / result.slide_id)
        self._untabled = True
        if tables and time.monotonic() >= self._next:
            self.write_tables()

    def write_tables(self) -> None:
        """Write the tables of the slides so far, unless they are up to date.

        Raises
        ------
        OutputError
            If a table cannot be written.
        """
        from pathology.outputs.results.tables import write_results

        if not self._untabled:
            return
        started = time.monotonic()
        write_results(self._out, self.ordered(), self._card.classes)
        ended = time.monotonic()
        self._next = ended + max(_LEAST_PAUSE, (ended - started) / _SHARE)
        self._untabled = False

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the tables, the index page and the record of the run.

        Parameters
        ----------
        record
            Facts about the run.

        Raises
        ------
        OutputError
            If a file cannot be written.
        """
        from pathology.outputs.reports.batch import IndexEntry, write_batch_report

        self._untabled = True
        self.write_tables()
        entries = []
        for result in self.ordered():
            small = self._out / "slides" / result.slide_id / "preview.jpg"
            shown = small.read_bytes() if result.has_maps and small.exists() else None
            entries.append(IndexEntry(result, result.slide_id, shown))
        write_batch_report(self._out / "index.html", entries, self._card, made=datetime.now(UTC))
        write_run(self._out, {**record, "slides": self.slides_record()}, finished=True)

    def slides_record(self) -> list[dict[str, Any]]:
        """Return what the record of a run says of each slide."""
        fields = {"slide_id", "path", "status", "fingerprint", "key"}
        return [result.model_dump(mode="json", include=fields) for result in self.ordered()]

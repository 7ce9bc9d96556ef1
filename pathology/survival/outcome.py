"""Right-censored time-to-event outcomes, the common input of all survival models and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pathology.errors import UsageError

__all__ = ["Outcome", "outcome_strata"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Follow-up of N patients, right-censored.

    Parameters
    ----------
    time
        Time to the event or to last follow-up, shape (N,), float64, non-negative, in one unit throughout
        (the package uses days).
    event
        Whether the event was observed (True) or censored (False), shape (N,).

    Raises
    ------
    UsageError
        Shapes differ, a time is negative or missing, or an event is neither 0 nor 1; the message names the row.
    """

    time: Floats
    event: Bools

    def __post_init__(self) -> None:
        time, raw = np.asarray(self.time, dtype=float), np.asarray(self.event)
        if time.ndim != 1 or time.shape != raw.shape or time.size == 0:
            raise UsageError(
                f"expected times and events of equal length, not empty; got shapes {time.shape} and {raw.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(time) | (time < 0))
        if bad.size:
            raise UsageError(
                f"the time in row {bad[0]} is {time[bad[0]]:g}",
                remedy="Times must be non-negative numbers: correct or remove the row",
            )
        event = raw if raw.dtype == bool else raw.astype(float)
        odd = np.flatnonzero(~np.isin(event, (0, 1)))
        if odd.size:
            raise UsageError(
                f"the event in row {odd[0]} is {raw[odd[0]]}",
                remedy="Use 1 for observed and 0 for censored",
            )
        object.__setattr__(self, "time", time)
        object.__setattr__(self, "event", event.astype(bool))

    def __len__(self) -> int:
        return len(self.time)

    @property
    def events(self) -> int:
        """Number of observed events."""
        return int(self.event.sum())

    def take(self, rows: npt.NDArray[Any]) -> Outcome:
        """Return the outcome of the given rows; repeats allowed."""
        return Outcome(self.time[rows], self.event[rows])

    def censored_at(self, horizon: float) -> Outcome:
        """Return the follow-up administratively censored at ``horizon``."""
        return Outcome(np.minimum(self.time, horizon), self.event & (self.time <= horizon))


def outcome_strata(outcome: Outcome, *, parts: int = 3) -> list[str]:
    """Return a stratum per patient, event x time tertile, so that folds have similar follow-up.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    parts
        Number of time strata, cut separately for patients with and without the event.

    Returns
    -------
    list of str
        Such as ``"event 2"``, length N.
    """
    part = np.zeros(len(outcome), dtype=np.int64)
    for seen in (True, False):
        rows = np.flatnonzero(outcome.event == seen)
        if rows.size:
            order = np.argsort(outcome.time[rows], kind="stable")
            part[rows[order]] = np.arange(rows.size) * parts // rows.size
    return [f"{'event' if e else 'censored'} {p + 1}" for e, p in zip(outcome.event, part, strict=True)]

"""Time to an event, some of it censored: the one form in which every model and metric here takes an outcome."""

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
        Time to the event or to the last contact, shape (N,), float64, not negative, in one unit throughout
        (the package uses days).
    event
        Whether the event was seen (True) or the patient was censored (False), shape (N,).

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
                f"times have shape {time.shape} and events {raw.shape}, expected two equal lists, not empty"
            )
        bad = np.flatnonzero(~np.isfinite(time) | (time < 0))
        if bad.size:
            raise UsageError(
                f"the time in row {bad[0]} is {time[bad[0]]:g}",
                remedy="Times must be known and not negative: mend or drop the row",
            )
        event = raw if raw.dtype == bool else raw.astype(float)
        odd = np.flatnonzero(~np.isin(event, (0, 1)))
        if odd.size:
            raise UsageError(
                f"the event in row {odd[0]} is {raw[odd[0]]}",
                remedy="Write 1 where the event was seen and 0 where it was not",
            )
        object.__setattr__(self, "time", time)
        object.__setattr__(self, "event", event.astype(bool))

    def __len__(self) -> int:
        return len(self.time)

    @property
    def events(self) -> int:
        """Number of events seen."""
        return int(self.event.sum())

    def take(self, rows: npt.NDArray[Any]) -> Outcome:
        """Return the outcome of some rows, repeats allowed."""
        return Outcome(self.time[rows], self.event[rows])

    def censored_at(self, horizon: float) -> Outcome:
        """Return the same follow-up cut at ``horizon``: later events become censored there."""
        return Outcome(np.minimum(self.time, horizon), self.event & (self.time <= horizon))


def outcome_strata(outcome: Outcome, *, parts: int = 3) -> list[str]:
    """Return a stratum for each patient, event x time third, so that folds get alike follow-up.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    parts
        Number of time parts, cut separately for patients with and without the event.

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

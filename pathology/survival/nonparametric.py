"""Non-parametric estimates: Kaplan-Meier, Nelson-Aalen, Breslow and the censoring distribution.

Implemented in NumPy because the metrics evaluate them thousands of times in a bootstrap; tested against lifelines and
scikit-survival.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from pathology.errors import UsageError
from pathology.survival.outcome import Outcome

__all__ = [
    "KaplanMeier",
    "StepFunction",
    "breslow",
    "censoring_distribution",
    "kaplan_meier",
    "nelson_aalen",
    "numbers_at_risk",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepFunction:
    """A right-continuous step function of time.

    Parameters
    ----------
    times
        Step times, ascending, shape (K,).
    heights
        Value from each time on, shape (K,).
    start
        Value before the first step.
    """

    times: Floats
    heights: Floats
    start: float

    def __call__(self, at: npt.ArrayLike) -> Floats:
        """Return the values at ``at``; constant after the last step."""
        index = np.searchsorted(self.times, np.asarray(at, dtype=float), side="right")
        return np.asarray(np.concatenate([[self.start], self.heights])[index], dtype=float)


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """A survival curve with pointwise confidence intervals.

    Parameters
    ----------
    times, survival, low, high
        Shape (K,): distinct times, survival from each time on, and confidence limits.
    at_risk, events
        Patients at risk just before each time, and events at it.
    level
        Confidence level of the interval.
    """

    times: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: npt.NDArray[np.int64]
    events: npt.NDArray[np.int64]
    level: float

    @property
    def median(self) -> float:
        """Median survival time; infinite if not reached."""
        # A curve at exactly 0.5 may be above it by a rounding error.
        below = np.flatnonzero(self.survival <= 0.5 + 1e-12)
        return float(self.times[below[0]]) if below.size else float("inf")

    def at(self, times: npt.ArrayLike) -> Floats:
        """Return survival at ``times``."""
        return StepFunction(self.times, self.survival, 1.0)(times)


def kaplan_meier(outcome: Outcome, *, level: float = 0.95) -> KaplanMeier:
    """Estimate survival (Kaplan and Meier 1958) with log(-log) intervals from the Greenwood variance.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    level
        Confidence level, 0 to 1.

    Examples
    --------
    >>> from pathology.survival import Outcome
    >>> curve = kaplan_meier(Outcome(np.array([100.0, 200.0, 300.0, 400.0]), np.array([1, 0, 1, 1])))
    >>> curve.at([250.0]).round(3).tolist()
    [0.75]
    """
    times, events, _, at_risk = _table(outcome)
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(1 - events / at_risk, dtype=np.float64)
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        # The interval is symmetric on the scale of log(-log S), which keeps it within 0..1 (Kalbfleisch and Prentice).
        spread = stats.norm.ppf((1 + level) / 2) * np.sqrt(greenwood) / np.log(survival)
        low, high = survival ** np.exp(-spread), survival ** np.exp(spread)
    flat = survival >= 1
    low, high = np.where(flat, 1.0, low), np.where(flat, 1.0, high)
    gone = survival <= 0
    low, high = np.where(gone, 0.0, low), np.where(gone, 0.0, high)
    return KaplanMeier(times, survival, low, high, at_risk, events, level)


def nelson_aalen(outcome: Outcome) -> StepFunction:
    """Estimate the cumulative hazard (Nelson 1972, Aalen 1978).

    Examples
    --------
    >>> from pathology.survival import Outcome
    >>> hazard = nelson_aalen(Outcome(np.array([100.0, 200.0, 300.0, 400.0]), np.array([1, 0, 1, 1])))
    >>> hazard([250.0]).tolist()
    [0.25]
    """
    times, events, _, at_risk = _table(outcome)
    hazard: Floats = np.asarray(events / at_risk, dtype=np.float64)
    return StepFunction(times, hazard.cumsum(), 0.0)


def censoring_distribution(outcome: Outcome) -> StepFunction:
    """Estimate the censoring survival function G(t) by Kaplan-Meier with events and censoring swapped.

    At tied times, the event comes first: patients with the event are no longer at risk of
    being censored (the convention of scikit-survival and of R's ``survival``).
    """
    times, events, censored, at_risk = _table(outcome)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = at_risk - events
        factor: Floats = np.where(left > 0, 1 - censored / np.maximum(left, 1), 1.0)
    return StepFunction(times, factor.cumprod(), 1.0)


def breslow(outcome: Outcome, log_risk: npt.ArrayLike) -> StepFunction:
    """Estimate the baseline cumulative hazard of a proportional hazards model (Breslow 1972).

    Parameters
    ----------
    outcome
        Follow-up of the training patients.
    log_risk
        Their linear predictor, shape (N,).

    Returns
    -------
    StepFunction
        H0(t); a patient's survival is ``exp(-H0(t) * exp(log_risk))``.
    """
    eta = np.asarray(log_risk, dtype=float)
    if eta.shape != outcome.time.shape:
        raise UsageError(f"log risks have shape {eta.shape} for {len(outcome)} patients")
    # Subtracting the maximum keeps exp() finite; it is undone at the end.
    shift = float(eta.max())
    risk = np.exp(eta - shift)
    times, place = np.unique(outcome.time, return_inverse=True)
    events = np.bincount(place, outcome.event, len(times))
    pool = np.cumsum(np.bincount(place, risk, len(times))[::-1])[::-1]
    return StepFunction(times, np.cumsum(events / pool) * np.exp(-shift), 0.0)


def numbers_at_risk(outcome: Outcome, times: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the number of patients at risk just before each of ``times``."""
    ordered = np.sort(outcome.time)
    return np.asarray(
        len(ordered) - np.searchsorted(ordered, np.asarray(times, dtype=float), side="left"), dtype=np.int64
    )


def _table(
    outcome: Outcome,
) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    times, place = np.unique(outcome.time, return_inverse=True)
    total = np.bincount(place, minlength=len(times))
    events = np.bincount(place[outcome.event], minlength=len(times))
    at_risk = np.cumsum(total[::-1])[::-1]
    return times, events, total - events, at_risk

"""Nomograms: a regression model as a chart that is read with a ruler.

Each predictor has an axis; a value on it gives points; the sum of points gives the probability.  The predictor with
the largest effect spans 100 points.  The chart is exact: points reproduce the linear predictor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pathology.errors import UsageError
from pathology.settings import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Nomogram", "NomogramTerm", "draw_nomogram"]


class NomogramTerm(Record):
    """One predictor."""

    name: str
    """Label on the axis."""
    coefficient: float
    """Log odds or log hazard per unit."""
    low: float
    """Lower end of the axis, in the predictor's unit."""
    high: float
    """Upper end of the axis."""
    labels: tuple[tuple[str, float], ...] = ()
    """For a categorical predictor: names of its values; empty for a numeric one."""

    @model_validator(mode="after")
    def _extent(self) -> NomogramTerm:
        if not self.low < self.high:
            raise ValueError(f"{self.name}: the axis from {self.low} to {self.high} has no extent")
        return self

    @property
    def width(self) -> float:
        """Effect from one end of the axis to the other, >= 0."""
        return abs(self.coefficient) * (self.high - self.low)


class Nomogram(Record):
    """A logistic or proportional hazards model in points."""

    terms: Annotated[tuple[NomogramTerm, ...], Field(min_length=1)]
    intercept: float = 0.0
    """Intercept of the linear predictor; for a hazards model, minus the centre it was fitted at."""
    baseline_survival: dict[str, Annotated[float, Field(gt=0, lt=1)]] | None = None
    """For a hazards model: survival at linear predictor 0 by time (``3 years``).  ``None``: logistic."""
    outcome: str = "probability"
    """The event predicted, such as ``lung metastasis``."""

    @property
    def points_per_unit(self) -> float:
        """Points per unit of the linear predictor."""
        widest = max(t.width for t in self.terms)
        if widest == 0:
            raise UsageError("every coefficient is 0, so the nomogram has no axis")
        return 100 / widest

    def points(self, term: NomogramTerm, value: float) -> float:
        """Return the points of a value; 0 at the low-risk end of the axis."""
        lowest = term.coefficient * (term.low if term.coefficient >= 0 else term.high)
        return (term.coefficient * value - lowest) * self.points_per_unit

    def total(self, values: Mapping[str, float]) -> float:
        """Return the sum of points.

        Raises
        ------
        UsageError
            If a predictor's value is missing.
        """
        missing = [t.name for t in self.terms if t.name not in values]
        if missing:
            raise UsageError(f"the nomogram needs {', '.join(missing)}")
        return sum(self.points(t, values[t.name]) for t in self.terms)

    def linear_predictor(self, total: float) -> float:
        """Return the linear predictor for a sum of points."""
        lowest = sum(t.coefficient * (t.low if t.coefficient >= 0 else t.high) for t in self.terms)
        return self.intercept + lowest + total / self.points_per_unit

    def probability(self, total: float, time: str | None = None) -> float:
        """Return the probability for a sum of points.

        Parameters
        ----------
        total
            Sum of points.
        time
            For a hazards model: one of its times; the result is the probability of the event by then.
        """
        eta = self.linear_predictor(total)
        if self.baseline_survival is None:
            return float(1 / (1 + np.exp(-eta)))
        if time not in self.baseline_survival:
            raise UsageError(f"time: expected one of {', '.join(self.baseline_survival)}, got {time}")
        return float(1 - self.baseline_survival[time] ** np.exp(eta))

    def total_for(self, probability: float, time: str | None = None) -> float:
        """Return the sum of points at which a probability is reached; the inverse of :meth:`probability`."""
        if not 0 < probability < 1:
            raise UsageError(f"probability: expected between 0 and 1, got {probability}")
        if self.baseline_survival is None:
            eta = float(np.log(probability / (1 - probability)))
        elif time in self.baseline_survival:
            eta = float(np.log(np.log1p(-probability) / np.log(self.baseline_survival[time])))
        else:
            raise UsageError(f"time: expected one of {', '.join(self.baseline_survival)}, got {time}")
        return (eta - self.linear_predictor(0.0)) * self.points_per_unit


_PROBABILITIES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def draw_nomogram(nomogram: Nomogram, *, title: str = "") -> Figure:
    """Plot the nomogram in the usual layout: points at the top, predictors, total points, probabilities at the bottom.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to a window; save it with ``savefig``.
    """
    from matplotlib.figure import Figure

    reach = sum(nomogram.points(t, t.high if t.coefficient >= 0 else t.low) for t in nomogram.terms)
    times: Sequence[str | None] = [None] if nomogram.baseline_survival is None else list(nomogram.baseline_survival)
    rows = len(nomogram.terms) + 2 + len(times)
    figure = Figure(figsize=(10, 0.75 * rows + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(-30, 104)
    axes.set_ylim(-rows + 0.3, 0.9)
    axes.axis("off")
    if title:
        axes.set_title(title, fontsize=12)

    def rule(
        row: int, name: str, places: NDArray[np.float64], labels: Sequence[str], *, ends: tuple[float, float]
    ) -> None:
        axes.plot(ends, [-row, -row], color="black", linewidth=1)
        axes.text(-3, -row, name, ha="right", va="center", fontsize=10)
        last, reached = -np.inf, ""
        for place, label in sorted(zip(places, labels, strict=True)):
            axes.plot([place, place], [-row, -row + 0.12], color="black", linewidth=0.8)
            # Labels that would overlap are omitted; the tick stays.  A character is about 0.8 points wide.
            if place - last > 0.4 * (len(reached) + len(label)) + 0.8:
                axes.text(place, -row + 0.17, label, ha="center", va="bottom", fontsize=8)
                last, reached = place, label

    def totals(points: float) -> float:
        return 100 * points / reach

    ticks = np.arange(0, 101, 10, dtype=float)
    rule(0, "Points", ticks, [f"{v:g}" for v in ticks], ends=(0, 100))
    for row, term in enumerate(nomogram.terms, start=1):
        if term.labels:
            values, labels = np.asarray([v for _, v in term.labels], float), [n for n, _ in term.labels]
        else:
            values = _round_values(term.low, term.high)
            labels = [f"{v:g}" for v in values]
        places = np.asarray([nomogram.points(term, float(v)) for v in values])
        span = sorted((nomogram.points(term, term.low), nomogram.points(term, term.high)))
        rule(row, term.name, places, labels, ends=(span[0], span[1]))
    row = len(nomogram.terms) + 1
    steps = _round_values(0, reach)
    rule(row, "Total points", np.asarray([totals(v) for v in steps]), [f"{v:g}" for v in steps], ends=(0, 100))
    for time in times:
        row += 1
        shown = [p for p in _PROBABILITIES if 0 <= nomogram.total_for(p, time) <= reach]
        places = np.asarray([totals(nomogram.total_for(p, time)) for p in shown])
        name = nomogram.outcome if time is None else f"{nomogram.outcome}, {time}"
        ends = (float(places.min()), float(places.max())) if len(places) else (0.0, 0.0)
        rule(row, name, places, [f"{p:g}" for p in shown], ends=ends)
    axes.text(-30, -rows + 0.42, "Research use only", fontsize=8, color="0.4")
    return figure


def _round_values(low: float, high: float) -> NDArray[np.float64]:
    """Return five to ten round numbers within a range, including its ends if round."""
    step = 10 ** np.floor(np.log10((high - low) / 5))
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= 10:
            step *= factor
            break
    first = np.ceil(low / step - 1e-9) * step
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return np.asarray(np.round(np.arange(first, high + step * 1e-6, step), 10) + 0.0, float)

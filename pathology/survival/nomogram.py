"""A Cox model as a scale of points: read a value, add the points, read the survival (Iasonos 2008, JCO 26:1364).

The covariate with the widest effect over its range spans 100 points; everybody's points are then the linear predictor
up to one factor and one constant, so that the nomogram and the model say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.survival.models.base import FittedModel
from pathology.survival.models.cox import CoxModel

__all__ = ["SurvivalNomogram", "SurvivalNomogramAxis", "make_nomogram"]


class SurvivalNomogramAxis(Record):
    """One covariate's axis."""

    column: str
    marks: tuple[str, ...]
    """Marks on the axis: numbers or levels."""
    points: tuple[float, ...]
    """Points of each mark, 0 to 100."""


class SurvivalNomogram(Record):
    """Axes of points and the meaning of their total."""

    axes: tuple[SurvivalNomogramAxis, ...]
    log_hazard_per_point: float
    log_hazard_at_zero: float
    """Linear predictor (against the mean training patient) of a total of 0."""
    survival: dict[str, tuple[tuple[float, float], ...]]
    """By time: pairs of total points and probability of being without the event."""

    def total(self, values: Mapping[str, float | str]) -> float:
        """Return the points of a patient.

        Parameters
        ----------
        values
            A number or a level for every axis; numbers between marks are interpolated, beyond them extrapolated.

        Raises
        ------
        UsageError
            A value is missing or no mark of its axis.
        """
        total = 0.0
        for axis in self.axes:
            if axis.column not in values:
                raise UsageError(f"'{axis.column}' is missing", remedy="Give a value for every axis of the nomogram")
            value = values[axis.column]
            if isinstance(value, str):
                if value not in axis.marks:
                    raise UsageError(f"'{axis.column}' is '{value}', expected {', '.join(axis.marks)}")
                total += axis.points[axis.marks.index(value)]
            else:
                marks = np.array([float(v) for v in axis.marks])
                slope = (axis.points[-1] - axis.points[0]) / (marks[-1] - marks[0])
                total += axis.points[0] + slope * (value - marks[0])
        return total

    def log_hazard(self, values: Mapping[str, float | str]) -> float:
        """Return the linear predictor that a patient's points stand for."""
        return self.log_hazard_at_zero + self.log_hazard_per_point * self.total(values)


def make_nomogram(
    fitted: FittedModel, training: pd.DataFrame, times: Mapping[str, float], *, marks: int = 6
) -> SurvivalNomogram:
    """Turn a Cox model into a nomogram.

    Parameters
    ----------
    fitted
        A fitted :class:`~pathology.survival.models.cox.CoxModel`.
    training
        Its training patients: the range of an axis is theirs.
    times
        Times to read off, by name, such as ``{"3 years": 1095.75}``.
    marks
        Marks wanted on an axis of numbers.

    Raises
    ------
    UsageError
        The model is no Cox model, or has no effect at all.
    """
    model, preparation = fitted.model, fitted.preparation
    if not isinstance(model, CoxModel):
        raise UsageError(f"a nomogram needs a Cox model, and this is '{model.kind}'")
    effect = dict(zip(preparation.names, model.coefficients, strict=True))
    axes: list[tuple[str, tuple[str, ...], npt.NDArray[np.float64]]] = []
    for column in preparation.settings.numeric:
        if column not in effect:
            continue
        known = pd.to_numeric(training[column], errors="coerce").dropna()
        at = _round_marks(float(known.min()), float(known.max()), marks)
        axes.append((column, tuple(f"{v:g}" for v in at), at * effect[column] / preparation.scale_of(column)))
    for column, levels in preparation.levels.items():
        shown = (preparation.reference[column], *levels)
        values = np.array([0.0, *(effect[f"{column}={level}"] for level in levels)])
        axes.append((column, shown, values))
    widest = max((float(np.ptp(values)) for _, _, values in axes), default=0.0)
    if widest <= 0:
        raise UsageError("no covariate of the model has an effect, so there is nothing to draw")
    per_point = widest / 100
    points = {column: (values - values.min()) / per_point for column, _, values in axes}
    # What a total of zero means: everybody at the least of every axis, on the model's own scale.
    base = _at_zero(fitted, training, axes)
    top = sum(float(p.max()) for p in points.values())
    grid = np.linspace(0, top, 201)
    baseline = -np.log(np.clip(_baseline(model, list(times.values())), 1e-300, 1))
    survival = {
        name: tuple((float(g), float(np.exp(-hazard * np.exp(base + per_point * g)))) for g in grid)
        for (name, _), hazard in zip(times.items(), baseline, strict=True)
    }
    return SurvivalNomogram(
        axes=tuple(
            SurvivalNomogramAxis(column=column, marks=shown, points=tuple(float(p) for p in points[column]))
            for column, shown, _ in axes
        ),
        log_hazard_per_point=per_point,
        log_hazard_at_zero=base,
        survival=survival,
    )


def _at_zero(
    fitted: FittedModel, training: pd.DataFrame, axes: Sequence[tuple[str, tuple[str, ...], npt.NDArray[np.float64]]]
) -> float:
    least = training.iloc[[0]].copy()
    for column, shown, values in axes:
        mark = shown[int(np.argmin(values))]
        least[column] = float(mark) if column in fitted.preparation.settings.numeric else mark
    return float(fitted.model.predict_risk(fitted.preparation.transform(least))[0])


def _baseline(model: CoxModel, times: Sequence[float]) -> npt.NDArray[np.float64]:
    """Survival of the mean training patient."""
    mean = np.asarray(model.centre, dtype=float)[None, :]
    return np.asarray(model.predict_survival(mean, times)[0], dtype=float)


def _round_marks(low: float, high: float, wanted: int) -> npt.NDArray[np.float64]:
    """Round numbers that span a range: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(wanted - 1, 1)
    power = 10 ** np.floor(np.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return np.asarray(np.arange(first, last + 1) * step, dtype=float)

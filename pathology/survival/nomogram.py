"""Nomogram of a Cox model (Iasonos 2008, JCO 26:1364).

The covariate with the largest effect over its range spans 100 points; total points are a linear function of the linear
predictor, so that the nomogram and the model agree.
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
    """Axis of one covariate."""

    column: str
    marks: tuple[str, ...]
    """Axis marks: numbers or levels."""
    points: tuple[float, ...]
    """Points of each mark, 0 to 100."""


class SurvivalNomogram(Record):
    """Point axes and the survival scale of the total points."""

    axes: tuple[SurvivalNomogramAxis, ...]
    log_hazard_per_point: float
    log_hazard_at_zero: float
    """Linear predictor (relative to the mean training patient) at 0 total points."""
    survival: dict[str, tuple[tuple[float, float], ...]]
    """By time: pairs of total points and event-free probability."""

    def total(self, values: Mapping[str, float | str]) -> float:
        """Return the total points of a patient.

        Parameters
        ----------
        values
            A number or level for every axis; numbers are interpolated between marks and extrapolated beyond.

        Raises
        ------
        UsageError
            A value is missing or is not a level of its axis.
        """
        total = 0.0
        for axis in self.axes:
            if axis.column not in values:
                raise UsageError(f"'{axis.column}' is missing", remedy="Supply a value for every axis of the nomogram")
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
        """Return the linear predictor that corresponds to a patient's points."""
        return self.log_hazard_at_zero + self.log_hazard_per_point * self.total(values)


def make_nomogram(
    fitted: FittedModel, training: pd.DataFrame, times: Mapping[str, float], *, marks: int = 6
) -> SurvivalNomogram:
    """Create a nomogram from a Cox model.

    Parameters
    ----------
    fitted
        A fitted :class:`~pathology.survival.models.cox.CoxModel`.
    training
        Training patients, which define the axis ranges.
    times
        Prediction times by name, such as ``{"3 years": 1095.75}``.
    marks
        Approximate number of marks on a numeric axis.

    Raises
    ------
    UsageError
        The model is not a Cox model, or all effects are zero.
    """
    model, preparation = fitted.model, fitted.preparation
    if not isinstance(model, CoxModel):
        raise UsageError(f"a nomogram requires a Cox model, got '{model.kind}'")
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
        raise UsageError("all coefficients of the model are zero: no nomogram")
    per_point = widest / 100
    points = {column: (values - values.min()) / per_point for column, _, values in axes}
    # Linear predictor at zero points: the lowest value of every axis.
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
    """Return round axis marks for a range, in steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / max(wanted - 1, 1)
    power = 10 ** np.floor(np.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return np.asarray(np.arange(first, last + 1) * step, dtype=float)

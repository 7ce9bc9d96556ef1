"""Calibration of a binary model: reliability of predicted probabilities, and their correction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.intervals import Interval, wilson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CalibrationGroup", "LogisticCalibration", "calibration_groups", "draw_calibration", "fit_calibration"]


class LogisticCalibration(Record):
    """Cox's calibration line (Cox 1958): observed log odds = ``intercept + slope x`` predicted log odds.

    A slope below 1 means predictions are too extreme, a sign of overfitting.
    """

    intercept: float
    slope: float

    def apply(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Convert scores (log odds) to probabilities."""
        return np.asarray(1 / (1 + np.exp(-(self.intercept + self.slope * np.asarray(scores, float)))), float)


class CalibrationGroup(Record):
    """Patients with similar predictions."""

    predicted: float
    """Mean predicted probability."""
    observed: Interval
    """Observed proportion with Wilson's interval."""


def fit_calibration(
    labels: NDArray[np.integer], scores: NDArray[np.floating], *, penalty: float = 0.0
) -> LogisticCalibration:
    """Fit the calibration line.

    Parameters
    ----------
    labels
        0 or 1, length N.
    scores
        Log odds, or any score that increases with them, shape (N,).
    penalty
        Ridge penalty on the slope of the standardised score; use above 0 if scores may separate the classes.

    Raises
    ------
    UsageError
        Only one class, or constant scores.
    """
    from sklearn.linear_model import LogisticRegression  # not in the base installation, which only applies a fit

    truth, values = np.asarray(labels), np.asarray(scores, float)
    if len(set(truth.tolist())) < 2 or float(values.std()) == 0:
        raise UsageError("a calibration line needs both classes and scores that vary")
    scale = float(values.std())
    strength = 1e10 if penalty == 0 else 1 / penalty  # effectively no penalty
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(values[:, None] / scale, truth)
    return LogisticCalibration(intercept=float(model.intercept_[0]), slope=float(model.coef_[0, 0]) / scale)


def calibration_groups(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], *, groups: int = 4
) -> tuple[CalibrationGroup, ...]:
    """Compare predicted and observed proportions in equal-sized groups, ordered by prediction."""
    order = np.argsort(probabilities, kind="stable")
    return tuple(
        CalibrationGroup(
            predicted=float(np.mean(probabilities[rows])), observed=wilson(int(np.sum(labels[rows])), len(rows))
        )
        for rows in np.array_split(order, min(groups, len(order)))
    )


def draw_calibration(models: dict[str, tuple[CalibrationGroup, ...]], *, title: str = "") -> Figure:
    """Plot observed against predicted proportions with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for number, (name, groups) in enumerate(models.items()):
        # Offset, so that intervals of different models do not overlap.
        x = [g.predicted + 0.008 * number for g in groups]
        y = [g.observed.value for g in groups]
        below = [max(0.0, g.observed.value - g.observed.low) for g in groups]
        above = [max(0.0, g.observed.high - g.observed.value) for g in groups]
        axes.errorbar(x, y, [below, above], marker="o", capsize=3, linewidth=1.2, label=name)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("Predicted probability")
    axes.set_ylabel("Observed proportion, 95 % interval")
    axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, fontsize=12)
    return figure

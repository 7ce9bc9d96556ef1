"""Decision curves for a binary outcome (Vickers and Elkin 2006, doi 10.1177/0272989X06295361)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.settings import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DecisionCurve", "decision_curve", "draw_decision_curves"]


class DecisionCurve(Record):
    """Net benefit by threshold."""

    patients: int
    thresholds: tuple[float, ...]
    """Threshold probabilities for acting, 0 to 1."""
    model: tuple[float, ...]
    """Net benefit of acting on the model."""
    treat_all: tuple[float, ...]
    """Net benefit of acting on everyone; acting on no one has net benefit 0."""


def decision_curve(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], thresholds: Sequence[float] | None = None
) -> DecisionCurve:
    """Return the net benefit ``TP/n - FP/n x q/(1-q)`` of acting if the probability is at least q.

    Parameters
    ----------
    labels
        0 or 1, length N.
    probabilities
        Calibrated probabilities of class 1, shape (N,).
    thresholds
        Between 0 and 1 (exclusive); 0.01 to 0.99 by default.

    Raises
    ------
    UsageError
        Lengths differ, or values are out of range.

    Examples
    --------
    >>> curve = decision_curve(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9]), thresholds=[0.5])
    >>> curve.model
    (0.5,)
    """
    truth, p = np.asarray(labels), np.asarray(probabilities, float)
    q = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds, float)
    if truth.shape != p.shape or truth.ndim != 1 or not np.isin(truth, (0, 1)).all():
        raise UsageError(f"labels have shape {truth.shape} for probabilities of shape {p.shape}, expected 0 and 1")
    if p.size and (p.min() < 0 or p.max() > 1):
        raise UsageError("a decision curve needs probabilities between 0 and 1, not scores", remedy="Calibrate first")
    if q.min() <= 0 or q.max() >= 1:
        raise UsageError("thresholds must lie between 0 and 1, both excluded")
    n = len(truth)
    model = [float(((p >= v) & (truth == 1)).sum() / n - ((p >= v) & (truth == 0)).sum() / n * v / (1 - v)) for v in q]
    share = float(truth.mean())
    return DecisionCurve(
        patients=n,
        thresholds=tuple(float(v) for v in q),
        model=tuple(model),
        treat_all=tuple(float(share - (1 - share) * v / (1 - v)) for v in q),
    )


def draw_decision_curves(curves: dict[str, DecisionCurve], *, title: str = "") -> Figure:
    """Plot the curves of several models on the same patients, with treat-all and treat-none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot()
    first = next(iter(curves.values()))
    for name, curve in curves.items():
        axes.plot(curve.thresholds, curve.model, linewidth=1.8, label=name)
    axes.plot(first.thresholds, first.treat_all, color="0.45", linewidth=1, linestyle="--", label="act on all")
    axes.axhline(0, color="black", linewidth=1, label="act on none")
    highest = max(max(c.model) for c in curves.values())
    axes.set_ylim(-0.05, max(highest, first.treat_all[0]) * 1.15 + 0.01)
    axes.set_xlim(0, 1)
    axes.set_xlabel("Threshold probability")
    axes.set_ylabel(f"Net benefit (n = {first.patients})")
    axes.legend(frameon=False, fontsize=9)
    if title:
        axes.set_title(title, fontsize=12)
    return figure

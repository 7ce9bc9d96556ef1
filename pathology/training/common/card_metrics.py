"""Metrics of a model card, and the area under the ROC curve of a cross-validation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.card import Metric
from pathology.stats.conformal import Coverage
from pathology.stats.intervals import Interval

__all__ = ["auc_by_fold", "interval_metric", "trust_metrics"]

Rows = NDArray[np.int64]


def interval_metric(metric: str, interval: Interval, *, unit: str, data: str, note: str = "") -> Metric:
    """Convert an interval to a card metric; without a valid interval, the value is omitted and the note says why."""
    if not all(map(math.isfinite, (interval.value, interval.low, interval.high))):
        value = "it is not defined" if not math.isfinite(interval.value) else f"it is {interval.value:.3f}"
        reason = f"No interval available ({interval.method}); {value} on these {unit}."
        return Metric(
            metric=metric,
            value=None,
            interval=None,
            method=interval.method,
            n=interval.n,
            unit=unit,
            data=data,
            note=f"{note} {reason}".strip(),
        )
    if interval.low == interval.high:
        note = f"{note} The interval has zero width because all resamples agree; this does not imply certainty.".strip()
    return Metric(
        metric=metric,
        value=round(interval.value, 4),
        interval=(round(interval.low, 4), round(interval.high, 4)),
        method=interval.method,
        n=interval.n,
        unit=unit,
        data=data,
        note=note,
    )


def trust_metrics(
    covered: Coverage | None, alarms: Interval | None, data: str, *, coverage: float, rate: float
) -> list[Metric]:
    """Return the coverage of the prediction sets and the out-of-distribution rate on the test slides."""
    metrics = []
    if covered is not None:
        metrics.append(
            Metric(
                metric=f"coverage of the prediction sets, by patient (nominal: {coverage:.0%})",
                value=round(covered.share, 4),
                interval=(round(covered.interval[0], 4), round(covered.interval[1], 4)),
                method="Wilson",
                n=covered.n,
                unit="patients",
                data=data,
                note=f"One slide per patient. Mean size {covered.mean_size:.2f}; single class {covered.single:.0%}.",
            )
        )
    if alarms is not None:
        metrics.append(
            interval_metric(
                f"fraction of slides flagged out of distribution (nominal: at most {rate:.0%})",
                alarms,
                unit="slides",
                data=data,
            )
        )
    return metrics


def auc_by_fold(truth: Rows, scores: NDArray[np.float64], fold: Rows) -> Callable[[Rows], float]:
    """Return a statistic of rows for :func:`pathology.stats.bootstrap`: AUC within each fold, averaged.

    Scores of networks of different folds are not comparable, and pooling them makes even useless ones differ from 0.5.

    Parameters
    ----------
    truth
        Class numbers, ``(N,)``.
    scores
        ``(N, C)``, higher for the class.
    fold
        Fold each row was tested in, ``(N,)``.
    """

    def figure(rows: Rows) -> float:
        inside = [rows[fold[rows] == number] for number in np.unique(fold)]
        areas = [area for r in inside if len(r) and np.isfinite(area := _macro_auc(truth[r], scores[r]))]
        return float(np.mean(areas)) if areas else float("nan")

    return figure


def _macro_auc(truth: Rows, scores: NDArray[np.float64]) -> float:
    """Return the mean area of the classes present, by ranks: called a hundred thousand times by a bootstrap."""
    from scipy.stats import rankdata

    sizes = np.bincount(truth, minlength=scores.shape[1])
    present = np.flatnonzero((sizes > 0) & (sizes < len(truth)))
    if not len(present):
        return float("nan")
    ranks = rankdata(scores, axis=0)
    sums = np.array([ranks[truth == c, c].sum() for c in present])
    inside = sizes[present]
    return float(np.mean((sums - inside * (inside + 1) / 2) / (inside * (len(truth) - inside))))

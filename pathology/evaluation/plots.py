"""Evaluation plots: training curves, confusion matrix, ROC, precision-recall, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from pathology.evaluation.classifier import LevelReport
from pathology.evaluation.history import EpochRecord
from pathology.stats.intervals import Interval
from pathology.stats.temperature_scaling import reliability

__all__ = ["draw_confusion", "draw_curves", "draw_precision_recall", "draw_reliability", "draw_roc"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colour-blind-safe palette of Okabe and Ito."""

_LINES = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)))
"""Line styles that keep overlapping curves visible."""

_FAR = 20
"""Losses above this multiple of the median switch the plot to a logarithmic scale."""

Floats = NDArray[np.float64]


def draw_curves(history: Sequence[EpochRecord], *, title: str = "") -> Figure:
    """Draw loss and validation accuracy by epoch, with stage boundaries and the selected epoch."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = np.arange(1, len(history) + 1)
    left.plot(at, [r.loss for r in history], color=_COLOURS[0], marker="o", ms=3, label="training")
    left.plot(at, [r.validation_loss for r in history], color=_COLOURS[1], marker="s", ms=3, label="validation")
    right.plot(at, [r.validation_accuracy for r in history], color=_COLOURS[1], marker="s", ms=3)
    chosen = max(i for i, r in enumerate(history) if r.best) + 1
    for axes in (left, right):
        axes.axvline(chosen, color="#777777", linewidth=0.8, linestyle=":")
        for i, (before, after) in enumerate(pairwise(history)):
            if before.stage != after.stage:
                axes.axvline(i + 1.5, color="#bbbbbb", linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("loss (nats; training loss class-weighted)")
    losses = [value for r in history for value in (r.loss, r.validation_loss)]
    if max(losses) > _FAR * max(float(np.median(losses)), 1e-12):
        # Batch-norm statistics are unreliable in the first epochs; their validation loss would flatten the others.
        left.set_yscale("log")
    else:
        left.set_ylim(bottom=0)
    left.legend(frameon=False)
    right.set_ylabel("validation accuracy (patches)")
    right.set_ylim(0, 1.02)
    late = chosen > len(history) / 2
    right.annotate(
        "chosen",
        (chosen, 0.02),
        xytext=(-3 if late else 3, 0),
        textcoords="offset points",
        ha="right" if late else "left",
        fontsize=8,
        color="#555555",
    )
    figure.suptitle(title, fontsize=10)
    return figure


def draw_confusion(report: LevelReport, *, title: str = "") -> Figure:
    """Draw the confusion matrix: counts, shaded by the fraction of the true class."""
    matrix = np.array(report.report.confusion)
    classes = report.report.classes
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.62 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix):
        axes.text(j, i, str(count), ha="center", va="center", color="white" if share[i, j] > 0.55 else "black")
    axes.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), [f"{name} (n = {matrix[i].sum()})" for i, name in enumerate(classes)])
    axes.set_xlabel(f"predicted class, by {report.level}")
    axes.set_ylabel("truth")
    axes.set_title(title, fontsize=10)
    return figure


def draw_roc(truth: NDArray[np.integer], scores: Floats, report: LevelReport, *, title: str = "") -> Figure:
    """Draw one-vs-rest ROC curves, with AUC, interval and n in the legend."""
    figure, axes = _square("1 - specificity", "sensitivity", title)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    for c, name in enumerate(report.report.classes):
        positive = np.asarray(truth) == c
        if 0 < positive.sum() < len(positive):
            fpr, tpr, _ = roc_curve(positive, scores[:, c])
            area = report.report.auc[name]
            label = _legend(name, area, int(positive.sum()))
            axes.plot(fpr, tpr, color=_COLOURS[c % len(_COLOURS)], linestyle=_LINES[c % len(_LINES)], label=label)
    axes.legend(loc="lower right", fontsize=7, frameon=False, title="AUC (95 % CI), positives", title_fontsize=7)
    return figure


def draw_precision_recall(
    truth: NDArray[np.integer], scores: Floats, report: LevelReport, *, title: str = ""
) -> Figure:
    """Draw one-vs-rest precision-recall curves with average precision; dotted line: chance."""
    figure, axes = _square("recall", "precision", title)
    for c, name in enumerate(report.report.classes):
        positive = np.asarray(truth) == c
        if 0 < positive.sum() < len(positive):
            precision, recall, _ = precision_recall_curve(positive, scores[:, c])
            area = report.average_precision[name]
            colour = _COLOURS[c % len(_COLOURS)]
            label = _legend(name, area, int(positive.sum()))
            axes.step(recall, precision, where="post", color=colour, linestyle=_LINES[c % len(_LINES)], label=label)
            axes.axhline(positive.mean(), color=colour, linewidth=0.8, linestyle=":")
    axes.legend(
        loc="lower left", fontsize=7, frameon=False, title="average precision (95 % CI), positives", title_fontsize=7
    )
    return figure


def draw_reliability(
    truth: NDArray[np.integer], before: Floats, after: Floats | None = None, *, bins: int = 10, title: str = ""
) -> Figure:
    """Draw a reliability diagram: accuracy of the predicted class against confidence; marker area shows bin size.

    Parameters
    ----------
    truth
        Class numbers, length N.
    before, after
        ``(N, C)`` probabilities before and after temperature scaling; ``None``: one set only.
    bins
        Number of equal-width confidence bins.
    title
        Plot title.
    """
    figure, axes = _square("confidence (probability of the predicted class)", "accuracy", title)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    sets = (
        [("", before)]
        if after is None
        else [("before temperature scaling, ", before), ("after temperature scaling, ", after)]
    )
    for i, (name, p) in enumerate(sets):
        filled = [b for b in reliability(np.asarray(truth), p, bins=bins) if b.n]
        x = np.array([b.confidence for b in filled], float)
        y = np.array([b.accuracy for b in filled], float)
        size = np.array([b.n for b in filled]) / len(p)
        axes.plot(x, y, color=_COLOURS[i], linewidth=1, alpha=0.7)
        axes.scatter(x, y, s=12 + 160 * size, color=_COLOURS[i], alpha=0.7, clip_on=False, label=f"{name}n = {len(p)}")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return figure


def _legend(name: str, area: Interval, positive: int) -> str:
    known = np.isfinite(area.low) and area.low < area.high
    interval = f"{area.low:.2f} to {area.high:.2f}" if known else "no interval"
    return f"{name}: {area.value:.2f} ({interval}), n = {positive}"


def _square(across: str, up: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.02)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=10)
    return figure, axes

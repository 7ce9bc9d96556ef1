"""The evaluation report: several evaluations of one model side by side, with figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pathology.bundle.card import Metric
from pathology.evaluation.classifier import Evaluation, SlidePrediction, slide_scores
from pathology.evaluation.history import EpochRecord
from pathology.evaluation.plots import (
    draw_confusion,
    draw_curves,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from pathology.formatting import RESEARCH_USE_ONLY
from pathology.reports.page import Cell, Picture, Section, Table, picture, write_report
from pathology.stats.intervals import Interval
from pathology.stats.temperature_scaling import tempered

__all__ = ["evaluation_pictures", "metrics_section", "side_by_side", "write_evaluation_report"]


def evaluation_pictures(
    folder: Path,
    evaluation: Evaluation,
    predictions: Sequence[SlidePrediction],
    *,
    rule: str = "mean",
    temperature: float | None = None,
) -> tuple[Picture, ...]:
    """Draw the confusion matrix, ROC, precision-recall and calibration plots of one evaluation.

    Parameters
    ----------
    folder
        Output folder for SVG and PNG files, named after the evaluation.
    evaluation
        Metrics of ``predictions``.
    predictions
        The slides.
    rule
        Slide aggregation rule.
    temperature
        Temperature applied to the patch probabilities; calibration is also drawn without.  ``None``: none or several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = np.array([finding.label for finding in predictions])
    scores = slide_scores(predictions, rule)
    slide, name = evaluation.at("slide", rule), evaluation.name
    readable = [f.patches[~np.isnan(f.patches).any(axis=1)] for f in predictions]
    patches = np.concatenate(readable).astype(np.float64)
    labels = np.repeat(truth, [len(p) for p in readable])
    before, after = (patches, None) if temperature is None else (tempered(patches, 1 / temperature), patches)
    about = f"{name}: {evaluation.slides} slides, {evaluation.patients} patients"
    return (
        picture(draw_confusion(slide, title=about), folder / f"{name}-confusion", f"Confusion matrix, {about}"),
        picture(draw_roc(truth, scores, slide, title=about), folder / f"{name}-roc", f"ROC by slide, {about}"),
        picture(
            draw_precision_recall(truth, scores, slide, title=about),
            folder / f"{name}-precision-recall",
            f"Precision and recall by slide, {about}; dotted line: chance",
        ),
        picture(
            draw_reliability(truth, scores, title=f"{about}, by slide"),
            folder / f"{name}-calibration",
            f"Calibration by slide, {about}",
        ),
        picture(
            draw_reliability(labels, before, after, title=f"{about}, by patch"),
            folder / f"{name}-calibration-patches",
            f"Calibration by patch, {about}; the label of a patch is its slide's",
        ),
    )


_RULES = {
    "mean": "mean patch probability",
    "share": "fraction of patches predicted as each class",
    "majority": "majority class of the patches",
    "top": "ten most confident patches of each class",
    "model": "the model's own aggregator",
    "none": "single patches, labelled as their slide",
}


def side_by_side(evaluations: Sequence[Evaluation]) -> tuple[Section, ...]:
    """Return the tables: one row per metric, one column per evaluation, each value with n.

    Raises
    ------
    IndexError
        If there is none.
    """
    classes = evaluations[0].classes
    head = ("Metric", *(f"{e.name} ({e.slides} slides, {e.patients} patients)" for e in evaluations))
    sections = [
        Section(
            heading="Evaluations",
            table=Table(
                head=("name", "data"),
                rows=tuple((Cell(value=e.name), Cell(value=e.data)) for e in evaluations),
            ),
            note="Research use only.",
        )
    ]
    wanted = [(report.level, report.rule) for report in evaluations[0].levels]
    for level, rule in wanted:
        found = [e.at(level, rule) for e in evaluations if (level, rule) in [(r.level, r.rule) for r in e.levels]]
        if len(found) < len(evaluations):
            continue
        rows = [
            _row("accuracy", [f.report.accuracy for f in found]),
            _row("balanced accuracy", [f.report.balanced_accuracy for f in found]),
            _row("mean AUC", [f.report.macro_auc for f in found]),
            _row("expected calibration error", [f.report.calibration_error for f in found]),
        ]
        for name in classes:
            sizes = [f.report.support[name] for f in found]
            rows.append(_row(f"AUC, {name}", [f.report.auc[name] for f in found], sizes))
            rows.append(_row(f"average precision, {name}", [f.average_precision[name] for f in found], sizes))
            rows.append(_row(f"recall, {name}", [f.report.recall[name] for f in found], sizes))
            if all(name in f.sensitivity for f in found):
                rows.append(_row(f"sensitivity at the threshold, {name}", [f.sensitivity[name] for f in found], sizes))
                rows.append(_row(f"specificity at the threshold, {name}", [f.specificity[name] for f in found], sizes))
        sections.append(
            Section(heading=f"By {level}: {_RULES.get(rule, rule)}", table=Table(head=head, rows=tuple(rows)))
        )
    return tuple(sections)


def _row(name: str, values: Sequence[Interval], sizes: Sequence[int] | None = None) -> tuple[Cell, ...]:
    cells = [Cell(value=name)]
    for number, value in enumerate(values):
        positive = f", {sizes[number]} of this class" if sizes is not None else ""
        if not math.isfinite(value.value):
            cells.append(Cell(value="not defined", ci=f"n = {value.n}{positive}"))
            continue
        if not math.isfinite(value.low):
            interval = "no interval, "
        elif value.low == value.high:
            interval = "no interval: all resamples agree, "
        else:
            interval = f"{value.low:.3f} to {value.high:.3f}, "
        cells.append(Cell(value=f"{value.value:.3f}", ci=f"{interval}n = {value.n}{positive}"))
    return tuple(cells)


def metrics_section(heading: str, metrics: Sequence[Metric]) -> Section:
    """Return the metrics of a card as a table; a metric without a value shows its note."""
    rows = []
    for figure in metrics:
        name = Cell(value=figure.metric)
        if figure.value is None or figure.interval is None:
            rows.append((name, Cell(value="not available", ci=figure.note)))
            continue
        low, high = figure.interval
        interval = f"{low:.3f} to {high:.3f}" if low < high else "no interval: all resamples agree"
        rows.append((name, Cell(value=f"{figure.value:.3f}", ci=f"{interval}, n = {figure.n} {figure.unit}")))
    return Section(heading=heading, table=Table(head=("Metric", "Value"), rows=tuple(rows)))


def write_evaluation_report(
    path: Path,
    title: str,
    evaluations: Sequence[Evaluation],
    pictures: Sequence[Picture],
    *,
    rule: str = "mean",
    history: Sequence[EpochRecord] = (),
    extra: Sequence[Section] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Write the report.

    Parameters
    ----------
    path
        The HTML file; training figures are saved next to it.
    title
        Page title.
    evaluations
        At least one; shown side by side.
    pictures
        From :func:`evaluation_pictures`.
    rule
        The model's aggregation rule: its tables precede the figures, those of the other rules follow them.
    history
        Training epochs to plot; empty: no training section.
    extra
        Additional sections, such as survival.
    warnings
        Warnings, shown first.
    """
    about, *tables = side_by_side(evaluations)
    its_own = [t for t in tables if t.heading.endswith(f": {_RULES.get(rule, rule)}")]
    sections = [about, *reversed(its_own)]
    shown = list(pictures)
    if history:
        best = next(i for i in reversed(range(len(history))) if history[i].best)
        shown.insert(0, picture(draw_curves(history), path.parent / "pictures" / "curves", "Training curves"))
        waiting = sum(r.waiting * r.seconds for r in history) / max(1e-9, sum(r.seconds for r in history))
        speed = float(np.median([r.patches_per_second for r in history]))
        sections.append(
            Section(
                heading="Training",
                text=f"{len(history)} epochs of {history[0].steps} steps; epoch {best + 1} was selected. "
                f"{speed:.1f} patches/s (median), {waiting:.0%} of the time waiting for patches.",
            )
        )
    sections.append(Section(heading="Pictures", pictures=tuple(shown)))
    sections.extend(extra)
    sections.extend(table for table in tables if table not in its_own)
    subtitle = "; ".join(f"{e.name}: {e.data}" for e in evaluations)
    write_report(path, title, f"{subtitle}. {RESEARCH_USE_ONLY}", sections, warnings=warnings)

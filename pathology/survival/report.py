"""Report sections that compare survival models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathology.reports.page import Cell, Section, Table, picture
from pathology.stats.intervals import Interval
from pathology.survival.crossvalidation import CrossValidation, ModelScore
from pathology.survival.metrics import survival_calibration_groups, survival_decision_curve
from pathology.survival.outcome import Outcome
from pathology.survival.plots import (
    draw_kaplan_meier,
    draw_scores,
    draw_survival_calibration,
    draw_survival_decision_curve,
)

__all__ = ["comparison_sections"]


def comparison_sections(
    result: CrossValidation,
    scores: Mapping[str, ModelScore],
    folder: Path,
    *,
    outcome_name: str,
    unit: float,
    units: str,
) -> list[Section]:
    """Return report sections that compare models by nested cross-validation.

    Parameters
    ----------
    result
        Out-of-fold predictions.
    scores
        Metrics by model.
    folder
        Output folder of the figures.
    outcome_name
        Name of the outcome, such as ``OS``.
    unit, units
        Size and name of the displayed time unit, such as 365.25 and ``years``.
    """
    at = [f"{t / unit:g} {units if t != unit else units.removesuffix('s')}" for t in result.times]
    keys = [f"{t:g}" for t in result.times]
    head = ("Model", "C (Harrell)", "C (Uno)", *(f"AUC, {t}" for t in at), "Integrated Brier")
    rows = tuple(
        (
            Cell(value=name),
            _cell(s.harrell),
            _cell(s.uno),
            *(_cell(s.auc[k]) for k in keys),
            _cell(s.integrated_brier),
        )
        for name, s in scores.items()
    )
    first = next(iter(scores.values()))
    how = result.settings
    figures = Table(head=head, rows=rows)
    middle = int(np.argmin(np.abs(result.times - np.median(result.times))))
    horizon = at[middle]
    calibration = Table(
        head=("Model", *(f"slope, {t}" for t in at), *(f"O/E, {t}" for t in at)),
        rows=tuple(
            (
                Cell(value=name),
                *(Cell(value=_number(s.calibration_slope[k])) for k in keys),
                *(Cell(value=_number(s.observed_to_expected[k])) for k in keys),
            )
            for name, s in scores.items()
        ),
    )
    pooled = {name: _pooled(result, name) for name in scores}
    best = max(scores, key=lambda n: scores[n].harrell.value)
    outcomes, _, groups = pooled[best]
    # At most seven curves are distinguishable; draw those with the highest C.
    drawn = sorted(scores, key=lambda n: -scores[n].harrell.value)[:4]
    # About ten events a group: fewer say nothing about calibration.
    parts = min(5, max(2, outcomes.events // 10))
    return [
        Section(
            heading="Model comparison",
            text=(
                f"{first.patients} patients, {first.events} events. Nested cross-validation: {how.outer} outer folds"
                f"{f', {how.repeats} repeats' if how.repeats > 1 else ''}, {how.inner} inner folds for selection. "
                "Coding, imputation, scaling, settings and cut-offs are fitted on training folds only."
            ),
            table=figures,
            pictures=(
                picture(
                    draw_scores(
                        {outcome_name: {n: _triple(s.harrell) for n, s in scores.items()}},
                        what="C (Harrell)",
                        reference=0.5,
                    ),
                    folder / "scores",
                    f"Harrell's C with its {how.level:.0%} interval; the line marks chance level.".replace("%", " %"),
                ),
            ),
            note=(
                f"Intervals resample patients with fixed predictions: they reflect sampling of test patients, not of "
                f"training patients. The null model (one curve for all) has C 0.5 and an integrated Brier score of "
                f"{first.reference_brier:.3f}."
            ),
        ),
        Section(
            heading="Calibration",
            text="A slope of 1 is ideal; below 1, predictions are too extreme. O/E: observed over expected events.",
            table=calibration,
            pictures=(
                picture(
                    draw_survival_calibration(
                        {
                            n: survival_calibration_groups(
                                pooled[n][0], pooled[n][1][:, middle], float(result.times[middle]), groups=parts
                            )
                            for n in drawn
                        },
                        horizon=horizon,
                    ),
                    folder / "calibration",
                    f"Observed against predicted survival at {horizon}, out-of-fold"
                    + (f"; the {len(drawn)} models with the highest C" if len(drawn) < len(scores) else ""),
                ),
            ),
        ),
        Section(
            heading="Usefulness",
            pictures=(
                picture(
                    draw_survival_decision_curve(
                        {
                            n: survival_decision_curve(
                                pooled[n][0], 1 - pooled[n][1][:, middle], float(result.times[middle])
                            )
                            for n in drawn
                        },
                        horizon=horizon,
                    ),
                    folder / "decision-curve",
                    f"Net benefit at {horizon}, out-of-fold",
                ),
            ),
        ),
        Section(
            heading=f"Risk groups of {best}",
            text="Cut-offs are fitted on the training part of each fold; patients are assigned out-of-fold.",
            pictures=(
                picture(
                    draw_kaplan_meier(
                        outcomes, groups, order=("low", "medium", "high"), what=outcome_name, years=unit == 365.25
                    ),
                    folder / "risk-groups",
                    f"Kaplan-Meier curves by out-of-fold risk group, {best}",
                ),
            ),
            note="The model was selected by C on the same folds, so its curves are slightly optimistic.",
        ),
    ]


def _pooled(result: CrossValidation, name: str) -> tuple[Outcome, Any, list[str]]:
    """Out-of-fold predictions of the first repeat, in fold order."""
    folds = [p for p in result.predictions[name] if p.fold.repeat == 0]
    rows = np.concatenate([p.fold.test for p in folds])
    survival = np.concatenate([p.survival for p in folds])
    return result.outcome.take(rows), survival, [g for p in folds for g in p.groups]


def _cell(interval: Interval) -> Cell:
    return Cell(value=_number(interval.value), ci=f"{_number(interval.low)}–{_number(interval.high)}")


def _triple(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _number(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"

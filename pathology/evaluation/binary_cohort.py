"""A yes-or-no model on other patients, never refitted: discrimination, calibration, usefulness, results by centre."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import optimize
from sklearn.metrics import roc_auc_score

from pathology.errors import UsageError
from pathology.evaluation.survival_cohort import interval_cell
from pathology.reports.page import Cell, Section, Table, picture
from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.decision_curve import decision_curve, draw_decision_curves
from pathology.stats.intervals import Interval, wilson
from pathology.stats.logistic_calibration import calibration_groups, draw_calibration, fit_calibration

__all__ = ["BinaryEvaluation", "BinaryPredictions", "binary_sections", "evaluate_binary"]

Floats = npt.NDArray[np.float64]
_RESAMPLES = 500
"""Bootstrap resamples: the calibration line is fitted anew in each."""
_EXTREME = 1e-6
"""Probabilities are kept this far from 0 and 1, where log odds are infinite."""


@dataclass(frozen=True, eq=False)
class BinaryPredictions:
    """Predicted probabilities for patients the model was not fitted on.

    Attributes
    ----------
    labels
        0 or 1 for each of N patients.
    probabilities
        Of label 1, shape (N,).
    patients
        Patient of each row.
    centres
        Centre of each row; empty if unknown.
    """

    labels: npt.NDArray[np.int64]
    probabilities: Floats
    patients: tuple[str, ...]
    centres: tuple[str, ...] = ()


class BinaryEvaluation(Record):
    """Metrics of a yes-or-no model on another cohort.  Intervals resample patients, or are Wilson's for shares."""

    patients: int
    positive: int
    """Patients with label 1."""
    cut: float
    """Probability from which on label 1 is predicted; fixed beforehand."""
    metrics: dict[str, Interval]
    """By name: area under the ROC curve, Brier score, calibration slope and intercept, observed over expected,
    sensitivity and specificity at the cut-off."""
    centres: dict[str, Interval] = Field(default_factory=dict)
    """Area under the ROC curve by centre; NaN with one class only."""


def evaluate_binary(found: BinaryPredictions, *, cut: float = 0.5, seed: int = 0) -> BinaryEvaluation:
    """Measure probabilities against labels; nothing is fitted to these patients but the calibration line itself.

    Parameters
    ----------
    found
        Labels and probabilities.
    cut
        Cut-off on the model's card.
    seed
        Of the bootstrap.

    Raises
    ------
    UsageError
        If only one class is present.

    Examples
    --------
    >>> labels = np.array([0, 0, 1, 0, 1, 1])
    >>> found = BinaryPredictions(labels, np.array([0.1, 0.3, 0.4, 0.5, 0.6, 0.9]), tuple("abcdef"))
    >>> round(evaluate_binary(found).metrics["area under the ROC curve"].value, 3)
    0.889
    """
    truth, p = found.labels, found.probabilities
    if len(set(truth.tolist())) < 2:
        raise UsageError("all patients of this cohort are of one class; discrimination cannot be measured")
    metrics = {
        name: bootstrap(partial(_measured, found, measure), found.patients, resamples=_RESAMPLES, seed=seed)
        for name, measure in _MEASURES.items()
    }
    called = p >= cut
    metrics[f"sensitivity at {cut:g}"] = wilson(int((called & (truth == 1)).sum()), int((truth == 1).sum()))
    metrics[f"specificity at {cut:g}"] = wilson(int((~called & (truth == 0)).sum()), int((truth == 0).sum()))
    centres = {}
    for centre in sorted(set(found.centres)):
        rows = np.flatnonzero(np.asarray(found.centres) == centre)
        part = BinaryPredictions(truth[rows], p[rows], tuple(found.patients[i] for i in rows))
        centres[centre] = bootstrap(partial(_measured, part, _area), part.patients, resamples=_RESAMPLES, seed=seed)
    return BinaryEvaluation(
        patients=len(set(found.patients)), positive=int(truth.sum()), cut=cut, metrics=metrics, centres=centres
    )


def _log_odds(p: Floats) -> Floats:
    inside = np.clip(p, _EXTREME, 1 - _EXTREME)
    return np.asarray(np.log(inside / (1 - inside)))


def _area(truth: npt.NDArray[np.int64], p: Floats) -> float:
    return float(roc_auc_score(truth, p))


def _slope(truth: npt.NDArray[np.int64], p: Floats) -> float:
    return fit_calibration(truth, _log_odds(p)).slope


def _intercept(truth: npt.NDArray[np.int64], p: Floats) -> float:
    """Calibration in the large: the shift of the log odds that makes expected equal observed events."""
    odds = _log_odds(p)
    return float(optimize.brentq(lambda a: float(np.sum(truth - 1 / (1 + np.exp(-(odds + a))))), -50, 50))


_Measure = Callable[[npt.NDArray[np.int64], Floats], float]
_MEASURES: dict[str, _Measure] = {
    "area under the ROC curve": _area,
    "Brier score": lambda truth, p: float(np.mean((truth - p) ** 2)),
    "calibration slope": _slope,
    "calibration intercept": _intercept,
    "observed / expected": lambda truth, p: float(truth.sum() / p.sum()) if p.sum() > 0 else float("nan"),
}


def _measured(found: BinaryPredictions, measure: _Measure, rows: npt.NDArray[np.int64]) -> float:
    """Return the measure, NaN for a resample in which it does not exist."""
    truth, p = found.labels[rows], found.probabilities[rows]
    if len(set(truth.tolist())) < 2 or np.ptp(p) == 0:
        return float("nan")
    return measure(truth, p)


def binary_sections(
    evaluation: BinaryEvaluation, found: BinaryPredictions, folder: Path, *, own: Mapping[str, str], outcome: str
) -> list[Section]:
    """Return the report sections of an evaluation; figures are saved in ``folder``.

    Parameters
    ----------
    evaluation, found
        Metrics and what they were computed from.
    folder
        Output folder of the figures.
    own
        The model's own figures by metric, with the data they come from.
    outcome
        What the probability is of.
    """
    # About ten events a group: fewer say nothing about calibration.
    parts = min(5, max(2, min(evaluation.positive, len(found.labels) - evaluation.positive) // 10))
    groups = calibration_groups(found.labels, found.probabilities, groups=parts)
    curve = decision_curve(found.labels, np.clip(found.probabilities, 0, 1))
    sections = [
        Section(
            heading="Metrics beside the model's own",
            text=f"{evaluation.patients} patients, {evaluation.positive} with {outcome}. The model was not refitted.",
            table=Table(
                head=("Metric", "this cohort", "the model's own"),
                rows=tuple(
                    (Cell(value=name), interval_cell(value), Cell(value=own.get(name, "not recorded")))
                    for name, value in evaluation.metrics.items()
                ),
            ),
            note="Intervals resample patients; those of sensitivity and specificity are Wilson's.",
        ),
        Section(
            heading="Calibration and usefulness",
            pictures=(
                picture(draw_calibration({"model": groups}), folder / "calibration", "Observed against predicted"),
                picture(draw_decision_curves({"model": curve}), folder / "decision-curve", "Net benefit"),
            ),
        ),
    ]
    if evaluation.centres:
        sections.append(
            Section(
                heading="By centre",
                table=Table(
                    head=("Centre", "area under the ROC curve"),
                    rows=tuple((Cell(value=name), interval_cell(v)) for name, v in evaluation.centres.items()),
                ),
            )
        )
    return sections

"""A fitted survival model on other patients, never refitted: discrimination, calibration, usefulness, risk groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from pathology._version import __version__
from pathology.errors import UsageError
from pathology.evaluation.checklist import checklist_section
from pathology.reports.page import Cell, Picture, Section, Table, picture
from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval
from pathology.survival.metrics import (
    LogRank,
    brier_score,
    calibration_slope,
    dynamic_auc,
    harrell_c,
    log_rank,
    observed_to_expected,
    survival_calibration_groups,
    survival_decision_curve,
)
from pathology.survival.models.base import FittedModel
from pathology.survival.outcome import Outcome
from pathology.survival.plots import draw_kaplan_meier, draw_survival_calibration, draw_survival_decision_curve

__all__ = [
    "CentreScore",
    "CohortPredictions",
    "SurvivalEvaluation",
    "evaluate_survival",
    "interval_cell",
    "predict_cohort_survival",
    "survival_checklist",
    "survival_sections",
]

Floats = npt.NDArray[np.float64]
_RESAMPLES = 500
"""Bootstrap resamples: weights and slopes are estimated anew in each."""


@dataclass(frozen=True, eq=False)
class CohortPredictions:
    """Predictions of a fitted model for patients it was not fitted on.

    Attributes
    ----------
    outcome
        Follow-up of N patients.
    risk
        Shape (N,), higher meaning earlier event.
    survival
        Event-free probability at T times, shape (N, T).
    times
        The T times, ascending, in the outcome's unit.
    groups
        Risk group of each patient, by the model's own cut-offs; empty if it has none.
    order
        Group names from lowest to highest risk.
    patients
        Patient of each row.
    centres
        Centre of each row; empty if unknown.
    """

    outcome: Outcome
    risk: Floats
    survival: Floats
    times: Floats
    groups: tuple[str, ...]
    order: tuple[str, ...]
    patients: tuple[str, ...]
    centres: tuple[str, ...] = ()


def predict_cohort_survival(
    fitted: FittedModel,
    table: pd.DataFrame,
    outcome: Outcome,
    times: npt.ArrayLike,
    *,
    patients: Sequence[str],
    centres: Sequence[str] = (),
) -> CohortPredictions:
    """Apply a fitted model, its preprocessing and its cut-offs to other patients.

    Parameters
    ----------
    fitted
        The model; not changed.
    table
        One row per patient, in the order of ``outcome``.
    outcome
        Their follow-up.
    times
        Prediction times.
    patients, centres
        Patient and centre of each row.
    """
    at = np.unique(np.asarray(times, dtype=float))
    result = fitted.predict(table, at)
    return CohortPredictions(
        outcome=outcome,
        risk=result["risk"].to_numpy(float),
        survival=result[[f"survival_{t:g}" for t in at]].to_numpy(float),
        times=at,
        groups=tuple(result["risk_group"]),
        order=fitted.groups.names,
        patients=tuple(patients),
        centres=tuple(centres),
    )


class CentreScore(Record):
    """One centre's patients."""

    patients: int
    events: int
    concordance: Interval


class SurvivalEvaluation(Record):
    """Metrics of a fitted survival model on another cohort.  Intervals resample patients."""

    patients: int
    events: int
    concordance: Interval
    """Harrell's C."""
    auc: dict[str, Interval]
    """Dynamic AUC by time."""
    brier: dict[str, Interval]
    """Brier score by time, censoring weights from this cohort."""
    slope: dict[str, Interval]
    """Calibration slope by time; 1 is ideal, below 1 means too extreme predictions."""
    observed_to_expected: dict[str, Interval]
    """Observed over expected events by time; 1 is ideal."""
    groups: dict[str, int] = Field(default_factory=dict)
    """Patients by risk group."""
    log_rank: LogRank | None = None
    """Between the risk groups; ``None`` with fewer than two groups or without events."""
    centres: dict[str, CentreScore] = Field(default_factory=dict)
    beyond: tuple[float, ...] = ()
    """Times without metrics: no event before them, or nobody followed up to them."""


def evaluate_survival(found: CohortPredictions, *, seed: int = 0) -> SurvivalEvaluation:
    """Measure predictions against the follow-up of the same patients.

    Parameters
    ----------
    found
        Predictions; nothing is fitted to these patients but the censoring weights.
    seed
        Of the bootstrap.

    Raises
    ------
    UsageError
        If there is no event, or no time at which anything can be measured.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> risk = rng.normal(size=60)
    >>> outcome = Outcome(rng.exponential(500 * np.exp(-risk)), np.ones(60, bool))
    >>> survival = np.exp(-np.exp(risk) * 365 / 500)[:, None]
    >>> ids = tuple(f"P{i}" for i in range(60))
    >>> found = CohortPredictions(outcome, risk, survival, np.array([365.0]), (), (), ids)
    >>> evaluate_survival(found).concordance.value > 0.6
    True
    """
    outcome, times = found.outcome, found.times
    if outcome.events == 0:
        raise UsageError("no patient of this cohort has an event; nothing can be measured")
    first = float(outcome.time[outcome.event].min())
    usable = [i for i, t in enumerate(times) if first <= t < outcome.time.max()]
    if not usable:
        raise UsageError(
            f"no time lies between the first event ({first:g}) and the longest follow-up ({outcome.time.max():g})",
            remedy="Choose other --years",
        )

    def interval(statistic: Callable[[npt.NDArray[np.int64]], float]) -> Interval:
        return bootstrap(_where_defined(outcome, statistic), found.patients, resamples=_RESAMPLES, seed=seed)

    measures: dict[str, dict[str, Interval]] = {name: {} for name in _MEASURES}
    for i in usable:
        for name, measure in _MEASURES.items():
            at_time = partial(_measured, found, measure, i)
            measures[name][f"{times[i]:g}"] = interval(at_time)
    return SurvivalEvaluation(
        patients=len(set(found.patients)),
        events=outcome.events,
        concordance=interval(lambda rows: harrell_c(outcome.take(rows), found.risk[rows])),
        **measures,
        groups={name: found.groups.count(name) for name in found.order},
        log_rank=log_rank(outcome, list(found.groups)) if len(set(found.groups)) > 1 else None,
        centres=_by_centre(found, seed),
        beyond=tuple(float(t) for i, t in enumerate(times) if i not in usable),
    )


def _where_defined(
    outcome: Outcome, statistic: Callable[[npt.NDArray[np.int64]], float]
) -> Callable[[npt.NDArray[np.int64]], float]:
    """Return the statistic, NaN for resamples in which it does not exist."""

    def value(rows: npt.NDArray[np.int64]) -> float:
        if not outcome.event[rows].any():
            return float("nan")
        try:
            return statistic(rows)
        except UsageError:  # the last case of a resample may lie where nobody is left uncensored
            return float("nan")

    return value


def _measured(found: CohortPredictions, measure: _Measure, time: int, rows: npt.NDArray[np.int64]) -> float:
    return measure(found.outcome.take(rows), found.risk[rows], found.survival[rows, time], float(found.times[time]))


_Measure = Callable[[Outcome, Floats, Floats, float], float]
"""Of follow-up, risk, event-free probability at a time, and that time."""
_MEASURES: dict[str, _Measure] = {
    "auc": lambda outcome, risk, _, t: float(dynamic_auc(outcome, outcome, risk, [t])[0]),
    "brier": lambda outcome, _, p, t: float(brier_score(outcome, outcome, p[:, None], [t])[0]),
    "slope": lambda outcome, _, p, t: calibration_slope(outcome, p, t),
    "observed_to_expected": lambda outcome, _, p, t: observed_to_expected(outcome, p, t),
}


def _by_centre(found: CohortPredictions, seed: int) -> dict[str, CentreScore]:
    scores = {}
    for centre in sorted(set(found.centres)):
        rows = np.flatnonzero(np.asarray(found.centres) == centre)
        outcome, risk = found.outcome.take(rows), found.risk[rows]
        owners = [found.patients[i] for i in rows]

        def concordance(part: npt.NDArray[np.int64], outcome: Outcome = outcome, risk: Floats = risk) -> float:
            return harrell_c(outcome.take(part), risk[part])

        scores[centre] = CentreScore(
            patients=len(set(owners)),
            events=outcome.events,
            concordance=bootstrap(_where_defined(outcome, concordance), owners, resamples=_RESAMPLES, seed=seed),
        )
    return scores


def survival_sections(
    evaluation: SurvivalEvaluation,
    found: CohortPredictions,
    folder: Path,
    *,
    own: Mapping[str, str],
    outcome_name: str,
    unit: float,
    units: str,
) -> list[Section]:
    """Return the report sections of an evaluation; figures are saved in ``folder``.

    Parameters
    ----------
    evaluation, found
        Metrics and what they were computed from.
    folder
        Output folder of the figures.
    own
        The model's own figures by measure (``Harrell's C``), from its card, with the data they come from.
    outcome_name
        Name of the outcome, such as ``OS``.
    unit, units
        Size and name of the displayed time unit, such as 365.25 and ``years``.
    """
    shown = {key: f"{float(key) / unit:g} {units}" for key in evaluation.auc}
    rows = [("Harrell's C", evaluation.concordance)]
    for key, at in shown.items():
        rows += [
            (f"AUC, {at}", evaluation.auc[key]),
            (f"Brier score, {at}", evaluation.brier[key]),
            (f"calibration slope, {at}", evaluation.slope[key]),
            (f"observed / expected events, {at}", evaluation.observed_to_expected[key]),
        ]
    beyond = ", ".join(f"{t / unit:g}" for t in evaluation.beyond)
    return [
        Section(
            heading="Metrics beside the model's own",
            text=f"{evaluation.patients} patients, {evaluation.events} events. The model was not refitted.",
            table=Table(
                head=("Metric", "this cohort", "the model's own"),
                rows=tuple(
                    (Cell(value=name), interval_cell(value), Cell(value=own.get(name, "not recorded")))
                    for name, value in rows
                ),
            ),
            note=(
                f"Not measured at {beyond} {units}: no event before, or nobody followed up so long. " if beyond else ""
            )
            + "Intervals resample patients.",
        ),
        Section(heading="Calibration and usefulness", pictures=_pictures(evaluation, found, folder, shown)),
        *_groups_section(evaluation, found, folder, outcome_name, unit),
        *_centres_section(evaluation),
    ]


def survival_checklist(
    evaluation: SurvivalEvaluation, fitted: FittedModel, *, rows: int, missing: Mapping[str, int], horizons: str
) -> Section:
    """Return the TRIPOD+AI checklist, filled in with what the model and the cohort say.

    Parameters
    ----------
    evaluation, fitted
        The metrics and the model.
    rows
        Rows of the table, with and without follow-up.
    missing
        Number of patients without a value, by covariate.
    horizons
        Prediction times, as text.
    """
    facts = fitted.facts
    gaps = ", ".join(f"{name} in {n}" for name, n in missing.items() if n) or "none"
    numbers = f"{evaluation.patients} patients with follow-up, {evaluation.events} events"
    imputation = fitted.preparation.settings.imputation
    cuts = ", ".join(f"{c:.4g}" for c in fitted.groups.cuts)
    centres = f"{len(evaluation.centres)} centres, each on its own" if evaluation.centres else ""
    return checklist_section(
        {
            "4": "Evaluation of an existing model; no development.",
            "7": "Coding, imputation and scaling as fitted in training; every column checked for its type.",
            "8a": f"{str(facts.get('outcome', 'event')).upper()}; horizons {horizons}.",
            "9b": f"Covariates: {', '.join(facts['covariates'])}.",
            "10": f"{numbers}; every row with follow-up is used.",
            "11": f"Missing values: {gaps}; imputed from the training patients ({imputation}).",
            "12a": "All patients serve evaluation, none fitting.",
            "12c": f"{fitted.model.kind}, fitted on {facts['patients']} patients with {facts['events']} events.",
            "12d": centres,
            "12e": "Harrell's C, dynamic AUC, Brier score, calibration slope, observed over expected, net benefit.",
            "12f": "None: the model is used as stored.",
            "12g": "By the stored model, preprocessing included.",
            "15": f"Risk, event-free probability, and risk groups with cut-offs {cuts} from training.",
            "18f": f"pathology {__version__}.",
            "20a": f"{rows} rows, of which {numbers}.",
            "21": numbers,
            "22": "model.json and weights.safetensors of the model.",
            "23a": "Tables of this report, with intervals by patient.",
            "23b": "Table by centre." if centres else "",
            "24": "Not updated.",
            "27a": "Missing covariates are imputed and named; a covariate column that is missing is refused.",
        }
    )


def _pictures(
    evaluation: SurvivalEvaluation, found: CohortPredictions, folder: Path, shown: Mapping[str, str]
) -> tuple[Picture, ...]:
    # About ten events a group: fewer say nothing about calibration.
    parts = min(5, max(2, evaluation.events // 10))
    drawn = []
    for key, at in shown.items():
        t = float(key)
        p = found.survival[:, int(np.flatnonzero(found.times == t)[0])]
        groups = survival_calibration_groups(found.outcome, p, t, groups=parts)
        curve = survival_decision_curve(found.outcome, 1 - p, t)
        name = at.replace(" ", "-")
        drawn += [
            picture(
                draw_survival_calibration({"model": groups}, horizon=at),
                folder / f"calibration-{name}",
                f"Observed against predicted survival at {at}",
            ),
            picture(
                draw_survival_decision_curve({"model": curve}, horizon=at),
                folder / f"decision-curve-{name}",
                f"Net benefit of acting on the predicted risk at {at}",
            ),
        ]
    return tuple(drawn)


def _groups_section(
    evaluation: SurvivalEvaluation, found: CohortPredictions, folder: Path, outcome_name: str, unit: float
) -> list[Section]:
    if not found.groups:
        return []
    test = evaluation.log_rank
    figure = draw_kaplan_meier(
        found.outcome, list(found.groups), order=found.order, what=outcome_name, years=unit == 365.25
    )
    return [
        Section(
            heading="Risk groups by the model's cut-offs",
            text=", ".join(f"{n} {name}" for name, n in evaluation.groups.items())
            + ". The cut-offs were fixed on the training patients.",
            pictures=(picture(figure, folder / "risk-groups", "Kaplan-Meier curves by risk group"),),
            note="" if test is None else f"Log-rank test: P = {test.p:.3g}.",
        )
    ]


def _centres_section(evaluation: SurvivalEvaluation) -> list[Section]:
    if not evaluation.centres:
        return []
    return [
        Section(
            heading="By centre",
            table=Table(
                head=("Centre", "patients", "events", "Harrell's C"),
                rows=tuple(
                    (
                        Cell(value=name),
                        Cell(value=str(s.patients)),
                        Cell(value=str(s.events)),
                        interval_cell(s.concordance),
                    )
                    for name, s in evaluation.centres.items()
                ),
            ),
        )
    ]


def interval_cell(value: Interval) -> Cell:
    """Return a table cell of a metric with its interval and n."""
    if not np.isfinite(value.value):
        return Cell(value="not defined", ci=f"n = {value.n}")
    if not np.isfinite(value.low):
        return Cell(value=f"{value.value:.3f}", ci=f"no interval, n = {value.n}")
    return Cell(value=f"{value.value:.3f}", ci=f"{value.low:.3f}–{value.high:.3f}, n = {value.n}")

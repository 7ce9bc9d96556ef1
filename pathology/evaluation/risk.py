"""Survival by classifier risk: Kaplan-Meier curves, log-rank test and Cox models, with a prespecified cut-off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pathology.errors import InputTableError, UsageError
from pathology.evaluation.classifier import SlidePrediction
from pathology.evaluation.labels import LabelledSlides
from pathology.reports.page import Cell, Section, Table, picture
from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval
from pathology.survival.covariates import CovariateSettings, read_outcome_columns
from pathology.survival.groups import RiskGroups
from pathology.survival.metrics import LogRank, harrell_c, log_rank
from pathology.survival.models.base import fit_model
from pathology.survival.models.cox import (
    CoxModel,
    HazardRatio,
    LikelihoodRatioTest,
    hazard_ratios,
    likelihood_ratio_test,
)
from pathology.survival.outcome import Outcome
from pathology.survival.plots import draw_kaplan_meier

__all__ = ["RISK_COLUMN", "RiskReport", "patient_risks", "risk_report", "risk_section"]

RISK_COLUMN = "high risk"
"""Name of the risk group covariate: 1 for high risk, 0 for low risk."""


class RiskReport(Record):
    """Survival of patients by risk group."""

    patients: int
    events: int
    cut: float
    """Cut-off: patients at or above it are high risk.  Prespecified on the card before this evaluation."""
    high: int
    """Number of high-risk patients."""
    concordance: Interval
    """Harrell's concordance index of the continuous risk."""
    log_rank: LogRank | None
    """``None`` if all patients are in one group or there are no events."""
    hazard_ratios: tuple[HazardRatio, ...] = ()
    """Hazard ratios of a Cox model with the risk group and the covariates."""
    likelihood_ratio: LikelihoodRatioTest | None = None
    """Test of the risk group in addition to the covariates."""
    note: str = ""
    """Why the comparison is missing, if it is."""


def patient_risks(
    predictions: Sequence[SlidePrediction], labelled: LabelledSlides, columns: Sequence[str]
) -> pd.DataFrame:
    """Return one row per patient: mean probability of the second class, and columns of the label table.

    Parameters
    ----------
    predictions
        Slide predictions of a two-class model.
    labelled
        Rows of the same slides.
    columns
        Columns to return in addition to ``risk``.

    Raises
    ------
    UsageError
        If the model does not have two classes.
    InputTableError
        If a column is missing or differs between the slides of a patient.
    """
    if len(labelled.classes) != 2:
        raise UsageError(f"the model has {len(labelled.classes)} classes; a risk model needs two")
    rows: dict[str, dict[str, str]] = {}
    risks: dict[str, list[float]] = {}
    for slide, finding in zip(labelled.slides, predictions, strict=True):
        missing = [name for name in columns if name not in slide.columns]
        if missing:
            raise InputTableError(f"the label table has no column '{missing[0]}'")
        values = {name: slide.columns[name] for name in columns}
        if rows.setdefault(slide.patient_id, values) != values:
            torn = next(name for name in columns if rows[slide.patient_id][name] != values[name])
            raise InputTableError(f"column '{torn}' differs between the slides of patient {slide.patient_id}")
        p = finding.answer if finding.answer is not None else np.nanmean(finding.patches, axis=0)
        risks.setdefault(slide.patient_id, []).append(float(p[1]))
    names = sorted(rows)
    table = pd.DataFrame([rows[name] for name in names], index=names, columns=list(columns)).replace("", None)
    table.insert(0, "risk", [float(np.mean(risks[name])) for name in names])
    return table


def risk_report(
    table: pd.DataFrame, groups: RiskGroups, *, time: str, event: str, covariates: Sequence[str] = ()
) -> RiskReport:
    """Compare survival between low-risk and high-risk patients.

    Parameters
    ----------
    table
        From :func:`patient_risks`, with the columns named here.
    groups
        One cut-off, fitted on other patients.
    time, event
        Follow-up time column and event column (1 observed, 0 censored).
    covariates
        Adjustment covariates of the Cox model; columns with only numbers are numeric.

    Raises
    ------
    UsageError
        If there is not exactly one cut-off.
    """
    if len(groups.cuts) != 1:
        raise UsageError(f"expected one risk cut-off, got {len(groups.cuts)}")
    outcome, kept = read_outcome_columns(table, time, event)
    known = table.iloc[kept].copy()
    risk = known["risk"].to_numpy(dtype=float)
    named = groups.assign(risk)
    known[RISK_COLUMN] = [float(name == groups.names[1]) for name in named]
    both = 0 < known[RISK_COLUMN].sum() < len(known) and outcome.events > 0
    ratios: tuple[HazardRatio, ...] = ()
    test, note = None, "" if both else "All patients are in one group, or there are no events."
    if both:
        try:
            ratios, test = _cox(known, outcome, covariates)
        except UsageError as error:
            # Report curves and concordance even with few patients or events.
            note = f"{error.what[0].upper()}{error.what[1:]}."
    return RiskReport(
        patients=len(known),
        events=outcome.events,
        cut=groups.cuts[0],
        high=int(known[RISK_COLUMN].sum()),
        concordance=bootstrap(lambda rows: harrell_c(outcome.take(rows), risk[rows]), list(known.index)),
        log_rank=log_rank(outcome, named) if both else None,
        hazard_ratios=ratios,
        likelihood_ratio=test,
        note=note,
    )


def _cox(
    table: pd.DataFrame, outcome: Outcome, covariates: Sequence[str]
) -> tuple[tuple[HazardRatio, ...], LikelihoodRatioTest]:
    """Fit the Cox model with and without the risk group."""
    numeric, categorical = _kinds(table, covariates)
    settings = CovariateSettings(numeric=(RISK_COLUMN, *numeric), categorical=categorical)
    full = fit_model(table, outcome, settings, CoxModel(), groups=2)
    reduced = None
    if covariates:
        less = CovariateSettings(numeric=numeric, categorical=categorical)
        model = fit_model(table, outcome, less, CoxModel(), groups=2).model
        assert isinstance(model, CoxModel)
        reduced = model
    assert isinstance(full.model, CoxModel)
    with np.errstate(over="ignore", invalid="ignore"):
        ratios = hazard_ratios(full)
    if not all(np.isfinite((ratio.low, ratio.high)).all() for ratio in ratios):
        raise UsageError(
            f"the proportional hazards model cannot be estimated from {len(outcome)} patients with {outcome.events}"
            " events: the hazard ratio diverges"
        )
    return ratios, likelihood_ratio_test(full.model, reduced, outcome)


def _kinds(table: pd.DataFrame, covariates: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    numeric = [
        name
        for name in covariates
        if pd.to_numeric(table[name], errors="coerce").notna().sum() == table[name].notna().sum()
    ]
    return tuple(numeric), tuple(name for name in covariates if name not in numeric)


def risk_section(
    table: pd.DataFrame, groups: RiskGroups, report: RiskReport, folder: Path, *, time: str, event: str
) -> Section:
    """Return the report section with curves and table; the figure is saved in ``folder``."""
    outcome, kept = read_outcome_columns(table, time, event)
    named = groups.assign(table.iloc[kept]["risk"].to_numpy(dtype=float))
    figure = draw_kaplan_meier(outcome, named, order=groups.names, what="Event-free survival", years=False)
    figure.axes[0].set_xlabel(time)  # the unit is that of the user's column
    rows = [
        (Cell(value="Harrell's C of the risk"), Cell(value=str(report.concordance))),
        *(
            (
                Cell(value=f"hazard ratio, {ratio.name} ({ratio.unit})"),
                Cell(value=f"{ratio.ratio:.2f}", ci=f"{ratio.low:.2f} to {ratio.high:.2f}, P = {ratio.p:.3g}"),
            )
            for ratio in report.hazard_ratios
        ),
    ]
    if report.log_rank is not None:
        rows.append((Cell(value="log-rank test"), Cell(value=f"P = {report.log_rank.p:.3g}")))
    if report.likelihood_ratio is not None:
        rows.append(
            (
                Cell(value="likelihood-ratio test of the risk group, adjusted for the covariates"),
                Cell(value=f"P = {report.likelihood_ratio.p:.3g}"),
            )
        )
    return Section(
        heading="Survival by risk group",
        text=f"{report.patients} patients, {report.events} events. High risk (≥ {report.cut:.4f}): {report.high}"
        " patients. The cut-off was fixed during training and is on the model card.",
        table=Table(head=("figure", "value"), rows=tuple(rows)),
        pictures=(picture(figure, folder / "kaplan-meier", "Kaplan-Meier curves by risk"),),
        note=report.note,
    )

"""Follow-up by the risk a classifier gives: curves, log-rank test and Cox models, the cut-off fixed beforehand."""

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
"""What the risk group is called among the covariates: 1 for high, 0 for low."""


class RiskReport(Record):
    """Follow-up of patients by their risk."""

    patients: int
    events: int
    cut: float
    """Risk from which on a patient is of high risk; it was on the card before these patients were looked at."""
    high: int
    """Patients of high risk."""
    concordance: Interval
    """Harrell's, of the risk itself."""
    log_rank: LogRank | None
    """``None`` where all patients are of one group or nobody had the event."""
    hazard_ratios: tuple[HazardRatio, ...] = ()
    """Of a Cox model of the risk group and the covariates."""
    likelihood_ratio: LikelihoodRatioTest | None = None
    """Whether the risk group adds anything to the covariates."""
    note: str = ""
    """Why there is no comparison, where there is none."""


def patient_risks(
    findings: Sequence[SlidePrediction], labelled: LabelledSlides, columns: Sequence[str]
) -> pd.DataFrame:
    """Return one row a patient: the mean probability of the second class, and columns of the table of labels.

    Parameters
    ----------
    findings
        Slides of a model of two classes.
    labelled
        The same slides' rows.
    columns
        Columns wanted beside ``risk``.

    Raises
    ------
    UsageError
        If the model has other than two classes.
    InputTableError
        If a column is missing or differs between the slides of a patient.
    """
    if len(labelled.classes) != 2:
        raise UsageError(
            f"the model has {len(labelled.classes)} classes; a risk is the probability of the second of two"
        )
    rows: dict[str, dict[str, str]] = {}
    risks: dict[str, list[float]] = {}
    for slide, finding in zip(labelled.slides, findings, strict=True):
        missing = [name for name in columns if name not in slide.columns]
        if missing:
            raise InputTableError(f"the table of labels has no column '{missing[0]}'")
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
    """Compare follow-up between patients of low and high risk.

    Parameters
    ----------
    table
        From :func:`patient_risks`, with the columns named here.
    groups
        One cut-off, learnt from other patients.
    time, event
        Columns of follow-up and of whether the event was seen (1 or 0).
    covariates
        Columns the Cox model is adjusted for; one that holds numbers only is taken as a number.

    Raises
    ------
    UsageError
        If there is not one cut-off.
    """
    if len(groups.cuts) != 1:
        raise UsageError(f"the risk has {len(groups.cuts)} cut-offs; one is needed")
    outcome, kept = read_outcome_columns(table, time, event)
    known = table.iloc[kept].copy()
    risk = known["risk"].to_numpy(dtype=float)
    named = groups.assign(risk)
    known[RISK_COLUMN] = [float(name == groups.names[1]) for name in named]
    both = 0 < known[RISK_COLUMN].sum() < len(known) and outcome.events > 0
    ratios: tuple[HazardRatio, ...] = ()
    test, note = None, "" if both else "All patients are of one group, or nobody had the event."
    if both:
        try:
            ratios, test = _cox(known, outcome, covariates)
        except UsageError as error:
            # Few patients or events are no reason to withhold curves and concordance.
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
    """Fit the model with and without the risk group."""
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
            " events: a hazard ratio grows without limit"
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
    """Return the part of the page with curves and table; the picture goes into ``folder``."""
    outcome, kept = read_outcome_columns(table, time, event)
    named = groups.assign(table.iloc[kept]["risk"].to_numpy(dtype=float))
    figure = draw_kaplan_meier(outcome, named, order=groups.names, what="Without the event", years=False)
    figure.axes[0].set_xlabel(time)  # the unit is known to whoever named the column
    rows = [
        (Cell(value="concordance (Harrell) of the risk"), Cell(value=str(report.concordance))),
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
                Cell(value="likelihood-ratio test: the risk group beside the covariates"),
                Cell(value=f"P = {report.likelihood_ratio.p:.3g}"),
            )
        )
    return Section(
        heading="Follow-up by risk",
        text=f"{report.patients} patients, {report.events} events. High risk from {report.cut:.4f} on: {report.high}"
        " patients. The cut-off was fixed on patients of the training's own and is on the model's card.",
        table=Table(head=("figure", "value"), rows=tuple(rows)),
        pictures=(picture(figure, folder / "kaplan-meier", "Kaplan-Meier curves by risk"),),
        note=report.note,
    )

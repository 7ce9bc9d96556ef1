"""Radiomic signatures for time-to-event outcomes, and Cox nomograms (Liu et al. 2021).

Columns are filtered by the Cox score test and by correlation; LASSO-Cox fits the signature; a Cox
model combines it with clinical data.  As for binary outcomes, the nomogram is fitted on scores from inner folds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import InputTableError, UsageError
from pathology.radiology.features.selection import drop_correlated
from pathology.settings import Record
from pathology.stats.nomogram import Nomogram, NomogramTerm
from pathology.stats.splits import Fold, audit_leakage, grouped_k_fold
from pathology.survival.metrics import harrell_c
from pathology.survival.models.cox import CoxModel, CoxSettings
from pathology.survival.outcome import Outcome, outcome_strata

__all__ = [
    "SurvivalCombined",
    "SurvivalSignature",
    "SurvivalSignatureSettings",
    "cox_score_test",
    "fit_survival_combined",
    "fit_survival_signature",
    "nested_risks",
]

Floats = NDArray[np.float64]
SIGNATURE = "signature"


class SurvivalSignatureSettings(Record):
    """Settings of a survival signature."""

    keep: Annotated[int, Field(ge=1)] = 15
    """Number of columns kept by the score test."""
    correlation: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Maximum absolute Spearman correlation between kept columns."""
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = (0.4, 0.2, 0.1, 0.05)
    """LASSO penalties, strongest first; selected by mean concordance over inner folds."""
    inner_folds: Annotated[int, Field(ge=2)] = 3
    """Folds of the training patients for selecting the penalty."""
    nomogram_penalty: Annotated[float, Field(ge=0)] = 0.05
    """Ridge penalty of the combined Cox model."""
    seed: int = 0
    """Seed of the folds."""


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalSignature:
    """A fitted signature.

    Attributes
    ----------
    columns
        Names of the selected columns.
    median, centre, scale
        Imputation value, mean and standard deviation per column.
    coefficients
        Log hazard ratios per standardised unit, shape (P,).
    penalty
        Selected LASSO penalty.
    """

    columns: tuple[str, ...]
    median: Floats
    centre: Floats
    scale: Floats
    coefficients: Floats
    penalty: float

    def risk(self, table: pd.DataFrame) -> Floats:
        """Return the log hazard of each row, shape (N,).

        Raises
        ------
        InputTableError
            If a column is missing.
        """
        missing = [c for c in self.columns if c not in table.columns]
        if missing:
            raise InputTableError(f"{len(missing)} feature(s) of the signature are missing, first: '{missing[0]}'")
        x = table.loc[:, list(self.columns)].to_numpy(float)
        x = np.where(np.isfinite(x), x, self.median)
        return np.asarray(((x - self.centre) / self.scale) @ self.coefficients, float)


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalCombined:
    """Signature and clinical covariates in one Cox model.

    Attributes
    ----------
    signature
        ``None`` for clinical data alone.
    score_centre, score_scale
        Standardisation of the signature's risk.
    fill
        Imputation value of each clinical covariate, in model order.
    model
        The Cox model.
    centre
        Mean linear predictor of the training patients.
    ranges
        Training range of each covariate, in model order.
    """

    signature: SurvivalSignature | None
    score_centre: float
    score_scale: float
    fill: dict[str, float]
    model: CoxModel
    centre: Floats
    ranges: tuple[tuple[str, float, float], ...]

    def matrix(self, table: pd.DataFrame | None, clinical: pd.DataFrame) -> Floats:
        """Return the model's covariates, shape (N, P)."""
        columns = []
        if self.signature is not None:
            if table is None:
                raise UsageError("this model requires image features")
            columns.append((self.signature.risk(table) - self.score_centre) / self.score_scale)
        for name, value in self.fill.items():
            raw = clinical[name].to_numpy(float)
            columns.append(np.where(np.isfinite(raw), raw, value))
        return np.column_stack(columns)

    def risk(self, table: pd.DataFrame | None, clinical: pd.DataFrame) -> Floats:
        """Return the log hazard relative to the mean training patient, shape (N,)."""
        return self.model.predict_risk(self.matrix(table, clinical))

    def survival(self, table: pd.DataFrame | None, clinical: pd.DataFrame, times: Sequence[float]) -> Floats:
        """Return survival probabilities, shape (N, T)."""
        return self.model.predict_survival(self.matrix(table, clinical), np.asarray(times, float))

    def nomogram(self, times: dict[str, float], *, outcome: str) -> Nomogram:
        """Return the model as a nomogram.

        Parameters
        ----------
        times
            Name of a time (``3 years``) to the time in the outcome's unit.
        outcome
            Predicted outcome.
        """
        terms = tuple(
            NomogramTerm(name=name, coefficient=float(b), low=low, high=high)
            for (name, low, high), b in zip(self.ranges, self.model.coefficients, strict=True)
        )
        at = self.model.predict_survival(self.centre[None], np.asarray(list(times.values())))[0]
        baseline = {n: float(np.clip(s, 1e-6, 1 - 1e-6)) for n, s in zip(times, at, strict=True)}
        return Nomogram(
            terms=terms,
            intercept=float(-self.centre @ self.model.coefficients),
            baseline_survival=baseline,
            outcome=outcome,
        )


def cox_score_test(x: Floats, outcome: Outcome) -> Floats:
    """Return the score statistic of each column in a Cox model of its own; chi-squared with one degree of freedom.

    ``U² / V`` at coefficient 0, ``U`` the sum over events of the value minus its mean in the risk set, ``V`` the sum of
    the variances there (Breslow's ties).  For a two-valued column without ties it is the log-rank statistic.

    Parameters
    ----------
    x
        Shape (N, P).
    outcome
        Follow-up of the N patients.
    """
    score, variance = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for time in np.unique(outcome.time[outcome.event]):
        at_risk = x[outcome.time >= time]
        events = outcome.event & (outcome.time == time)
        count = int(events.sum())
        score += x[events].sum(axis=0) - count * at_risk.mean(axis=0)
        variance += count * at_risk.var(axis=0)
    return np.divide(score**2, variance, out=np.zeros_like(score), where=variance > 1e-12)


def _folds(outcome: Outcome, owner: list[str], count: int, seed: int) -> tuple[Fold, ...]:
    return grouped_k_fold(owner, outcome_strata(outcome, parts=1), k=count, seed=seed)


def fit_survival_signature(
    table: pd.DataFrame,
    outcome: Outcome,
    patients: Sequence[Hashable],
    settings: SurvivalSignatureSettings | None = None,
) -> SurvivalSignature:
    """Fit a signature on training rows.

    Raises
    ------
    UsageError
        If lengths differ, no column varies, or there are too few events.
    """
    chosen = settings or SurvivalSignatureSettings()
    if not len(table) == len(outcome) == len(patients):
        raise UsageError(f"the table has {len(table)} rows for {len(outcome)} outcomes and {len(patients)} patients")
    if outcome.events < 4:
        raise UsageError(f"a survival signature requires at least 4 events, got {outcome.events}")
    raw = table.to_numpy(float)
    known = np.isfinite(raw).sum(axis=0) >= max(2, len(raw) // 2)
    names, raw = np.asarray(table.columns, dtype=object)[known], raw[:, known]
    median = np.nanmedian(np.where(np.isfinite(raw), raw, np.nan), axis=0) if raw.shape[1] else np.zeros(0)
    filled = np.where(np.isfinite(raw), raw, median)
    centre, scale = filled.mean(axis=0), filled.std(axis=0)
    varies = scale > 1e-12 * np.maximum(1, np.abs(centre))
    if not varies.any():
        raise UsageError("all features are constant in the training patients")
    names, median, centre, scale = names[varies], median[varies], centre[varies], scale[varies]
    x = (filled[:, varies] - centre) / scale
    order = np.argsort(-cox_score_test(x, outcome), kind="stable")[: 4 * chosen.keep]
    columns = drop_correlated(x, np.asarray(order, np.int64), limit=chosen.correlation)[: chosen.keep]
    part = x[:, columns]
    owner = [str(p) for p in patients]
    concordance = np.zeros(len(chosen.penalties))
    for fold in _folds(outcome, owner, chosen.inner_folds, chosen.seed):
        held = outcome.take(fold.test)
        for i, penalty in enumerate(chosen.penalties):
            model = _lasso(penalty).fit(part[fold.train], outcome.take(fold.train))
            # A fold without comparable pairs is uninformative about the penalty.
            value = harrell_c(held, part[fold.test] @ _kept(model.coefficients)) if held.events else 0.5
            concordance[i] += value if np.isfinite(value) else 0.5
    penalty = chosen.penalties[int(np.argmax(np.round(concordance, 9)))]
    coefficients = _kept(_lasso(penalty).fit(part, outcome).coefficients)
    used = np.flatnonzero(coefficients)
    if not len(used):  # the penalty removes everything: keep the best column, by sign only
        used = np.asarray([0])
        coefficients = CoxModel(CoxSettings(penalty=0.1)).fit(part[:, :1], outcome).coefficients
    else:
        coefficients = coefficients[used]
    final = columns[used]
    return SurvivalSignature(
        tuple(str(n) for n in names[final]), median[final], centre[final], scale[final], coefficients, penalty
    )


def _lasso(penalty: float) -> CoxModel:
    return CoxModel(CoxSettings(penalty=penalty, l1_ratio=1.0))


def _kept(coefficients: Floats) -> Floats:
    """Set coefficients to 0 that are non-zero only because the penalty is smoothed."""
    return np.where(np.abs(coefficients) > 1e-3, coefficients, 0.0)


def fit_survival_combined(
    table: pd.DataFrame | None,
    clinical: pd.DataFrame,
    outcome: Outcome,
    patients: Sequence[Hashable],
    settings: SurvivalSignatureSettings | None = None,
) -> SurvivalCombined:
    """Fit signature and Cox nomogram on training rows; see :func:`fit_survival_signature`."""
    chosen = settings or SurvivalSignatureSettings()
    owner = [str(p) for p in patients]
    columns: dict[str, Floats] = {}
    signature, centre, scale = None, 0.0, 1.0
    if table is not None:
        signature = fit_survival_signature(table, outcome, owner, chosen)
        inner = np.full(len(outcome), np.nan)
        for fold in _folds(outcome, owner, chosen.inner_folds, chosen.seed + 1):
            audit_leakage({"train": fold.train, "test": fold.test}, patients=owner)
            fitted = fit_survival_signature(
                table.iloc[fold.train], outcome.take(fold.train), [owner[i] for i in fold.train], chosen
            )
            inner[fold.test] = fitted.risk(table.iloc[fold.test])
        centre, scale = float(inner.mean()), float(inner.std()) or 1.0
        columns[SIGNATURE] = (inner - centre) / scale
    fill: dict[str, float] = {}
    for name in clinical.columns:
        values = clinical[name].to_numpy(float)
        median = float(np.nanmedian(values))
        filled = np.where(np.isfinite(values), values, median)
        if np.ptp(filled) > 0:
            fill[str(name)] = median
            columns[str(name)] = filled
    if not columns:
        raise UsageError("a nomogram requires image features or clinical columns that are not constant")
    matrix = np.column_stack(list(columns.values()))
    model = CoxModel(CoxSettings(penalty=chosen.nomogram_penalty)).fit(matrix, outcome)
    ranges = []
    for name, values in columns.items():
        low, high = float(values.min()), float(values.max())
        if name == SIGNATURE:
            low, high = min(low, -3.0), max(high, 3.0)
        ranges.append((name, low, high))
    return SurvivalCombined(signature, centre, scale, fill, model, matrix.mean(axis=0), tuple(ranges))


def nested_risks(
    table: pd.DataFrame | None,
    clinical: pd.DataFrame,
    outcome: Outcome,
    patients: Sequence[Hashable],
    settings: SurvivalSignatureSettings | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
    times: Sequence[float] = (),
) -> tuple[Floats, Floats, tuple[Fold, ...]]:
    """Return out-of-fold risk and survival for each row.

    Returns
    -------
    tuple
        Log hazards (N,), survival at ``times`` (N, T), and the folds.  Log hazards are relative to the mean training
        patient of each fold.
    """
    owner = [str(p) for p in patients]
    risk, survival = np.full(len(outcome), np.nan), np.full((len(outcome), len(times)), np.nan)
    divisions = _folds(outcome, owner, folds, seed)
    for fold in divisions:
        audit_leakage({"train": fold.train, "test": fold.test}, patients=owner)
        fitted = fit_survival_combined(
            None if table is None else table.iloc[fold.train],
            clinical.iloc[fold.train],
            outcome.take(fold.train),
            [owner[i] for i in fold.train],
            settings,
        )
        part = None if table is None else table.iloc[fold.test]
        risk[fold.test] = fitted.risk(part, clinical.iloc[fold.test])
        if times:
            survival[fold.test] = fitted.survival(part, clinical.iloc[fold.test], times)
    return risk, survival, divisions

"""Nested cross-validation of survival models: inner folds select, outer folds evaluate, patients are bootstrapped.

Everything estimated from data (coding, imputation, scaling, cut-offs, penalties, epochs) is fitted on the training
part of each fold.  Concordance pairs patients within one outer fold only, because risks of different models are not
on the same scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.intervals import Interval
from pathology.stats.splits import Fold, audit_leakage, nested_folds
from pathology.survival.covariates import CovariateSettings, Preparation
from pathology.survival.groups import RiskGroups
from pathology.survival.metrics import (
    TIED_RISK,
    brier_terms,
    calibration_slope,
    case_control_pairs,
    comparable_pairs,
    harrell_c,
    inverse_or_zero,
    observed_to_expected,
)
from pathology.survival.models.base import SurvivalModel
from pathology.survival.models.registry import model_kinds
from pathology.survival.nonparametric import censoring_distribution, kaplan_meier
from pathology.survival.outcome import Outcome, outcome_strata

__all__ = [
    "Candidate",
    "CrossValidation",
    "CrossValidationSettings",
    "ModelScore",
    "OuterPrediction",
    "cross_validate",
    "score_predictions",
]

Floats = npt.NDArray[np.float64]


class Candidate(Record):
    """A model with one set of settings."""

    kind: str
    """One of :func:`pathology.survival.models.registry.model_kinds`."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Setting values; the others have their defaults."""

    def make(self) -> SurvivalModel:
        """Return the unfitted model."""
        kinds = model_kinds()
        if self.kind not in kinds:
            raise UsageError(f"unknown survival model '{self.kind}'", remedy=f"Choose one of {', '.join(kinds)}")
        return kinds[self.kind](kinds[self.kind].settings_type(**self.settings))


class CrossValidationSettings(Record):
    """Settings of folds, risk groups and bootstrap."""

    outer: Annotated[int, Field(ge=2)] = 5
    """Outer folds, for evaluation."""
    inner: Annotated[int, Field(ge=2)] = 3
    """Inner folds, for model selection; unused with a single candidate."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Repeats of the outer cross-validation."""
    groups: Annotated[int, Field(ge=2)] = 3
    """Number of risk groups; cut-offs are fitted on the training part of each outer fold."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Patient-level bootstrap resamples."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class OuterPrediction:
    """Predictions of a model for the patients of one outer fold.

    Parameters
    ----------
    fold
        The outer fold.
    risk
        Shape (M,), M test patients in the order of ``fold.test``.
    survival
        Shape (M, T).
    groups
        Risk group of each test patient, by cut-offs of the training patients; ``undivided`` if the model gives its
        training patients too few different risks.
    chosen
        Candidate selected by the inner folds.
    """

    fold: Fold
    risk: Floats
    survival: Floats
    groups: tuple[str, ...]
    chosen: Candidate


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Out-of-fold predictions of several models on the same folds.

    Parameters
    ----------
    outcome
        Follow-up of all N patients.
    times
        T prediction times.
    predictions
        By model name, one entry per outer fold.
    settings
        Cross-validation settings.
    """

    outcome: Outcome
    times: Floats
    predictions: Mapping[str, tuple[OuterPrediction, ...]]
    settings: CrossValidationSettings


class ModelScore(Record):
    """Metrics of one model over all outer folds, each with a patient-level bootstrap interval."""

    model: str
    patients: int
    events: int
    harrell: Interval
    uno: Interval
    """Uno's index, up to the last prediction time."""
    auc: dict[str, Interval]
    """Cumulative/dynamic AUC by time."""
    integrated_brier: Interval
    """Integrated Brier score between the first and the last time."""
    reference_brier: float
    """Integrated Brier score of the null model (Kaplan-Meier curve of the training patients for everyone)."""
    calibration_slope: dict[str, float]
    """Calibration slope by time; 1 is ideal, below 1 means too extreme predictions."""
    observed_to_expected: dict[str, float]
    """Observed-to-expected ratio by time; 1 is ideal, above 1 means too few predicted events."""
    by_fold: tuple[float, ...]
    """Harrell's C of each outer fold."""
    chosen: tuple[str, ...]
    """Selected settings of each outer fold."""


def cross_validate(
    table: pd.DataFrame,
    outcome: Outcome,
    covariates: CovariateSettings,
    models: Mapping[str, Sequence[Candidate]],
    times: npt.ArrayLike,
    settings: CrossValidationSettings | None = None,
    *,
    patients: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> CrossValidation:
    """Predict every patient with models trained on other patients.

    Parameters
    ----------
    table
        One row a patient.
    outcome
        Follow-up, in the order of the table.
    covariates
        Covariate settings.
    models
        Candidates by reported model name.
    times
        Prediction times, ascending, in the unit of the outcome.
    settings
        Folds and seed.
    patients
        Patient of each row; rows of a patient stay in one fold.  Default: every row is a patient.
    progress
        Called with a progress line after each model and fold.

    Raises
    ------
    UsageError
        Lengths differ, a model has no candidate, or none can be fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> grade = rng.integers(1, 4, 80).astype(float)
    >>> outcome = Outcome(rng.exponential(1000 / grade), rng.random(80) < 0.8)
    >>> result = cross_validate(
    ...     pd.DataFrame({"grade": grade}),
    ...     outcome,
    ...     CovariateSettings(numeric=("grade",)),
    ...     {"Cox": [Candidate(kind="cox")]},
    ...     [300.0, 600.0],
    ...     CrossValidationSettings(outer=2, resamples=100),
    ... )
    >>> list(result.predictions)
    ['Cox']
    """
    how = settings or CrossValidationSettings()
    at = np.atleast_1d(np.asarray(times, dtype=float))
    if len(table) != len(outcome):
        raise UsageError(f"the table has {len(table)} rows for {len(outcome)} outcomes")
    empty = [name for name, candidates in models.items() if not candidates]
    if empty or not models:
        raise UsageError(f"no candidates for {', '.join(empty) or 'any model'}")
    frame = table.reset_index(drop=True)
    owners = [str(i) for i in range(len(frame))] if patients is None else [str(p) for p in patients]
    strata = outcome_strata(outcome)
    # A patient has one follow-up, so rows of a patient share a stratum or are kept together anyway.
    nested = nested_folds(owners, strata, outer=how.outer, inner=how.inner, repeats=how.repeats, seed=how.seed)
    predictions: dict[str, list[OuterPrediction]] = {name: [] for name in models}
    for number, fold in enumerate(nested):
        audit_leakage({"train": fold.outer.train, "test": fold.outer.test}, patients=owners)
        for inner in fold.inner:
            audit_leakage({"train": inner.train, "tune": inner.test, "test": fold.outer.test}, patients=owners)
        x_train, x_test = _prepare(frame, covariates, fold.outer)
        y_train = outcome.take(fold.outer.train)
        inner_data = [
            (*_prepare(frame, covariates, f), outcome.take(f.train), outcome.take(f.test)) for f in fold.inner
        ]
        for name, candidates in models.items():
            seed = _seed(how.seed, name, number)
            best = candidates[0]
            if len(candidates) > 1:
                best = max(candidates, key=lambda c, s=seed: _inner_score(c, inner_data, s))  # type: ignore[misc]
            model = best.make().fit(x_train, y_train, seed=seed)
            risk = model.predict_risk(x_test)
            groups = _groups(model.predict_risk(x_train), risk, how.groups)
            survival = model.predict_survival(x_test, at)
            predictions[name].append(OuterPrediction(fold.outer, risk, survival, groups, best))
            if progress is not None:
                c = harrell_c(outcome.take(fold.outer.test), risk)
                progress(f"{name}: fold {number + 1} of {len(nested)}, C {c:.3f}")
    return CrossValidation(outcome, at, {k: tuple(v) for k, v in predictions.items()}, how)


def score_predictions(result: CrossValidation, name: str) -> ModelScore:
    """Score the out-of-fold predictions of one model.

    Pairs are formed within an outer fold and summed over folds; repeats are averaged.  The interval resamples
    patients with the predictions fixed: it covers the sampling of test patients, not of training patients.

    Parameters
    ----------
    result
        Out-of-fold predictions.
    name
        Model.

    Raises
    ------
    UsageError
        Unknown model, or an event beyond the follow-up of its training patients.
    """
    if name not in result.predictions:
        raise UsageError(f"unknown model '{name}'", remedy=f"Choose one of {', '.join(result.predictions)}")
    outcome, at = result.outcome, result.times
    folds = result.predictions[name]
    n = len(outcome)
    repeats = sorted({p.fold.repeat for p in folds})
    draws = _draws(n, result.settings.resamples, result.settings.seed)

    harrell, uno, areas, brier, reference = [], [], [], [], []
    for repeat in repeats:
        pairs = {key: _Pairs(n) for key in ("harrell", "uno", *(f"{t:g}" for t in at))}
        score, floor = np.zeros((n, len(at))), np.zeros((n, len(at)))
        for p in (p for p in folds if p.fold.repeat == repeat):
            train, test = outcome.take(p.fold.train), outcome.take(p.fold.test)
            weight = inverse_or_zero(censoring_distribution(train)(test.time))
            pairs["harrell"].add(p.fold.test, *comparable_pairs(test, p.risk, np.ones(len(test))))
            early = np.where(test.time < at[-1], weight, 0.0)
            pairs["uno"].add(p.fold.test, *comparable_pairs(test, p.risk, early**2))
            for i, t in enumerate(at):
                pairs[f"{t:g}"].add(p.fold.test, *case_control_pairs(test, 1 - p.survival[:, i], weight, t))
            score[p.fold.test] = brier_terms(train, test, p.survival, at)
            flat = np.broadcast_to(kaplan_meier(train).at(at), p.survival.shape)
            floor[p.fold.test] = brier_terms(train, test, flat, at)
        harrell.append(pairs["harrell"])
        uno.append(pairs["uno"])
        areas.append({f"{t:g}": pairs[f"{t:g}"] for t in at})
        brier.append(_integrate(score, at))
        reference.append(_integrate(floor, at))

    def interval(value: float, samples: Floats, count: int) -> Interval:
        kept = samples[np.isfinite(samples)]
        tail = (1 - result.settings.level) / 2
        defined = len(kept) > len(samples) / 2 and np.isfinite(value)
        low, high = np.quantile(kept, [tail, 1 - tail]) if defined else (np.nan, np.nan)
        return Interval(
            value=value,
            low=float(low),
            high=float(high),
            level=result.settings.level,
            n=count,
            method=f"patient-level percentile bootstrap ({len(kept)} of {len(samples)} resamples), predictions fixed",
        )

    def paired(each: Sequence[_Pairs]) -> Interval:
        whole = np.ones((1, n))
        value = float(np.mean([p.ratio(whole)[0] for p in each]))
        return interval(value, np.mean([p.ratio(draws) for p in each], axis=0), n)

    mean_brier = np.mean(brier, axis=0)
    by_fold = [harrell_c(outcome.take(p.fold.test), p.risk) for p in folds]
    pooled = {p: np.concatenate([f.survival for f in folds if f.fold.repeat == p]) for p in repeats}
    rows = {p: np.concatenate([f.fold.test for f in folds if f.fold.repeat == p]) for p in repeats}

    def pooled_figure(figure: Callable[[Outcome, Floats, float], float], i: int, t: float) -> float:
        return float(np.mean([figure(outcome.take(rows[r]), pooled[r][:, i], t) for r in repeats]))

    return ModelScore(
        model=name,
        patients=n,
        events=outcome.events,
        harrell=paired(harrell),
        uno=paired(uno),
        auc={f"{t:g}": paired([a[f"{t:g}"] for a in areas]) for t in at},
        integrated_brier=interval(float(mean_brier.mean()), draws @ mean_brier / n, n),
        reference_brier=float(np.mean(reference)),
        calibration_slope={f"{t:g}": pooled_figure(calibration_slope, i, float(t)) for i, t in enumerate(at)},
        observed_to_expected={f"{t:g}": pooled_figure(observed_to_expected, i, float(t)) for i, t in enumerate(at)},
        by_fold=tuple(by_fold),
        chosen=tuple(_describe_settings(p.chosen) for p in folds),
    )


class _Pairs:
    """Concordant and comparable pairs of patients as matrices, so that a bootstrap is a product with counts."""

    def __init__(self, n: int) -> None:
        self.won = np.zeros((n, n))
        self.comparable = np.zeros((n, n))

    def add(self, rows: npt.NDArray[np.int64], won: Floats, comparable: Floats) -> None:
        place = np.ix_(rows, rows)
        self.won[place] += won
        self.comparable[place] += comparable

    def ratio(self, counts: Floats) -> Floats:
        """Return the index for each row of counts (how often each patient was drawn)."""
        won = np.einsum("bi,bi->b", counts @ self.won, counts)
        comparable = np.einsum("bi,bi->b", counts @ self.comparable, counts)
        return np.where(comparable > 0, won / np.where(comparable > 0, comparable, 1), np.nan)


def _integrate(score: Floats, at: Floats) -> Floats:
    if len(at) == 1:
        return np.asarray(score[:, 0])
    return np.asarray(np.trapezoid(score, at, axis=1) / (at[-1] - at[0]), dtype=float)


def _draws(n: int, resamples: int, seed: int) -> Floats:
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def _prepare(table: pd.DataFrame, covariates: CovariateSettings, fold: Fold) -> tuple[Floats, Floats]:
    train = table.iloc[fold.train]
    preparation = Preparation(covariates).fit(train)
    return preparation.transform(train), preparation.transform(table.iloc[fold.test])


def _inner_score(candidate: Candidate, folds: Sequence[tuple[Floats, Floats, Outcome, Outcome]], seed: int) -> float:
    scores = []
    for x_train, x_tune, y_train, y_tune in folds:
        try:
            model = candidate.make().fit(x_train, y_train, seed=seed)
        except UsageError:
            # A candidate that cannot be estimated on an inner fold is not selected.
            return float("-inf")
        scores.append(harrell_c(y_tune, model.predict_risk(x_tune)))
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("-inf")


def _groups(train: Floats, test: Floats, groups: int) -> tuple[str, ...]:
    if np.ptp(train) <= TIED_RISK:
        return ("undivided",) * len(test)
    try:
        return tuple(RiskGroups.cut(train, groups).assign(test))
    except UsageError:
        # A model with constant risk (a penalty that removes every covariate) is scored as such.
        return ("undivided",) * len(test)


def _describe_settings(candidate: Candidate) -> str:
    return ", ".join(f"{k} {v}" for k, v in candidate.settings.items()) or "defaults"


def _seed(seed: int, name: str, fold: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}:{fold}".encode()).digest()[:4], "big")

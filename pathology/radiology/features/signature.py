"""Radiomic signatures: from hundreds of features to one score, with every step fitted inside the training fold.

The steps are those of the published deep-learning radiomic nomograms: imputation by the median, standardisation, a
univariate filter, removal of correlated features, mRMR, LASSO or recursive elimination, SMOTE, and a classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.ensemble import AdaBoostClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from pathology.errors import InputTableError, UsageError
from pathology.radiology.features.selection import (
    drop_correlated,
    lasso_features,
    mrmr_features,
    recursive_elimination,
    univariate_features,
)
from pathology.radiology.features.smote import audit_synthetic, smote
from pathology.settings import Record
from pathology.stats.splits import Fold, audit_leakage, grouped_k_fold, nested_folds
from pathology.stats.within_fold import NestedPredictions

__all__ = ["Classifier", "NestedScores", "Signature", "SignatureSettings", "fit_signature", "nested_scores"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Classifier = Literal["logistic", "svm", "forest", "boosting", "tree", "adaboost"]


class SignatureSettings(Record):
    """Settings of a radiomic signature."""

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Significance level of the univariate filter; 1 keeps every column."""
    least: Annotated[int, Field(ge=1)] = 10
    """Minimum number of columns kept by the filter."""
    correlation: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Maximum absolute Spearman correlation between kept columns."""
    mrmr: Annotated[int, Field(ge=1)] | None = 10
    """Columns kept by mRMR; ``None``: no mRMR."""
    reduction: Literal["lasso", "rfe", "none"] = "lasso"
    """Final selection: LASSO, recursive elimination with a linear SVM, or none."""
    eliminated_to: Annotated[int, Field(ge=1)] = 5
    """Columns kept by recursive elimination."""
    smote: bool = False
    """Oversample the minority class with synthetic rows, inside each training fold."""
    classifier: Classifier = "logistic"
    """Classifier on the selected columns."""
    inner_folds: Annotated[int, Field(ge=2)] = 5
    """Folds of the training patients for selecting the LASSO penalty."""
    seed: int = 0
    """Seed of folds, SMOTE and classifiers."""


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """A fitted signature.

    Attributes
    ----------
    settings
        Settings.
    columns
        Names of the selected columns, in the order of the arrays.
    median, centre, scale
        Imputation value, mean and standard deviation per column.
    classifier
        The fitted scikit-learn classifier.
    synthetic
        Number of synthetic training rows.
    """

    settings: SignatureSettings
    columns: tuple[str, ...]
    median: Floats
    centre: Floats
    scale: Floats
    classifier: Any
    synthetic: int = 0

    def score(self, table: pd.DataFrame) -> Floats:
        """Return a score per row, higher meaning class 1; log odds if the classifier provides them.

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
        return _score(self.classifier, (x - self.centre) / self.scale)


def _score(classifier: Any, x: Floats) -> Floats:  # noqa: ANN401  # any scikit-learn classifier
    if hasattr(classifier, "decision_function"):
        return np.asarray(classifier.decision_function(x), float)
    p = np.clip(np.asarray(classifier.predict_proba(x)[:, 1], float), 1e-3, 1 - 1e-3)
    return np.asarray(np.log(p / (1 - p)), float)


def _classifier(settings: SignatureSettings) -> Any:  # noqa: ANN401
    seed = settings.seed
    # Small depths and ensembles: with tens of patients anything larger overfits.
    kinds: dict[str, Callable[[], Any]] = {
        "logistic": lambda: LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000),
        "svm": lambda: SVC(kernel="rbf", C=1.0, class_weight="balanced"),
        "forest": lambda: RandomForestClassifier(
            200, max_depth=4, min_samples_leaf=2, class_weight="balanced", random_state=seed
        ),
        "boosting": lambda: GradientBoostingClassifier(n_estimators=60, max_depth=2, subsample=0.8, random_state=seed),
        "tree": lambda: DecisionTreeClassifier(
            max_depth=3, min_samples_leaf=3, class_weight="balanced", random_state=seed
        ),
        "adaboost": lambda: AdaBoostClassifier(n_estimators=50, random_state=seed),
    }
    return kinds[settings.classifier]()


def fit_signature(
    table: pd.DataFrame,
    labels: Labels,
    patients: Sequence[Hashable],
    settings: SignatureSettings | None = None,
    *,
    held_out: Sequence[Hashable] = (),
) -> Signature:
    """Fit a signature on training rows.

    Parameters
    ----------
    table
        Features, one row per examination; empty or constant columns are not used.
    labels
        0 or 1, length N.
    patients
        Patient of each row.
    settings
        How.
    held_out
        Test patients; the audit rejects their rows, real or synthetic.

    Raises
    ------
    UsageError
        Lengths differ, a class is missing, or no column varies.
    LeakageError
        If a held-out patient is among the rows.

    Examples
    --------
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 30)
    >>> table = pd.DataFrame({"volume": labels + rng.normal(0, 0.5, 60), "noise": rng.normal(size=60)})
    >>> signature = fit_signature(table, labels, [f"P{i}" for i in range(60)])
    >>> "volume" in signature.columns
    True
    """
    chosen = settings or SignatureSettings()
    if not len(table) == len(labels) == len(patients):
        raise UsageError(f"the table has {len(table)} rows for {len(labels)} labels and {len(patients)} patients")
    if held_out:
        audit_leakage(
            {"train": range(len(patients)), "held out": range(len(patients), len(patients) + len(held_out))},
            patients=[*patients, *held_out],
        )
    raw = table.to_numpy(float)
    known = np.isfinite(raw).sum(axis=0) >= max(2, len(raw) // 2)
    names = np.asarray(table.columns, dtype=object)[known]
    raw = raw[:, known]
    median = np.nanmedian(np.where(np.isfinite(raw), raw, np.nan), axis=0) if raw.shape[1] else np.zeros(0)
    filled = np.where(np.isfinite(raw), raw, median)
    centre, scale = filled.mean(axis=0), filled.std(axis=0)
    varies = scale > 1e-12 * np.maximum(1, np.abs(centre))
    if not varies.any():
        raise UsageError("all features are constant in the training patients")
    names, median, centre, scale = names[varies], median[varies], centre[varies], scale[varies]
    x = (filled[:, varies] - centre) / scale
    columns = _select(x, labels, patients, chosen)
    inputs, targets, made = x[:, columns], labels, 0
    if chosen.smote and np.ptp(np.bincount(labels, minlength=2)) > 0:
        rows = smote(inputs, labels, seed=chosen.seed)
        audit_synthetic(rows, patients, held_out)
        inputs = np.concatenate([inputs, rows.x])
        targets = np.concatenate([labels, np.full(len(rows.x), rows.label)])
        made = len(rows.x)
    classifier = _classifier(chosen).fit(inputs, targets)
    return Signature(
        settings=chosen,
        columns=tuple(str(n) for n in names[columns]),
        median=median[columns],
        centre=centre[columns],
        scale=scale[columns],
        classifier=classifier,
        synthetic=made,
    )


def _select(x: Floats, labels: Labels, patients: Sequence[Hashable], settings: SignatureSettings) -> NDArray[np.int64]:
    columns = univariate_features(x, labels, alpha=settings.alpha, least=settings.least)
    columns = drop_correlated(x, columns, limit=settings.correlation)
    if settings.mrmr is not None:
        columns = mrmr_features(x, labels, columns, count=settings.mrmr)
    if settings.reduction == "lasso" and len(columns) > 1:
        folds = _inner_folds(labels, patients, settings)
        columns = lasso_features(x, labels, columns, folds, seed=settings.seed)
    elif settings.reduction == "rfe":
        columns = recursive_elimination(x, labels, columns, count=settings.eliminated_to)
    return columns


def _inner_folds(labels: Labels, patients: Sequence[Hashable], settings: SignatureSettings) -> tuple[Fold, ...]:
    rarest = min(len({str(p) for p, y in zip(patients, labels, strict=True) if y == c}) for c in (0, 1))
    if rarest < 2:
        raise UsageError(f"a class has {rarest} training patient(s); LASSO requires two", remedy="Use fewer folds")
    return grouped_k_fold(patients, labels, k=min(settings.inner_folds, rarest), seed=settings.seed)


@dataclass(frozen=True, slots=True, eq=False)
class NestedScores:
    """Out-of-fold scores from nested cross-validation.

    Attributes
    ----------
    predictions
        Scores by repeat and row.
    chosen
        Candidate selected in each outer fold.
    columns
        Columns selected in each outer fold.
    folds
        The outer folds, repeat by repeat.
    """

    predictions: NestedPredictions
    chosen: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    folds: tuple[Fold, ...]


def nested_scores(
    table: pd.DataFrame,
    labels: Labels,
    patients: Sequence[Hashable],
    candidates: dict[str, SignatureSettings],
    *,
    outer: int = 5,
    inner: int = 3,
    repeats: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NestedScores:
    """Score every row by patient-level nested cross-validation.

    In each outer fold the candidate with the highest AUC over the inner folds is selected, fitted on the whole training
    part and applied to the test part.  With a single candidate the inner loop is skipped.

    Parameters
    ----------
    table, labels, patients
        As in :func:`fit_signature`.
    candidates
        Settings by name.
    outer, inner, repeats, seed
        Of the folds.
    progress
        Called with completed and total outer folds.
    """
    folds = nested_folds(patients, labels, outer=outer, inner=inner, repeats=repeats, seed=seed)
    scores = np.full((repeats, len(labels)), np.nan)
    place = np.zeros((repeats, len(labels)), np.int64)
    chosen: list[str] = []
    columns: list[tuple[str, ...]] = []
    owner = [str(p) for p in patients]
    for number, fold in enumerate(folds):
        train, test = fold.outer.train, fold.outer.test
        audit_leakage({"train": train, "test": test}, patients=owner)
        name = next(iter(candidates))
        if len(candidates) > 1:
            name = max(candidates, key=lambda n: _inner_auc(table, labels, owner, fold.inner, candidates[n]))
        fitted = fit_signature(
            table.iloc[train],
            labels[train],
            [owner[i] for i in train],
            candidates[name],
            held_out=[owner[i] for i in test],
        )
        scores[fold.outer.repeat, test] = fitted.score(table.iloc[test])
        place[fold.outer.repeat, test] = fold.outer.index
        chosen.append(name)
        columns.append(fitted.columns)
        if progress is not None:
            progress(number + 1, len(folds))
    return NestedScores(NestedPredictions(scores, place), tuple(chosen), tuple(columns), tuple(f.outer for f in folds))


def _inner_auc(
    table: pd.DataFrame, labels: Labels, owner: list[str], folds: Sequence[Fold], settings: SignatureSettings
) -> float:
    areas = []
    for fold in folds:
        if len(set(labels[fold.test])) < 2 or len(set(labels[fold.train])) < 2:
            continue
        held = [owner[i] for i in fold.test]
        fitted = fit_signature(
            table.iloc[fold.train], labels[fold.train], [owner[i] for i in fold.train], settings, held_out=held
        )
        areas.append(float(roc_auc_score(labels[fold.test], fitted.score(table.iloc[fold.test]))))
    return float(np.mean(areas)) if areas else 0.5

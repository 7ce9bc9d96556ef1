"""Feature selection: few features out of hundreds, for tens of patients.

Every function takes training rows only and returns column indices.  Columns must
not have missing values.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from pathology.errors import UsageError
from pathology.stats.splits import Fold

__all__ = ["drop_correlated", "lasso_features", "mrmr_features", "recursive_elimination", "univariate_features"]

Floats = NDArray[np.float64]
Columns = NDArray[np.int64]


def univariate_features(x: Floats, labels: NDArray[np.integer], *, alpha: float = 0.05, least: int = 5) -> Columns:
    """Select columns whose values differ between the two classes.

    Mann-Whitney U test (Mann and Whitney 1947), two-sided, asymptotic with tie correction; no correction for
    multiple testing, because this is a filter, not a test of significance.

    Parameters
    ----------
    x
        Shape (N, P).
    labels
        0 or 1, length N.
    alpha
        Significance level.
    least
        Minimum number of columns; filled up with the smallest p values.

    Returns
    -------
    numpy.ndarray
        Column indices, most significant first.

    Raises
    ------
    UsageError
        If a class has no rows.
    """
    _check_two_classes(labels)
    p = np.ones(x.shape[1])
    varies = np.ptp(x, axis=0) > 0
    if varies.any():
        p[varies] = stats.mannwhitneyu(x[labels == 1][:, varies], x[labels == 0][:, varies], method="asymptotic").pvalue
    order = np.argsort(p, kind="stable")
    order = order[varies[order]]
    return np.asarray(order[: max(least, int((p[varies] < alpha).sum()))], np.int64)


def drop_correlated(x: Floats, columns: Columns, *, limit: float = 0.9) -> Columns:
    """Remove each column that is highly correlated with a better one.

    Parameters
    ----------
    x
        Shape (N, P).
    columns
        Candidates, best first.
    limit
        Maximum absolute Spearman correlation with any column kept before.
    """
    ranks = stats.rankdata(x[:, columns], axis=0)
    correlation = np.abs(np.atleast_2d(_correlation(ranks)))
    kept: list[int] = []
    for i in range(len(columns)):
        if all(correlation[i, j] <= limit for j in kept):
            kept.append(i)
    return columns[kept]


def mrmr_features(x: Floats, labels: NDArray[np.integer], columns: Columns, *, count: int) -> Columns:
    """Select columns by minimum redundancy, maximum relevance (mRMR).

    Peng, Long and Ding 2005 (doi 10.1109/TPAMI.2005.159), difference form, greedy.  Mutual information is estimated as
    ``-0.5 ln(1 - rho²)`` with Spearman's rho, as in the R package mRMRe, because histograms of tens of patients hold
    no information on joint densities.

    Parameters
    ----------
    x
        Shape (N, P).
    labels
        0 or 1, length N.
    columns
        Candidates.
    count
        Number of columns to select.

    Returns
    -------
    numpy.ndarray
        Column indices in order of selection.
    """
    ranks = stats.rankdata(np.column_stack([x[:, columns], labels]), axis=0)
    information = -0.5 * np.log(np.maximum(1 - _correlation(ranks) ** 2, 1e-12))
    relevance, between = information[-1, :-1], information[:-1, :-1]
    chosen: list[int] = []
    redundancy = np.zeros(len(columns))
    while len(chosen) < min(count, len(columns)):
        score = relevance - (redundancy / len(chosen) if chosen else 0)
        score[chosen] = -np.inf
        best = int(np.argmax(score))
        chosen.append(best)
        redundancy += between[best]
    return columns[chosen]


def lasso_features(
    x: Floats,
    labels: NDArray[np.integer],
    columns: Columns,
    folds: tuple[Fold, ...],
    *,
    penalties: int = 15,
    one_standard_error: bool = False,
    seed: int = 0,
) -> Columns:
    """Select the columns with non-zero coefficients in an L1-penalised logistic regression (Tibshirani 1996).

    The penalty has the lowest mean log loss over inner folds, or, with ``one_standard_error``, is the strongest
    within one standard error of it (Hastie et al. 2009, section 7.10).  Columns must be standardised.

    Parameters
    ----------
    x
        Shape (N, P).
    labels
        0 or 1, length N.
    columns
        Candidates.
    folds
        Inner folds of the N rows, patients kept together.
    penalties
        Number of penalties, log-spaced from the one that removes every coefficient down to a hundredth of it.
    one_standard_error
        Use the one-standard-error rule, which prefers fewer columns.
    seed
        Seed of the solver.

    Returns
    -------
    numpy.ndarray
        Column indices, largest coefficient first; never empty: the first candidate if the penalty removes all.
    """
    part = x[:, columns]
    # Beyond this penalty every coefficient is 0: the largest gradient of the mean loss at 0 (balanced intercept).
    strongest = float(np.abs(part.T @ (labels - labels.mean())).max())
    strengths = max(strongest, 1e-6) * np.logspace(0, -2, penalties)
    losses = np.zeros((len(folds), penalties))
    for i, fold in enumerate(folds):
        for j, strength in enumerate(strengths):
            fitted = _l1(part[fold.train], labels[fold.train], strength, seed)
            score = fitted.decision_function(part[fold.test])
            # Cross-entropy of log odds, in the form that cannot overflow.
            losses[i, j] = float(np.mean(np.logaddexp(0, score) - labels[fold.test] * score))
    mean = losses.mean(axis=0)
    best = int(np.argmin(mean))
    if one_standard_error:
        allowed = mean[best] + losses[:, best].std(ddof=1) / np.sqrt(len(folds))
        best = int(np.flatnonzero(mean <= allowed)[0])
    coefficients = np.abs(_l1(part, labels, strengths[best], seed).coef_[0])
    order = np.argsort(-coefficients, kind="stable")
    kept = order[coefficients[order] > 0]
    return columns[kept] if len(kept) else columns[:1]


def recursive_elimination(x: Floats, labels: NDArray[np.integer], columns: Columns, *, count: int) -> Columns:
    """Recursively eliminate the column with the smallest linear SVM weight (Guyon et al. 2002).

    Parameters
    ----------
    x
        Shape (N, P), standardised.
    labels
        0 or 1, length N.
    columns
        Candidates.
    count
        Number of columns to keep.
    """
    if len(columns) <= count:
        return columns
    selector = RFE(SVC(kernel="linear", class_weight="balanced"), n_features_to_select=count, step=1)
    selector.fit(x[:, columns], labels)
    kept: Columns = columns[selector.support_]
    return kept


def _l1(x: Floats, labels: NDArray[np.integer], strength: float, seed: int) -> LogisticRegression:
    # scikit-learn's C is the inverse of the penalty on the summed loss.
    model = LogisticRegression(
        l1_ratio=1.0, C=1 / strength, solver="liblinear", random_state=seed, max_iter=1000, class_weight="balanced"
    )
    with warnings.catch_warnings():
        # Weak penalties on separable data never converge; their log loss rules them out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, labels)


def _correlation(ranks: Floats) -> Floats:
    centred = ranks - ranks.mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = (centred.T @ centred) / np.outer(scale, scale)
    # A constant column has correlation 0.
    return np.asarray(np.clip(np.nan_to_num(matrix), -1, 1), float)


def _check_two_classes(labels: NDArray[np.integer]) -> None:
    if set(np.unique(labels)) != {0, 1}:
        raise UsageError(f"labels must hold 0 and 1, got {sorted(np.unique(labels))}", remedy="Use fewer folds")

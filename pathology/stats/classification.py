"""Classification metrics with n and an interval.

A bootstrap computes a metric thousands of times on few rows, where scikit-learn's input validation takes a hundred
times as long as the arithmetic.  So the metrics are implemented here, and the tests check that they equal
scikit-learn's.

If each patient has one row, proportions get Wilson's interval and areas DeLong's; if patients have several rows (tiles,
slides), everything is bootstrapped by patient, because their rows are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn import metrics as sk

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.delong import delong
from pathology.stats.intervals import Interval, wilson

__all__ = [
    "ClassificationReport",
    "area_under_precision_recall",
    "area_under_roc",
    "classification_report",
    "expected_calibration_error",
    "optimal_threshold",
    "score_by_patient",
]

Floats = npt.NDArray[np.float64]
Labels = Sequence[int] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]
Groups = Sequence[Hashable] | npt.NDArray[np.generic]


class ClassificationReport(Record):
    """Metrics of a multi-class model: overall and one-vs-rest by class."""

    classes: tuple[str, ...]
    rows: int
    patients: int
    support: dict[str, int]
    """Rows of each class: the n of that class's metrics."""
    confusion: tuple[tuple[int, ...], ...]
    """Rows are the truth, columns the prediction, both in the order of ``classes``."""
    accuracy: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    macro_auc: Interval
    """Mean of the one-vs-rest areas of the classes present."""
    kappa: Interval
    """Cohen's kappa."""
    calibration_error: Interval
    """Expected calibration error of the predicted class, 15 equal bins."""
    auc: dict[str, Interval]
    """One-vs-rest; NaN for an absent class."""
    recall: dict[str, Interval]
    precision: dict[str, Interval]


def area_under_roc(
    labels: Labels,
    scores: Floats,
    *,
    patients: Groups | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the area under the ROC curve.

    Parameters
    ----------
    labels
        0 or 1, length N.
    scores
        Higher means more likely 1, shape (N,).
    patients
        Patient of each row; if one has several rows, the interval is bootstrapped by patient, otherwise DeLong's.
    level, resamples, seed
        Settings of the interval.

    Raises
    ------
    UsageError
        Lengths differ or labels are not 0 and 1.

    Examples
    --------
    >>> print(area_under_roc([0, 0, 0, 1, 1, 1], np.array([0.1, 0.3, 0.6, 0.5, 0.8, 0.9])))
    0.889 (95 % CI 0.581-1, n = 6)
    """
    if patients is None or _one_row_each(patients):
        return delong(labels, scores, level=level)
    truth = _binary(labels, scores)
    return bootstrap(lambda r: _auc(truth[r], scores[r]), patients, level=level, resamples=resamples, seed=seed)


def area_under_precision_recall(
    labels: Labels,
    scores: Floats,
    *,
    patients: Groups | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return average precision (scikit-learn's, no interpolation), bootstrapped by patient.

    Parameters and errors are those of :func:`area_under_roc`.  The baseline is the fraction of positives: the score of
    an uninformative model.
    """
    truth = _binary(labels, scores)
    owner = np.arange(len(truth)) if patients is None else patients
    return bootstrap(
        lambda r: _average_precision(truth[r], scores[r]), owner, level=level, resamples=resamples, seed=seed
    )


def classification_report(
    labels: Sequence[int] | npt.NDArray[np.integer],
    probabilities: Floats,
    classes: Sequence[str],
    *,
    patients: Groups | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ClassificationReport:
    """Compute the metrics of a model with two or more classes.

    Parameters
    ----------
    labels
        Class numbers, length N.
    probabilities
        Shape (N, C), rows summing to 1.
    classes
        C names.
    patients, level, resamples, seed
        As in :func:`area_under_roc`.

    Raises
    ------
    UsageError
        Shapes do not match, or a label is out of range.

    Examples
    --------
    >>> probabilities = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
    >>> report = classification_report([0, 0, 1, 1], probabilities, ["stroma", "tumour"], resamples=200)
    >>> report.accuracy.value
    1.0
    """
    truth = np.asarray(labels, dtype=np.int64)
    p = np.asarray(probabilities, dtype=float)
    if p.shape != (len(truth), len(classes)) or len(truth) == 0:
        raise UsageError(
            f"probabilities have shape {p.shape}, expected ({len(truth)}, {len(classes)}) with at least one row"
        )
    if truth.min() < 0 or truth.max() >= len(classes):
        raise UsageError(f"label {int(truth.max())} is out of range for {len(classes)} classes")
    called = p.argmax(axis=1)
    owner: Groups = np.arange(len(truth)) if patients is None else patients
    single = _one_row_each(owner)
    numbers = list(range(len(classes)))

    def share(right: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Interval:
        return _share(right, among, owner, single, level=level, resamples=resamples, seed=seed)

    def resampled(figure: Callable[[npt.NDArray[np.int64]], float]) -> Interval:
        return bootstrap(figure, owner, level=level, resamples=resamples, seed=seed)

    def macro_auc(r: npt.NDArray[np.int64]) -> float:
        present = [c for c in numbers if 0 < np.sum(truth[r] == c) < len(r)]
        return float(np.mean([_auc(truth[r] == c, p[r, c]) for c in present])) if present else float("nan")

    def confusion(r: npt.NDArray[np.int64]) -> Floats:
        return _confusion(truth[r], called[r], len(classes))

    everybody = np.ones(len(truth), dtype=bool)
    return ClassificationReport(
        classes=tuple(classes),
        rows=len(truth),
        patients=len({str(o) for o in owner}),
        support={name: int(np.sum(truth == c)) for c, name in enumerate(classes)},
        confusion=tuple(tuple(int(v) for v in row) for row in confusion(np.arange(len(truth)))),
        accuracy=share(truth == called, everybody),
        balanced_accuracy=resampled(lambda r: _balanced_accuracy(truth[r], called[r])),
        macro_f1=resampled(lambda r: _macro_f1(confusion(r))),
        macro_auc=resampled(macro_auc),
        kappa=resampled(lambda r: _kappa(confusion(r))),
        calibration_error=resampled(lambda r: expected_calibration_error(truth[r], p[r])),
        auc={
            name: area_under_roc(truth == c, p[:, c], patients=owner, level=level, resamples=resamples, seed=seed)
            for c, name in enumerate(classes)
        },
        recall={name: share(called == c, truth == c) for c, name in enumerate(classes)},
        precision={name: share(truth == c, called == c) for c, name in enumerate(classes)},
    )


def expected_calibration_error(
    labels: Sequence[int] | npt.NDArray[np.integer], probabilities: Floats, *, bins: int = 15
) -> float:
    """Return the expected calibration error of the predicted class (Guo 2017, ICML, equation 3).

    Parameters
    ----------
    labels
        Class numbers, length N.
    probabilities
        Shape (N, C).
    bins
        Number of equal bins over 0..1; each excludes its lower and includes its upper edge.

    Returns
    -------
    float
        Mean distance between confidence and accuracy, weighted by bin size, 0 to 1.
    """
    truth, p = np.asarray(labels), np.asarray(probabilities, dtype=float)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    size = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, right, bins) - np.bincount(place, confidence, bins))
    return float(gap.sum() / size.sum())


def optimal_threshold(
    labels: Labels, scores: Floats, *, rule: Literal["nearest-corner", "youden"] = "nearest-corner"
) -> float:
    """Choose a threshold on training data.

    Parameters
    ----------
    labels
        0 or 1, length N.
    scores
        Higher means more likely 1, shape (N,).
    rule
        ``nearest-corner``: the ROC point nearest (0, 1), as DeepPATH does; ``youden``: largest sensitivity +
        specificity - 1.  Ties go to the higher threshold.

    Returns
    -------
    float
        Predict 1 where ``score >= threshold``.

    Raises
    ------
    UsageError
        Only one class is present.
    """
    truth = _binary(labels, scores)
    if truth.all() or not truth.any():
        raise UsageError("a threshold needs both classes", remedy="Choose it on data with cases of each class")
    fpr, tpr, thresholds = sk.roc_curve(truth, scores, drop_intermediate=False)
    # roc_curve's first point predicts no positives, with threshold inf, which is not a usable score.
    cost = np.hypot(fpr, 1 - tpr)[1:] if rule == "nearest-corner" else (fpr - tpr)[1:]
    return float(thresholds[1:][int(np.argmin(np.round(cost, 12)))])


def score_by_patient(probabilities: Floats, patients: Groups) -> tuple[list[str], Floats]:
    """Average the rows of each patient.

    Parameters
    ----------
    probabilities
        Shape (N, C) or (N,).
    patients
        Patient of each row.

    Returns
    -------
    tuple
        Patient ids in ascending order and their means, shape (P, C) or (P,).
    """
    names, owner = np.unique(np.asarray([str(p) for p in patients]), return_inverse=True)
    p = np.asarray(probabilities, dtype=float)
    total = np.zeros((len(names), *p.shape[1:]))
    np.add.at(total, owner, p)
    size = np.bincount(owner).reshape(-1, *[1] * (p.ndim - 1))
    return [str(n) for n in names], total / size


def _share(
    right: npt.NDArray[np.bool_],
    among: npt.NDArray[np.bool_],
    owner: Groups,
    single: bool,
    *,
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    if not among.any():
        return Interval(value=np.nan, low=np.nan, high=np.nan, level=level, n=0, method="no rows")
    if single:
        return wilson(int(np.sum(right & among)), int(among.sum()), level=level)
    chosen = np.flatnonzero(among)
    held = right[chosen]
    ids = [owner[int(i)] for i in chosen]
    return bootstrap(lambda r: float(held[r].mean()), ids, level=level, resamples=resamples, seed=seed)


def _one_row_each(patients: Groups) -> bool:
    ids = [str(p) for p in patients]
    return len(set(ids)) == len(ids)


def _auc(truth: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic; ties count half."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    above = float(rankdata(scores)[truth].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)


def _average_precision(truth: npt.NDArray[np.bool_], scores: Floats) -> float:
    """Sum over distinct scores of precision times the increase in recall."""
    positives = int(truth.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    found = np.cumsum(truth[order])[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / positives)


def _confusion(truth: npt.NDArray[np.int64], called: npt.NDArray[np.int64], classes: int) -> Floats:
    """Rows are the truth, columns the prediction."""
    counts = np.bincount(truth * classes + called, minlength=classes**2)
    return np.asarray(counts.reshape(classes, classes), np.float64)


def _macro_f1(confusion: Floats) -> float:
    """Mean F1 over the classes that occur."""
    right, true, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    present = true > 0
    return float(np.mean(2 * right[present] / (true + called)[present]))


def _kappa(confusion: Floats) -> float:
    """Cohen's kappa (1960); NaN if truth and prediction are a single class."""
    total = confusion.sum()
    chance = float(confusion.sum(axis=0) @ confusion.sum(axis=1)) / total**2
    return (float(np.trace(confusion)) / total - chance) / (1 - chance) if chance < 1 else float("nan")


def _balanced_accuracy(truth: npt.NDArray[np.generic], called: npt.NDArray[np.generic]) -> float:
    # Mean recall over the classes present; scikit-learn's function warns about predicted classes that are absent.
    return float(np.mean([np.mean(called[truth == c] == c) for c in np.unique(truth)]))


def _binary(labels: Labels, scores: Floats) -> npt.NDArray[np.bool_]:
    truth = np.asarray(labels)
    if truth.ndim != 1 or truth.shape != np.shape(scores) or not np.isin(truth, (0, 1)).all():
        raise UsageError(
            f"labels have shape {truth.shape} for scores of shape {np.shape(scores)}, expected 0 and 1 for each"
        )
    return truth.astype(bool)

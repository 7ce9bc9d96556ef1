"""Conformal prediction sets: "LMS or UPS" with a stated probability of containing the true class.

Split conformal prediction (Vovk et al. 2005; Papadopoulos et al. 2002): scores of calibration slides not used in
training give a threshold; the set of a new slide contains every class whose score does not exceed it.  If the new slide
and the calibration slides are exchangeable, the set contains the true class with at least the stated probability,
whatever the model and however few the slides; with too few, the set contains every class.  Slides of one patient are
not exchangeable with slides of others, so one slide per patient is drawn (Dunn, Wasserman and Ramdas 2022, JASA,
"Distribution-free prediction sets for two-layer hierarchical models").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = [
    "ConformalRule",
    "Coverage",
    "conformal_quantile",
    "coverage",
    "fit_conformal",
    "one_per_patient",
    "prediction_sets",
]

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Method = Literal["lac", "aps"]


class ConformalRule(Record):
    """Rule that converts a slide's class probabilities to a set of classes."""

    method: Method
    """``lac``: the least ambiguous set classifier (Sadinle, Lei and Wasserman 2019, JASA), smallest sets on average.
    ``aps``: adaptive prediction sets (Romano, Sesia and Candès 2020, NeurIPS) without randomisation, larger sets for
    hard cases."""
    coverage: Annotated[float, Field(gt=0, lt=1)]
    """Probability that the set contains the true class, for a patient like the calibration patients."""
    threshold: float | None
    """Largest score included in the set; ``None``: too few calibration slides for the coverage, so that only the set of
    all classes guarantees it."""
    n: Annotated[int, Field(ge=0)]
    """Number of calibration slides or patients behind the threshold."""
    unit: str = "patients"
    """Unit of the count."""
    data: str = ""
    """Source of the calibration data."""


class Coverage(Record):
    """Observed coverage of prediction sets on labelled slides."""

    covered: Annotated[int, Field(ge=0)]
    """Slides whose set contains the true class."""
    n: Annotated[int, Field(ge=1)]
    """Number of slides."""
    share: float
    """Fraction covered."""
    interval: tuple[float, float]
    """Its 95 % Wilson interval."""
    mean_size: float
    """Mean number of classes in a set."""
    single: float
    """Fraction of slides with exactly one class in the set (decided)."""
    empty: float
    """Fraction of slides with an empty set."""


def conformal_quantile(scores: Floats, miss: float) -> float | None:
    """Return the threshold that a new exchangeable score exceeds with probability at most ``miss``.

    It is the ``ceil((n + 1) (1 - miss))``-th smallest of the ``n`` scores (Lei et al. 2018, JASA, section 2).

    Parameters
    ----------
    scores
        ``(n,)``.
    miss
        Miss rate, between 0 and 1 (exclusive).

    Returns
    -------
    float or None
        ``None`` if ``n`` is too small: a bound needs at least ``1 / miss - 1`` scores.
    """
    n = len(scores)
    # Rounded first: (n + 1) * (1 - 0.1) is 9.000000000000002 at n = 9.
    rank = math.ceil(round((n + 1) * (1 - miss), 9))
    return None if rank > n else float(np.sort(np.asarray(scores, np.float64))[rank - 1])


def one_per_patient(patients: Sequence[str], *, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return one row of each patient, drawn at random, in the patients' order.

    Parameters
    ----------
    patients
        Patient of each row.
    seed
        Seed of the draw.
    """
    random = np.random.default_rng(seed)
    names = np.asarray(patients)
    return np.array([random.choice(np.flatnonzero(names == name)) for name in np.unique(names)], np.int64)


def fit_conformal(
    probabilities: Floats,
    labels: Sequence[int] | npt.NDArray[np.integer],
    *,
    patients: Sequence[str] | None = None,
    coverage: float = 0.9,
    method: Method = "lac",
    data: str = "",
    seed: int = 0,
) -> ConformalRule:
    """Fit the threshold on calibration slides.

    Parameters
    ----------
    probabilities
        ``(N, C)`` slide-level probabilities of slides not used for training or model selection.
    labels
        Class numbers, length N.
    patients
        Patient of each slide; one slide per patient is drawn.  ``None``: every slide is a patient.
    coverage
        Target probability that the set contains the true class.
    method
        See :attr:`ConformalRule.method`.
    data
        Description of the data, stored in the rule.
    seed
        Seed of the draw.

    Raises
    ------
    UsageError
        If shapes do not match, a probability is missing, or there are no slides.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> right = rng.uniform(0.4, 1.0, 200)
    >>> rule = fit_conformal(np.column_stack([right, 1 - right]), np.zeros(200, int), coverage=0.9)
    >>> prediction_sets(np.array([[0.95, 0.05], [0.5, 0.5]]), rule).tolist()
    [[True, False], [True, True]]
    """
    p, truth = _checked(probabilities), np.asarray(labels, np.int64)
    if len(p) != len(truth) or not len(p):
        raise UsageError(f"{len(p)} rows of probabilities for {len(truth)} labels; expected equal, non-zero numbers")
    rows = np.arange(len(p)) if patients is None else one_per_patient(patients, seed=seed)
    scores = _scores(p[rows], method)[np.arange(len(rows)), truth[rows]]
    return ConformalRule(
        method=method,
        coverage=coverage,
        threshold=conformal_quantile(scores, 1 - coverage),
        n=len(rows),
        data=data,
    )


def prediction_sets(probabilities: Floats, rule: ConformalRule) -> Bools:
    """Return which classes belong to each slide's set.

    Parameters
    ----------
    probabilities
        ``(N, C)``.
    rule
        The fitted rule.

    Returns
    -------
    numpy.ndarray
        ``(N, C)`` bool.  A ``lac`` set may be empty: no class is probable enough.

    Examples
    --------
    >>> right = np.linspace(0.4, 1.0, 200)
    >>> rule = fit_conformal(np.column_stack([right, 1 - right]), np.zeros(200, int))
    >>> prediction_sets(np.array([[0.95, 0.05]]), rule).tolist()
    [[True, False]]
    """
    p = _checked(probabilities)
    if rule.threshold is None:
        return np.ones(p.shape, bool)
    sets: Bools = _scores(p, rule.method) <= rule.threshold + 1e-12
    if rule.method == "aps":
        # The predicted class alone may exceed a low threshold; the set is then that class, which preserves coverage.
        sets[np.arange(len(p)), p.argmax(axis=1)] = True
    return sets


def coverage(sets: Bools, labels: Sequence[int] | npt.NDArray[np.integer]) -> Coverage:
    """Measure the coverage of prediction sets on labelled slides.

    Parameters
    ----------
    sets
        ``(N, C)`` bool; the interval is valid for one row per patient.
    labels
        Class numbers, length N.
    """
    from pathology.stats.intervals import wilson

    truth = np.asarray(labels, np.int64)
    hits = int(sets[np.arange(len(truth)), truth].sum())
    interval, sizes = wilson(hits, len(truth)), sets.sum(axis=1)
    return Coverage(
        covered=hits,
        n=len(truth),
        share=hits / len(truth),
        interval=(interval.low, interval.high),
        mean_size=float(sizes.mean()),
        single=float((sizes == 1).mean()),
        empty=float((sizes == 0).mean()),
    )


def _scores(p: npt.NDArray[np.float64], method: Method) -> npt.NDArray[np.float64]:
    """Return the nonconformity score of each class, ``(N, C)``."""
    if method == "lac":
        return 1 - p
    # Probability of the class plus all more probable ones.
    order = np.argsort(-p, axis=1, kind="stable")
    running = np.cumsum(np.take_along_axis(p, order, axis=1), axis=1)
    result = np.empty_like(p)
    np.put_along_axis(result, order, running, axis=1)
    return result


def _checked(probabilities: Floats) -> npt.NDArray[np.float64]:
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not np.isfinite(p).all():
        raise UsageError(f"probabilities: expected (N, C) without missing values, got {p.shape}")
    return p

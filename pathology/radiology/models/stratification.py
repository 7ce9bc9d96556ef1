"""Survival stratification by the predictions of a classifier."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from pathology.bundle.card import Metric
from pathology.radiology.models.recipe import as_metric
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval
from pathology.survival.metrics import harrell_c, log_rank
from pathology.survival.models.cox import CoxModel
from pathology.survival.outcome import Outcome

__all__ = ["predicted_groups", "stratification_metrics"]


def predicted_groups(probability: npt.ArrayLike, classes: tuple[str, str]) -> list[str]:
    """Return the predicted class of each patient, with a threshold of 0.5.

    The threshold is fixed, so it is not fitted on the evaluated patients.
    """
    return [f"predicted {classes[int(p >= 0.5)]}" for p in np.asarray(probability, float)]


def stratification_metrics(
    outcome: Outcome, probability: npt.ArrayLike, classes: tuple[str, str], *, data: str, what: str, seed: int = 0
) -> tuple[Metric, ...]:
    """Compute the association of the class 1 probability with survival.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    probability
        Of class 1, by models that saw none of these patients, shape (N,).
    classes
        Names of the two classes.
    data
        On whom, and how the probabilities came about.
    what
        The event, such as ``death``.
    seed
        Of the bootstrap.

    Returns
    -------
    tuple of Metric
        The concordance index of the probability, and the hazard ratio of the predicted classes (Cox, Wald interval)
        with the log-rank test in its note.  Without a value where all patients are given one class.
    """
    p = np.asarray(probability, float)
    groups = predicted_groups(p, classes)
    high = np.asarray([g == f"predicted {classes[1]}" for g in groups])

    def concordance(rows: npt.NDArray[np.int64]) -> float:
        return harrell_c(outcome.take(rows), p[rows])

    data = f"{data}; {len(outcome)} patients, {outcome.events} events ({what})"
    metrics = [
        as_metric(
            "concordance index of the probability",
            bootstrap(concordance, list(range(len(p))), seed=seed),
            unit="patients",
            data=data,
        )
    ]
    metric = f"hazard ratio, predicted {classes[1]} vs predicted {classes[0]}"
    counts = f"{int((~high).sum())} and {int(high.sum())} patients predicted {classes[0]} and {classes[1]}"
    if high.all() or not high.any() or not outcome.event[high].any() or not outcome.event[~high].any():
        note = f"{counts}: a group without patients or events has no hazard ratio"
        nothing = Metric(
            metric=metric, value=None, interval=None, method="none", n=len(p), unit="patients", data=data, note=note
        )
        return (*metrics, nothing)
    model = CoxModel().fit(high.astype(float)[:, None], outcome)
    beta, error = float(model.coefficients[0]), float(np.sqrt(model.covariance[0, 0]))
    z = float(stats.norm.ppf(0.975))
    low, middle, top = (float(np.exp(beta + k * z * error)) for k in (-1, 0, 1))
    ratio = Interval(value=middle, low=low, high=top, n=len(p), method="Cox, Wald")
    test = log_rank(outcome, groups)
    note = f"{counts}; log-rank p = {test.p:.3f}"
    return (*metrics, as_metric(metric, ratio, unit="patients", data=data, note=note))

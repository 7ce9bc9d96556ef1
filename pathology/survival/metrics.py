"""Metrics of survival predictions: discrimination, accuracy, calibration, clinical utility.

All functions are pure and take numpy arrays; censoring is handled by inverse-probability-of-censoring weights whose
distribution comes from the *training* patients.  Held equal to scikit-survival, lifelines and torchsurv in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.intervals import Interval
from pathology.survival.nonparametric import StepFunction, censoring_distribution, kaplan_meier
from pathology.survival.outcome import Outcome

__all__ = [
    "LogRank",
    "SurvivalCalibrationGroup",
    "SurvivalDecisionCurve",
    "brier_score",
    "brier_terms",
    "calibration_slope",
    "case_control_pairs",
    "comparable_pairs",
    "dynamic_auc",
    "harrell_c",
    "integrated_brier_score",
    "inverse_or_zero",
    "inverse_probability_weights",
    "log_rank",
    "observed_to_expected",
    "survival_calibration_groups",
    "survival_decision_curve",
    "uno_c",
]

Floats = npt.NDArray[np.float64]
TIED_RISK = 1e-8
"""Tolerance for tied risks (that of scikit-survival)."""


class LogRank(Record):
    """A comparison of survival between groups."""

    groups: tuple[str, ...]
    patients: tuple[int, ...]
    observed: tuple[float, ...]
    """Observed events in each group."""
    expected: tuple[float, ...]
    """Expected events in each group under equal hazards."""
    statistic: float
    degrees_of_freedom: int
    p: float


class SurvivalCalibrationGroup(Record):
    """A calibration group: patients with similar predictions and their observed survival."""

    patients: int
    predicted: float
    """Mean predicted event-free probability at the horizon."""
    observed: Interval
    """Kaplan-Meier estimate at the horizon."""


class SurvivalDecisionCurve(Record):
    """Net benefit over a range of thresholds (Vickers and Elkin 2006; with censoring, Vickers 2008)."""

    horizon: float
    patients: int
    thresholds: tuple[float, ...]
    """Threshold probabilities: event risk at the horizon above which to intervene, 0 to 1."""
    model: tuple[float, ...]
    treat_all: tuple[float, ...]
    treat_none: tuple[float, ...]


def harrell_c(outcome: Outcome, risk: npt.ArrayLike) -> float:
    """Return Harrell's concordance index (Harrell 1982, JAMA 247:2543).

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    risk
        Higher means earlier event, shape (N,).

    Returns
    -------
    float
        Fraction of comparable pairs in which the patient with the earlier event had the higher risk; tied risks count
        one half.  A pair is comparable when the shorter time ends in an event, or both times are equal and exactly
        one ends in an event.  NaN without comparable pairs.

    Examples
    --------
    >>> from pathology.survival import Outcome
    >>> outcome = Outcome(np.array([100.0, 200.0, 300.0, 400.0]), np.array([1, 0, 1, 1]))
    >>> harrell_c(outcome, [4.0, 3.0, 2.0, 1.0])
    1.0
    """
    good, comparable = _concordance(outcome, _risks(outcome, risk), np.ones(len(outcome)))
    return good / comparable if comparable > 0 else float("nan")


def uno_c(train: Outcome, test: Outcome, risk: npt.ArrayLike, *, tau: float | None = None) -> float:
    """Return Uno's concordance index (Uno 2011, Stat Med 30:1105), which does not depend on censoring.

    Parameters
    ----------
    train
        Patients used to estimate the censoring distribution.
    test
        N test patients.
    risk
        Their predicted risks; higher means earlier event, shape (N,).
    tau
        Truncation time; must lie within the training follow-up.

    Returns
    -------
    float
        0 to 1; NaN without comparable pairs.

    Raises
    ------
    UsageError
        An event lies where the estimated censoring survival is zero.

    Examples
    --------
    >>> from pathology.survival import Outcome
    >>> outcome = Outcome(np.array([100.0, 200.0, 300.0, 400.0]), np.array([1, 0, 1, 1]))
    >>> uno_c(outcome, outcome, [4.0, 3.0, 2.0, 1.0])
    1.0
    """
    r = _risks(test, risk)
    counted = test.event if tau is None else test.event & (test.time < tau)
    weight = np.zeros(len(test))
    weight[counted] = _reciprocal(censoring_distribution(train), test.time[counted], train) ** 2
    good, comparable = _concordance(test, r, weight)
    return good / comparable if comparable > 0 else float("nan")


def dynamic_auc(train: Outcome, test: Outcome, risk: npt.ArrayLike, times: npt.ArrayLike) -> Floats:
    """Return the cumulative/dynamic AUC (Uno 2007, JASA 102:527).

    At each time, patients with an event by then are cases, event-free patients are controls.

    Parameters
    ----------
    train
        Patients used to estimate the censoring distribution.
    test
        N test patients.
    risk
        Higher means earlier event; shape (N,), or (N, T) for time-dependent predictions.
    times
        T times, ascending, within the follow-up of ``test``.

    Returns
    -------
    ndarray, shape (T,)
        NaN at times without cases or controls.

    Raises
    ------
    UsageError
        Shapes do not match, or a case lies where the estimated censoring survival is zero.
    """
    at = _times(times)
    r = np.asarray(risk, dtype=float)
    r = np.broadcast_to(r[:, None], (len(test), len(at))) if r.ndim == 1 else r
    if r.shape != (len(test), len(at)) or not np.isfinite(r).all():
        raise UsageError(
            f"risks have shape {r.shape}, expected ({len(test)},) or ({len(test)}, {len(at)}), all numbers"
        )
    weight = np.zeros(len(test))
    counted = test.event & (test.time <= at[-1])
    weight[counted] = _reciprocal(censoring_distribution(train), test.time[counted], train)
    areas = np.full(len(at), np.nan)
    for i, t in enumerate(at):
        won, comparable = case_control_pairs(test, r[:, i], weight, t)
        if comparable.any():
            areas[i] = won.sum() / comparable.sum()
    return areas


def brier_score(train: Outcome, test: Outcome, survival: npt.ArrayLike, times: npt.ArrayLike) -> Floats:
    """Return the Brier score with inverse-probability-of-censoring weights (Graf 1999, Stat Med 18:2529).

    Parameters
    ----------
    train
        Patients used to estimate the censoring distribution.
    test
        N test patients.
    survival
        Predicted event-free probability at each time, shape (N, T).
    times
        T times, ascending.

    Returns
    -------
    ndarray, shape (T,)
        0 is perfect; a constant prediction of 0.5 scores 0.25.

    Raises
    ------
    UsageError
        Shapes do not match or a probability is outside 0..1.
    """
    at = _times(times)
    p = np.asarray(survival, dtype=float)
    if p.shape != (len(test), len(at)) or not np.isfinite(p).all() or p.min() < -1e-9 or p.max() > 1 + 1e-9:
        raise UsageError(f"survival has shape {p.shape}, expected ({len(test)}, {len(at)}) of probabilities 0 to 1")
    return np.asarray(brier_terms(train, test, p, at).mean(axis=0))


def integrated_brier_score(train: Outcome, test: Outcome, survival: npt.ArrayLike, times: npt.ArrayLike) -> float:
    """Return the mean of :func:`brier_score` over ``times`` by the trapezoidal rule; two times at least.

    Examples
    --------
    >>> from pathology.survival import Outcome
    >>> outcome = Outcome(np.array([100.0, 200.0, 300.0, 400.0]), np.array([1, 0, 1, 1]))
    >>> integrated_brier_score(outcome, outcome, np.full((4, 2), 0.5), [150.0, 250.0])
    0.25
    """
    at = _times(times)
    if len(at) < 2:
        raise UsageError("an integrated Brier score needs at least two times")
    scores = brier_score(train, test, survival, at)
    return float(np.trapezoid(scores, at) / (at[-1] - at[0]))


def inverse_probability_weights(train: Outcome, outcome: Outcome, horizon: float) -> Floats:
    """Return inverse-probability-of-censoring weights for the status at a fixed horizon.

    Patients with known status at the horizon (event before it, or observed up to it) get 1 / G(min(time, horizon));
    patients censored earlier get 0.  Weighting avoids excluding patients with short follow-up, which
    over-represents deaths.

    Parameters
    ----------
    train
        Patients used to estimate the censoring distribution.
    outcome
        N patients to weight.
    horizon
        Prediction horizon.

    Returns
    -------
    ndarray, shape (N,)
    """
    known = outcome.event | (outcome.time >= horizon)
    return np.where(known, inverse_or_zero(censoring_distribution(train)(np.minimum(outcome.time, horizon))), 0.0)


def observed_to_expected(outcome: Outcome, survival: npt.ArrayLike, horizon: float) -> float:
    """Return observed (Kaplan-Meier) over expected events at the horizon: 1 means calibration-in-the-large.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    survival
        Predicted event-free probability at ``horizon``, shape (N,).
    horizon
        Prediction horizon.
    """
    expected = 1 - float(np.mean(np.asarray(survival, dtype=float)))
    return float((1 - kaplan_meier(outcome).at(horizon)) / expected) if expected > 0 else float("nan")


def calibration_slope(outcome: Outcome, survival: npt.ArrayLike, horizon: float) -> float:
    """Return the calibration slope: 1 is ideal, below 1 means too extreme predictions.

    The slope is the coefficient of log(-log S) in a proportional hazards model of the follow-up up to the horizon
    (van Houwelingen 2000, Stat Med 19:3401), by Newton's method on Breslow's partial likelihood.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    survival
        Predicted event-free probability at ``horizon``, shape (N,).
    horizon
        Prediction horizon.

    Returns
    -------
    float
        NaN for constant predictions or no events.
    """
    p = np.clip(np.asarray(survival, dtype=float), 1e-12, 1 - 1e-12)
    x = np.log(-np.log(p))
    cut = outcome.censored_at(horizon)
    if cut.events == 0 or np.ptp(x) < 1e-12:
        return float("nan")
    x = x - x.mean()
    order = np.argsort(-cut.time, kind="stable")
    times, x, event = cut.time[order], x[order], cut.event[order]
    last_of_tie = np.searchsorted(-times, -times, side="right") - 1

    def score(beta: float) -> float:
        risk = np.exp(np.clip(beta * x, -500, 500))
        mean = np.cumsum(risk * x)[last_of_tie] / np.cumsum(risk)[last_of_tie]
        return float(np.sum((x - mean)[event]))

    low, high = -1.0, 1.0
    while score(low) < 0 and low > -64:
        low *= 2
    while score(high) > 0 and high < 64:
        high *= 2
    if score(low) < 0 or score(high) > 0:
        return float("nan")
    return float(optimize.brentq(score, low, high, xtol=1e-10))


def survival_calibration_groups(
    outcome: Outcome, survival: npt.ArrayLike, horizon: float, *, groups: int = 5, level: float = 0.95
) -> tuple[SurvivalCalibrationGroup, ...]:
    """Compare predicted and observed survival at a horizon in groups of similar prediction.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    survival
        Predicted event-free probability at ``horizon``, shape (N,).
    horizon
        Prediction horizon.
    groups
        Number of groups of equal size.
    level
        Confidence level of the observed survival.

    Raises
    ------
    UsageError
        Fewer patients than groups.
    """
    p = np.asarray(survival, dtype=float)
    if len(p) < groups:
        raise UsageError(f"{len(p)} patients are too few for {groups} groups")
    result = []
    for rows in np.array_split(np.argsort(p, kind="stable"), groups):
        curve = kaplan_meier(outcome.take(rows), level=level)
        steps = [StepFunction(curve.times, v, 1.0)(horizon) for v in (curve.survival, curve.low, curve.high)]
        result.append(
            SurvivalCalibrationGroup(
                patients=len(rows),
                predicted=float(p[rows].mean()),
                observed=Interval(
                    value=float(steps[0]),
                    low=float(steps[1]),
                    high=float(steps[2]),
                    level=level,
                    n=len(rows),
                    method="Kaplan-Meier, log(-log)",
                ),
            )
        )
    return tuple(result)


def survival_decision_curve(
    outcome: Outcome, event_risk: npt.ArrayLike, horizon: float, *, thresholds: Sequence[float] | None = None
) -> SurvivalDecisionCurve:
    """Return the net benefit of intervening by predicted risk (Vickers 2008, BMC MIDM 8:53, with censoring).

    At threshold q, patients with risk >= q are treated: the net benefit is P(treated) times (events among them by
    the horizon - survivors among them x q / (1 - q)), events and survivors by Kaplan-Meier.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    event_risk
        Predicted probability of the event by the horizon, shape (N,).
    horizon
        Prediction horizon.
    thresholds
        Between 0 and 1, exclusive; 0.01 to 0.99 by default.

    Raises
    ------
    UsageError
        A threshold outside 0..1.
    """
    risk = _risks(outcome, event_risk)
    q = np.linspace(0.01, 0.99, 99) if thresholds is None else np.asarray(thresholds, dtype=float)
    if q.min() <= 0 or q.max() >= 1:
        raise UsageError("thresholds must be between 0 and 1, exclusive")

    def benefit(chosen: npt.NDArray[np.bool_], threshold: float) -> float:
        if not chosen.any():
            return 0.0
        survivors = float(kaplan_meier(outcome.take(np.flatnonzero(chosen))).at(horizon))
        return float(chosen.mean() * ((1 - survivors) - survivors * threshold / (1 - threshold)))

    everybody = np.ones(len(outcome), dtype=bool)
    return SurvivalDecisionCurve(
        horizon=horizon,
        patients=len(outcome),
        thresholds=tuple(float(v) for v in q),
        model=tuple(benefit(risk >= v, float(v)) for v in q),
        treat_all=tuple(benefit(everybody, float(v)) for v in q),
        treat_none=tuple(0.0 for _ in q),
    )


def log_rank(outcome: Outcome, groups: Sequence[str] | npt.NDArray[np.generic]) -> LogRank:
    """Compare survival between two or more groups (Mantel 1966; the variance is hypergeometric).

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    groups
        Group of each patient, length N.

    Raises
    ------
    UsageError
        Fewer than two groups or no event.

    Examples
    --------
    >>> from pathology.survival import Outcome
    >>> outcome = Outcome(np.array([100.0, 200.0, 300.0, 400.0]), np.array([1, 1, 1, 1]))
    >>> round(log_rank(outcome, ["high", "high", "low", "low"]).p, 3)
    0.09
    """
    column = np.asarray([str(g) for g in groups])
    if column.shape != outcome.time.shape:
        raise UsageError(f"expected one group per patient, got {len(column)} groups for {len(outcome)} patients")
    names, member = np.unique(column, return_inverse=True)
    if len(names) < 2 or outcome.events == 0:
        raise UsageError(f"a log-rank test requires two groups and an event, got {len(names)} and {outcome.events}")
    k = len(names)
    times = np.unique(outcome.time[outcome.event])
    at_risk = np.stack([np.sum((outcome.time[:, None] >= times) & (member == g)[:, None], axis=0) for g in range(k)])
    died = np.stack(
        [np.sum((outcome.time[:, None] == times) & (outcome.event & (member == g))[:, None], axis=0) for g in range(k)]
    )
    n, d = at_risk.sum(axis=0).astype(float), died.sum(axis=0).astype(float)
    share = at_risk / n
    expected = share * d
    # With one patient at risk the variance is zero.
    spread = np.where(n > 1, d * (n - d) / np.maximum(n - 1, 1), 0.0)
    covariance = np.einsum("t,gt,gh->gh", spread, share, np.eye(k)) - np.einsum("t,gt,ht->gh", spread, share, share)
    deviation = (died - expected).sum(axis=1)
    # The deviations sum to zero, so the last group is redundant.
    statistic = float(deviation[:-1] @ np.linalg.pinv(covariance[:-1, :-1]) @ deviation[:-1])
    return LogRank(
        groups=tuple(str(name) for name in names),
        patients=tuple(int(v) for v in np.bincount(member, minlength=k)),
        observed=tuple(float(v) for v in died.sum(axis=1)),
        expected=tuple(float(v) for v in expected.sum(axis=1)),
        statistic=statistic,
        degrees_of_freedom=k - 1,
        p=float(stats.chi2.sf(statistic, k - 1)),
    )


def comparable_pairs(
    outcome: Outcome, risk: Floats, weight: Floats, cases: npt.NDArray[np.int64] | None = None
) -> tuple[Floats, Floats]:
    """Return the patient pairs of concordance indices.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    risk
        Higher means earlier event, shape (N,).
    weight
        Weight of each patient as the one with the earlier event, shape (N,).
    cases
        M rows to pair with all patients; all by default.

    Returns
    -------
    tuple of ndarray, each of shape (M, N)
        Weight of each pair times 1 if the earlier event had the higher risk, 0.5 if risks are tied, else 0; and
        the weight itself, 0 for pairs that are not comparable.
    """
    rows = np.arange(len(outcome)) if cases is None else cases
    time = outcome.time[rows][:, None]
    later = (outcome.time > time) | ((outcome.time == time) & ~outcome.event)
    comparable = (weight * outcome.event)[rows][:, None] * later
    return comparable * _won(risk[rows], risk), comparable


def case_control_pairs(outcome: Outcome, risk: Floats, weight: Floats, t: float) -> tuple[Floats, Floats]:
    """Return the case-control pairs of a dynamic AUC: event by time ``t`` against event-free at ``t``.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    risk
        Higher means earlier event, shape (N,).
    weight
        Weight of each patient as a case, shape (N,).
    t
        The time.

    Returns
    -------
    tuple of ndarray, each of shape (N, N)
        As in :func:`comparable_pairs`.
    """
    case, control = outcome.event & (outcome.time <= t), outcome.time > t
    comparable = np.where(case, weight, 0.0)[:, None] * control[None, :]
    return comparable * _won(risk, risk), comparable


def brier_terms(train: Outcome, test: Outcome, survival: Floats, times: Floats) -> Floats:
    """Return each patient's weighted squared error at each time; their mean is :func:`brier_score`.

    Parameters
    ----------
    train
        Patients used to estimate the censoring distribution.
    test
        N test patients.
    survival
        Predicted event-free probability at each time, shape (N, T).
    times
        T times, ascending.

    Returns
    -------
    ndarray, shape (N, T)
    """
    remaining = censoring_distribution(train)
    case = (test.time[:, None] <= times) & test.event[:, None]
    control = test.time[:, None] > times
    at_event, at_time = inverse_or_zero(remaining(test.time)), inverse_or_zero(remaining(times))
    return np.asarray(survival**2 * case * at_event[:, None] + (1 - survival) ** 2 * control * at_time)


def inverse_or_zero(chance: Floats) -> Floats:
    """Return 1 / chance, or 0 where it is 0: unobservable patients have no weight."""
    return np.where(chance > 0, 1 / np.where(chance > 0, chance, 1.0), 0.0)


def _won(first: Floats, second: Floats) -> Floats:
    difference = first[:, None] - second[None, :]
    return np.where(np.abs(difference) <= TIED_RISK, 0.5, (difference > 0).astype(float))


def _concordance(outcome: Outcome, risk: Floats, weight: Floats) -> tuple[float, float]:
    """Weighted concordant and comparable pairs, in blocks of patients to bound memory."""
    good = comparable = 0.0
    cases = np.flatnonzero(outcome.event & (weight > 0))
    for block in np.array_split(cases, max(1, len(cases) * len(outcome) // 4_000_000 + 1)):
        won, all_pairs = comparable_pairs(outcome, risk, weight, block)
        good += float(won.sum())
        comparable += float(all_pairs.sum())
    return good, comparable


def _reciprocal(remaining: StepFunction, at: Floats, train: Outcome) -> Floats:
    chance = remaining(at)
    beyond = (at > train.time.max()) if at.size else np.zeros(0, dtype=bool)
    if np.any(chance <= 0) or np.any(beyond & (remaining.heights[-1] > 0)):
        raise UsageError(
            f"an event at {at.max():g} lies beyond the follow-up of the training patients ({train.time.max():g})",
            remedy="Use a tau or times within the training follow-up",
        )
    return np.asarray(1 / chance)


def _risks(outcome: Outcome, risk: npt.ArrayLike) -> Floats:
    array = np.asarray(risk, dtype=float)
    if array.shape != outcome.time.shape or not np.isfinite(array).all():
        raise UsageError(f"risks have shape {array.shape}, expected ({len(outcome)},), all of them numbers")
    return array


def _times(times: npt.ArrayLike) -> Floats:
    at = np.atleast_1d(np.asarray(times, dtype=float))
    if at.ndim != 1 or at.size == 0 or np.any(np.diff(at) <= 0):
        raise UsageError("times must be a non-empty list of ascending numbers")
    return at

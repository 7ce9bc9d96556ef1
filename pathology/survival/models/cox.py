"""Cox proportional hazards models, unpenalised and penalised, with lifelines; the only file that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from scipy import stats

from pathology.errors import UsageError
from pathology.extras import missing_extra
from pathology.settings import Record
from pathology.survival.models.base import FittedModel, SurvivalModel
from pathology.survival.nonparametric import StepFunction, breslow
from pathology.survival.outcome import Outcome

__all__ = [
    "CoxModel",
    "CoxSettings",
    "HazardRatio",
    "LikelihoodRatioTest",
    "hazard_ratios",
    "likelihood_ratio_test",
    "partial_log_likelihood",
]

Floats = npt.NDArray[np.float64]


class CoxSettings(Record):
    """Penalty of a proportional hazards model."""

    penalty: Annotated[float, Field(ge=0)] = 0.0
    """Penalty strength on the mean log likelihood; 0: unpenalised."""
    l1_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: ridge (Verweij 1994), 1: lasso (Tibshirani 1997), between: elastic net."""


class HazardRatio(Record):
    """One covariate's hazard ratio."""

    name: str
    ratio: float
    low: float
    high: float
    """Wald interval."""
    p: float
    unit: str
    """Contrast, such as ``per 10`` or ``vs leg``."""


class LikelihoodRatioTest(Record):
    """A comparison of nested proportional hazards models."""

    statistic: float
    degrees_of_freedom: int
    p: float


class CoxModel(SurvivalModel):
    """Proportional hazards with Efron ties and Breslow baseline.

    Attributes
    ----------
    coefficients : ndarray, shape (P,)
        Log hazard ratios per unit of the prepared covariates.
    covariance : ndarray, shape (P, P)
        Covariance of the coefficients, from the information matrix; not valid with a penalty.
    log_likelihood : float
        Partial log likelihood (Efron) at the coefficients, without the penalty.
    """

    kind: ClassVar[str] = "cox"
    settings_type: ClassVar[type[Record]] = CoxSettings
    settings: CoxSettings

    def __init__(self, settings: CoxSettings | None = None) -> None:
        super().__init__(settings or CoxSettings())
        self.coefficients: Floats = np.zeros(0)
        self.covariance: Floats = np.zeros((0, 0))
        self.log_likelihood = float("nan")
        self.centre: Floats = np.zeros(0)
        self._baseline = StepFunction(np.zeros(0), np.zeros(0), 0.0)

    def fit(self, x: Floats, outcome: Outcome, *, seed: int = 0) -> CoxModel:
        """Estimate coefficients and baseline; ``seed`` is not used.  See :meth:`SurvivalModel.fit`."""
        del seed
        try:
            from lifelines import CoxPHFitter
            from lifelines.exceptions import ConvergenceError
        except ImportError as error:  # pragma: no cover - lifelines is installed in the test environment
            raise missing_extra("Cox models need lifelines", "survival") from error

        problem: Exception | None = None
        columns = [f"x{i}" for i in range(x.shape[1])]
        frame = pd.DataFrame(x, columns=columns).assign(time=outcome.time, event=outcome.event.astype(int))
        fitter = CoxPHFitter(penalizer=self.settings.penalty, l1_ratio=self.settings.l1_ratio)
        with warnings.catch_warnings():
            # lifelines emits pandas deprecation and convergence warnings; convergence is checked below.
            warnings.simplefilter("ignore")
            # A full first Newton step can overshoot although the maximum exists; shorter steps find it.
            for step in (0.95, 0.25):
                try:
                    options = {"precision": 1e-10, "r_precision": 1e-12, "step_size": step}
                    fitter.fit(frame, "time", "event", fit_options=options)
                    break
                except (ConvergenceError, np.linalg.LinAlgError, ValueError) as error:
                    problem = error
            else:
                raise UsageError(
                    f"the proportional hazards model cannot be estimated from {len(outcome)} patients with "
                    f"{outcome.events} events and {x.shape[1]} covariates ({str(problem).split('.')[0]})",
                    remedy="Remove covariates that separate the events or are collinear, or set a penalty",
                ) from problem
        self.coefficients = fitter.params_.to_numpy(dtype=float)
        self.covariance = fitter.variance_matrix_.to_numpy(dtype=float)
        self.centre = x.mean(axis=0)
        self.log_likelihood = partial_log_likelihood(outcome, x @ self.coefficients)
        self._baseline = breslow(outcome, (x - self.centre) @ self.coefficients)
        return self

    def predict_risk(self, x: Floats) -> Floats:
        """Return the log hazard ratio relative to the mean training patient, shape (N,)."""
        return np.asarray((x - self.centre) @ self.coefficients, dtype=float)

    def predict_survival(self, x: Floats, times: npt.ArrayLike) -> Floats:
        """Return survival probabilities, shape (N, T); see :meth:`SurvivalModel.predict_survival`."""
        # Covariates far outside the training range must not overflow: beyond e^500 survival is zero anyway.
        ratio = np.exp(np.clip(self.predict_risk(x), -500, 500))
        hazard: Floats = np.outer(ratio, np.atleast_1d(self._baseline(times)))
        return np.exp(-hazard)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return coefficients, covariance and baseline."""
        return {"log_likelihood": self.log_likelihood}, {
            "coefficients": self.coefficients,
            "covariance": self.covariance,
            "centre": self.centre,
            "baseline_times": self._baseline.times,
            "baseline_hazard": self._baseline.heights,
        }

    def restore(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take back what :meth:`state` returned."""
        self.log_likelihood = float(values["log_likelihood"])
        self.coefficients, self.covariance = arrays["coefficients"], arrays["covariance"]
        self.centre = arrays["centre"]
        self._baseline = StepFunction(arrays["baseline_times"], arrays["baseline_hazard"], 0.0)


def partial_log_likelihood(outcome: Outcome, log_risk: npt.ArrayLike) -> float:
    """Return the log partial likelihood with Efron ties (Efron 1977, JASA 72:557), summed.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    log_risk
        Linear predictor, shape (N,).
    """
    eta = np.asarray(log_risk, dtype=float)
    eta = eta - eta.max()
    risk = np.exp(eta)
    total = float(eta[outcome.event].sum())
    for t in np.unique(outcome.time[outcome.event]):
        died = outcome.event & (outcome.time == t)
        m = int(died.sum())
        left = risk[outcome.time >= t].sum() - np.arange(m) / m * risk[died].sum()
        total -= float(np.log(left).sum())
    return total


def likelihood_ratio_test(full: CoxModel, reduced: CoxModel | None, outcome: Outcome) -> LikelihoodRatioTest:
    """Likelihood-ratio test of the additional covariates of the full model.

    Parameters
    ----------
    full, reduced
        Unpenalised nested models fitted on the same patients; ``None`` is
        the model without covariates.
    outcome
        Follow-up of the patients.

    Raises
    ------
    UsageError
        A model is penalised, or the models are not nested.
    """
    if any(m is not None and m.settings.penalty > 0 for m in (full, reduced)):
        raise UsageError("a likelihood-ratio test requires unpenalised models")
    below = partial_log_likelihood(outcome, np.zeros(len(outcome))) if reduced is None else reduced.log_likelihood
    freedom = len(full.coefficients) - (0 if reduced is None else len(reduced.coefficients))
    statistic = 2 * (full.log_likelihood - below)
    if freedom < 1 or statistic < -1e-6:
        raise UsageError(
            "the models are not nested: the full model must have all covariates of the reduced model, and more"
        )
    statistic = max(statistic, 0.0)
    return LikelihoodRatioTest(
        statistic=statistic, degrees_of_freedom=freedom, p=float(stats.chi2.sf(statistic, freedom))
    )


def hazard_ratios(
    fitted: FittedModel, *, per: Mapping[str, float] | None = None, level: float = 0.95
) -> tuple[HazardRatio, ...]:
    """Return the hazard ratios of a Cox model in the units of the table.

    Parameters
    ----------
    fitted
        A fitted :class:`CoxModel` with its preparation.
    per
        Unit of a numeric column, such as ``{"age": 10}``; 1 by default.
    level
        Confidence level.

    Raises
    ------
    UsageError
        The model is not a Cox model.

    Examples
    --------
    >>> import pandas as pd
    >>> from pathology.survival import CovariateSettings, Outcome
    >>> from pathology.survival.models import fit_model
    >>> rng = np.random.default_rng(0)
    >>> grade = rng.integers(1, 4, 80).astype(float)
    >>> outcome = Outcome(rng.exponential(1000 / grade), rng.random(80) < 0.8)
    >>> table = pd.DataFrame({"grade": grade})
    >>> fitted = fit_model(table, outcome, CovariateSettings(numeric=("grade",)), CoxModel())
    >>> hazard_ratios(fitted)[0].ratio > 1
    True
    """
    model = fitted.model
    if not isinstance(model, CoxModel):
        raise UsageError(f"hazard ratios require a Cox model, got '{model.kind}'")
    steps = per or {}
    error = np.sqrt(np.diag(model.covariance))
    z = float(stats.norm.ppf((1 + level) / 2))
    rows = []
    for i, name in enumerate(fitted.preparation.names):
        column, _, category = name.partition("=")
        numeric = not category
        factor = steps.get(name, 1.0) / fitted.preparation.scale_of(name) if numeric else 1.0
        beta, sd = model.coefficients[i] * factor, error[i] * factor
        rows.append(
            HazardRatio(
                name=name if numeric else f"{column}: {category}",
                ratio=float(np.exp(beta)),
                low=float(np.exp(beta - z * sd)),
                high=float(np.exp(beta + z * sd)),
                p=float(2 * stats.norm.sf(abs(beta / sd))) if sd > 0 else float("nan"),
                unit=f"per {steps.get(name, 1.0):g}" if numeric else f"vs {fitted.preparation.reference[column]}",
            )
        )
    return tuple(rows)

"""Interface of survival models, and pickle-free storage of fitted models."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import save_file

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.survival.covariates import CovariateSettings, Preparation
from pathology.survival.groups import RiskGroups
from pathology.survival.metrics import harrell_c
from pathology.survival.outcome import Outcome

__all__ = ["FORMAT", "FittedModel", "SurvivalModel", "fit_model", "outcome_digest", "part_of"]

Floats = npt.NDArray[np.float64]
FORMAT = 1
"""Version of the folder format."""


class SurvivalModel(ABC):
    """A time-to-event model.

    Implementations take a settings object in their constructor, are fitted by :meth:`fit` on the training patients
    only, and are deterministic for a seed.
    """

    kind: ClassVar[str]
    """Name on the command line and on disk."""
    settings_type: ClassVar[type[Record]]
    """Class of the settings."""

    def __init__(self, settings: Record) -> None:
        self.settings = settings

    @abstractmethod
    def fit(self, x: Floats, outcome: Outcome, *, seed: int = 0) -> SurvivalModel:
        """Fit the model to the training patients.

        Parameters
        ----------
        x
            Covariates without missing values, shape (N, P).
        outcome
            Follow-up of the N patients.
        seed
            Random seed for initial weights, batches and the early-stopping split.

        Returns
        -------
        SurvivalModel
            Itself.

        Raises
        ------
        UsageError
            Too few events, or uninformative covariates.
        """

    @abstractmethod
    def predict_risk(self, x: Floats) -> Floats:
        """Return a risk for each patient, higher meaning earlier event; shape (N,), no unit."""

    @abstractmethod
    def predict_survival(self, x: Floats, times: npt.ArrayLike) -> Floats:
        """Return the event-free probability at each of T times; shape (N, T), decreasing with time."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return the fitted state as JSON-serialisable values and arrays."""

    @abstractmethod
    def restore(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Restore the state from :meth:`state`."""


class FittedModel:
    """A fitted pipeline of preprocessing, model and risk groups, from a table to predictions.

    Parameters
    ----------
    preparation, model
        Both fitted on the same training patients.
    groups
        Risk cut-offs of the training patients.
    facts
        Metadata: outcome columns, unit of time, number of training patients and events, source.
    """

    def __init__(
        self, preparation: Preparation, model: SurvivalModel, groups: RiskGroups, facts: dict[str, Any]
    ) -> None:
        self.preparation = preparation
        self.model = model
        self.groups = groups
        self.facts = facts

    def predict(self, table: pd.DataFrame, times: npt.ArrayLike) -> pd.DataFrame:
        """Return risk, risk group and survival at the given times for each row of a table.

        Parameters
        ----------
        table
            One row per patient, with the covariate columns.
        times
            Prediction times, in the unit of the training outcome.

        Returns
        -------
        DataFrame
            Columns ``risk``, ``risk_group`` and ``survival_<time>``, index as in ``table``.
        """
        at = np.atleast_1d(np.asarray(times, dtype=float))
        x = self.preparation.transform(table)
        risk = self.model.predict_risk(x)
        result = pd.DataFrame({"risk": risk, "risk_group": self.groups.assign(risk)}, index=table.index)
        for t, column in zip(at, self.model.predict_survival(x, at).T, strict=True):
            result[f"survival_{t:g}"] = column
        return result

    def save(self, folder: Path) -> None:
        """Write ``model.json`` and ``weights.safetensors`` to a folder, created if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        prepared, prepared_arrays = self.preparation.state()
        learnt, arrays = self.model.state()
        record = {
            "format": FORMAT,
            "kind": self.model.kind,
            "settings": self.model.settings.model_dump(mode="json"),
            "preparation": prepared,
            "learnt": learnt,
            "groups": self.groups.model_dump(mode="json"),
            "facts": self.facts,
            "intended_use": "Research use only. Not for decisions about a patient.",
        }
        (folder / "model.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        named = {f"preparation.{k}": np.ascontiguousarray(v) for k, v in prepared_arrays.items()}
        named |= {f"model.{k}": np.ascontiguousarray(v) for k, v in arrays.items()}
        save_file(named, folder / "weights.safetensors")


def fit_model(
    table: pd.DataFrame,
    outcome: Outcome,
    covariates: CovariateSettings,
    model: SurvivalModel,
    *,
    groups: int = 3,
    seed: int = 0,
    facts: dict[str, Any] | None = None,
) -> FittedModel:
    """Fit preprocessing, model and risk groups on the same training patients.

    Parameters
    ----------
    table
        Training patients, one row each, in the order of ``outcome``.
    outcome
        Their follow-up.
    covariates
        Covariate settings.
    model
        Unfitted model.
    groups
        Number of risk groups of equal size.
    seed
        Passed to the model.
    facts
        Metadata stored with the model.

    Raises
    ------
    UsageError
        The table and the outcome have different lengths, or the model cannot be fitted.

    Examples
    --------
    >>> import pandas as pd
    >>> from pathology.survival import CovariateSettings, Outcome
    >>> from pathology.survival.models import make_model
    >>> rng = np.random.default_rng(0)
    >>> grade = rng.integers(1, 4, 80).astype(float)
    >>> outcome = Outcome(rng.exponential(1000 / grade), rng.random(80) < 0.8)
    >>> table = pd.DataFrame({"grade": grade})
    >>> fitted = fit_model(table, outcome, CovariateSettings(numeric=("grade",)), make_model("cox"))
    >>> fitted.predict(pd.DataFrame({"grade": [1.0, 3.0]}), [365.0]).shape
    (2, 3)
    """
    if len(table) != len(outcome):
        raise UsageError(f"the table has {len(table)} rows for {len(outcome)} outcomes")
    preparation = Preparation(covariates).fit(table)
    x = preparation.transform(table)
    model.fit(x, outcome, seed=seed)
    risk = model.predict_risk(x)
    own = {
        "patients": len(outcome),
        "events": outcome.events,
        "covariates": list(preparation.names),
        "apparent_concordance": harrell_c(outcome, risk),
        "outcome_sha256": outcome_digest(outcome),
    }
    return FittedModel(preparation, model, RiskGroups.cut(risk, groups), own | (facts or {}))


def outcome_digest(outcome: Outcome) -> str:
    """Return a hash of the follow-up of all patients, in any order, by which training patients are recognised."""
    pairs = sorted(zip(outcome.time.tolist(), outcome.event.tolist(), strict=True))
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def part_of(arrays: dict[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays whose names start with a prefix, with the prefix removed."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

"""Survival models for incomplete data: one model per combination of modalities.

Imputing a whole missing modality would invent a scan.  Instead, a model is fitted for every combination of modalities
with enough training patients, and each patient gets the model of the largest available combination.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from pathology.errors import BundleError, InputTableError, UsageError
from pathology.input_files import read_json
from pathology.settings import Record
from pathology.survival.covariates import CovariateSettings
from pathology.survival.models.base import FittedModel, SurvivalModel, fit_model
from pathology.survival.models.registry import load_model
from pathology.survival.outcome import Outcome

__all__ = ["ModalityModels", "ModalitySettings"]

_INDEX = "modalities.json"


class ModalitySettings(Record):
    """Covariate columns by modality."""

    modalities: dict[str, CovariateSettings]
    """Covariates by modality, such as ``clinic``, ``slides`` and ``imaging``."""
    min_patients: Annotated[int, Field(ge=10)] = 40
    """Minimum number of training patients per combination."""
    min_events: Annotated[int, Field(ge=2)] = 10
    """Minimum number of events per combination."""


class ModalityModels:
    """Fitted models by combination of modalities.

    Parameters
    ----------
    settings
        The modalities.
    models
        Fitted models by combination, in the order of the settings.
    not_fitted
        Combinations without a model, with the reason.
    """

    def __init__(
        self,
        settings: ModalitySettings,
        models: Mapping[tuple[str, ...], FittedModel],
        not_fitted: Mapping[tuple[str, ...], str],
    ) -> None:
        self.settings = settings
        self.models = dict(models)
        self.not_fitted = dict(not_fitted)

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame,
        outcome: Outcome,
        settings: ModalitySettings,
        make: Callable[[], SurvivalModel],
        *,
        groups: int = 3,
        seed: int = 0,
        facts: dict[str, Any] | None = None,
    ) -> ModalityModels:
        """Fit a model for every combination with enough training patients.

        Parameters
        ----------
        table
            Training patients, one row each.
        outcome
            Their follow-up.
        settings
            The modalities.
        make
            Factory of unfitted models.
        groups, seed, facts
            As in :func:`pathology.survival.models.base.fit_model`.

        Raises
        ------
        UsageError
            No combination has enough patients.
        """
        has = {name: _present(table, spec) for name, spec in settings.modalities.items()}
        models: dict[tuple[str, ...], FittedModel] = {}
        not_fitted: dict[tuple[str, ...], str] = {}
        names = list(settings.modalities)
        for size in range(len(names), 0, -1):
            for combination in combinations(names, size):
                rows = np.flatnonzero(np.all([has[name] for name in combination], axis=0))
                events = int(outcome.event[rows].sum())
                if len(rows) < settings.min_patients or events < settings.min_events:
                    not_fitted[combination] = f"{len(rows)} patients with {events} events"
                    continue
                try:
                    models[combination] = fit_model(
                        table.iloc[rows],
                        outcome.take(rows),
                        _joined(settings, combination),
                        make(),
                        groups=groups,
                        seed=seed,
                        facts={**(facts or {}), "modalities": list(combination)},
                    )
                except (UsageError, InputTableError) as error:
                    not_fitted[combination] = error.what
        if not models:
            reasons = "; ".join(f"{' + '.join(c)}: {why}" for c, why in not_fitted.items())
            raise UsageError(f"no combination of modalities can be fitted ({reasons})")
        return cls(settings, models, not_fitted)

    def predict(self, table: pd.DataFrame, times: npt.ArrayLike) -> pd.DataFrame:
        """Return predictions and, in ``ran_on``, the modalities of the model used.

        Parameters
        ----------
        table
            One row per patient; columns of absent modalities may be missing.
        times
            Prediction times, in the unit of the training outcome.

        Returns
        -------
        DataFrame
            ``ran_on`` (empty if no model applies), ``risk``, ``risk_group``, ``survival_<time>``; index as
            in ``table``.  Risks of different models are not comparable; survival probabilities are.
        """
        at = np.atleast_1d(np.asarray(times, dtype=float))
        has = {
            name: _present(table, spec)
            if set(_columns(spec)) & set(table.columns)
            else np.zeros(len(table), dtype=bool)
            for name, spec in self.settings.modalities.items()
        }
        # Largest combination first; ties by number of training patients.
        ordered = sorted(self.models, key=lambda c: (-len(c), -int(self.models[c].facts["patients"])))
        chosen: list[tuple[str, ...]] = [
            next((c for c in ordered if all(has[name][i] for name in c)), ()) for i in range(len(table))
        ]
        parts = []
        for combination in ordered:
            rows = [i for i, c in enumerate(chosen) if c == combination]
            if not rows:
                continue
            model = self.models[combination]
            part = table.iloc[rows]
            absent = [c for c in _columns(model.preparation.settings) if c not in part.columns]
            part = part.assign(**dict.fromkeys(absent))
            predicted = model.predict(part, at)
            predicted.insert(0, "ran_on", " + ".join(combination))
            parts.append(predicted.assign(_place=rows))
        without = [i for i, c in enumerate(chosen) if not c]
        if without:
            parts.append(pd.DataFrame({"ran_on": "", "_place": without}, index=table.index[without]))
        return pd.concat(parts).sort_values("_place").drop(columns="_place")

    def save(self, folder: Path) -> None:
        """Write one model folder per combination, and an index."""
        folder.mkdir(parents=True, exist_ok=True)
        listed = []
        for combination, model in self.models.items():
            name = "+".join(combination)
            model.save(folder / name)
            listed.append({"folder": name, "modalities": list(combination)})
        record = {
            "settings": self.settings.model_dump(mode="json"),
            "models": listed,
            "not_fitted": [{"modalities": list(c), "why": why} for c, why in self.not_fitted.items()],
        }
        (folder / _INDEX).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ModalityModels:
        """Read a folder from :meth:`save`.

        Raises
        ------
        BundleError
            The folder is not valid.
        """
        try:
            record = read_json(folder / _INDEX, BundleError)
            settings = ModalitySettings(**record["settings"])
            models = {tuple(m["modalities"]): load_model(folder / m["folder"]) for m in record["models"]}
            not_fitted = {tuple(m["modalities"]): m["why"] for m in record["not_fitted"]}
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"not a folder of modality models ({error})", where=folder) from error
        return cls(settings, models, not_fitted)

    @staticmethod
    def is_folder(folder: Path) -> bool:
        """Return whether a folder holds modality models."""
        return (folder / _INDEX).is_file()


def _columns(spec: CovariateSettings) -> tuple[str, ...]:
    return (*spec.numeric, *spec.categorical)


def _present(table: pd.DataFrame, spec: CovariateSettings) -> npt.NDArray[np.bool_]:
    """Patients with a modality: at least half of its columns are available."""
    known = [c for c in _columns(spec) if c in table.columns]
    if not known:
        raise InputTableError(f"the table has none of the columns {', '.join(_columns(spec))}")
    share = table[known].notna().sum(axis=1) / len(_columns(spec))
    return np.asarray(share >= 0.5, dtype=bool)


def _joined(settings: ModalitySettings, combination: tuple[str, ...]) -> CovariateSettings:
    parts = [settings.modalities[name] for name in combination]
    first = parts[0]
    return first.model_copy(
        update={
            "numeric": tuple(c for p in parts for c in p.numeric),
            "categorical": tuple(c for p in parts for c in p.categorical),
        }
    )

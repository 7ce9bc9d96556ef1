"""Registry of survival models by their name on the command line and on disk."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from pathology.errors import BundleError, UnknownModelError
from pathology.input_files import read_json
from pathology.survival.covariates import Preparation
from pathology.survival.groups import RiskGroups
from pathology.survival.models.base import FORMAT, FittedModel, SurvivalModel, part_of

__all__ = ["load_model", "make_model", "model_kinds"]


@cache
def model_kinds() -> dict[str, type[SurvivalModel]]:
    """Return all models by kind.

    Examples
    --------
    >>> "cox" in model_kinds()
    True
    """
    from pathology.survival.models.bhambhvani import Bhambhvani
    from pathology.survival.models.cox import CoxModel
    from pathology.survival.models.neural import DeepHit, DeepSurv, DiscreteHazard
    from pathology.survival.models.red_snn import RedSnn

    kinds: tuple[type[SurvivalModel], ...] = (Bhambhvani, CoxModel, DeepSurv, DiscreteHazard, DeepHit, RedSnn)
    return {model.kind: model for model in sorted(kinds, key=lambda model: model.kind)}


def make_model(kind: str, **settings: Any) -> SurvivalModel:
    """Return an unfitted model.

    Parameters
    ----------
    kind
        One of :func:`model_kinds`.
    **settings
        Setting values; the others have their defaults.

    Raises
    ------
    UnknownModelError
        Unknown kind.

    Examples
    --------
    >>> type(make_model("cox")).__name__
    'CoxModel'
    """
    kinds = model_kinds()
    if kind not in kinds:
        raise UnknownModelError(f"unknown survival model '{kind}'", remedy=f"Choose one of {', '.join(sorted(kinds))}")
    return kinds[kind](kinds[kind].settings_type(**settings))


def load_model(folder: Path) -> FittedModel:
    """Read a model folder from :meth:`FittedModel.save`.

    Raises
    ------
    BundleError
        A file is missing, corrupt or of another version.
    UnknownModelError
        The kind of model is unknown to this version.

    Examples
    --------
    >>> import pandas as pd
    >>> from pathology.survival import CovariateSettings, Outcome
    >>> from pathology.survival.models import fit_model
    >>> rng = np.random.default_rng(0)
    >>> outcome = Outcome(rng.exponential(500, 80), rng.random(80) < 0.8)
    >>> table = pd.DataFrame({"age": rng.normal(60, 10, 80)})
    >>> fit_model(table, outcome, CovariateSettings(numeric=("age",)), make_model("cox")).save(folder)
    >>> load_model(folder).predict(table, [365.0]).shape
    (80, 3)
    """
    try:
        record = read_json(folder / "model.json", BundleError)
        arrays = load_file(folder / "weights.safetensors")
        if record["format"] != FORMAT:
            raise BundleError(f"the model has format {record['format']}, this version reads {FORMAT}", where=folder)
        preparation = Preparation.from_state(record["preparation"], part_of(arrays, "preparation."))
        model = make_model(record["kind"], **record["settings"])
        model.restore(record["learnt"], part_of(arrays, "model."))
        groups = RiskGroups(**record["groups"])
        facts = dict(record["facts"])
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(
            f"cannot read the survival model ({type(error).__name__}: {error})",
            where=folder,
            remedy="Use a model folder from 'pathology survival fit'",
        ) from error
    return FittedModel(preparation, model, groups, facts)

"""Settings of a head's training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from pathology.settings import Record
from pathology.training.common.option_values import names_with_commas

__all__ = ["HEADS", "HeadSettings"]

HEADS: Final = ("mean", "sampler", "mlp", "attention", "transformer")
"""From the simplest: a later one is chosen only if it is better beyond chance."""


class HeadSettings(Record):
    """Everything but the output folder."""

    features: Path
    """Folder with one feature file or store per slide."""
    labels: Path
    """CSV with slide_id, patient_id, label; optionally site."""
    head: Literal["mean", "sampler", "mlp", "attention", "transformer", "all"] = "sampler"
    """mean, sampler, mlp, attention, transformer; all compares them."""
    encoder: str | None = None
    """The encoder of the features; ``None``: as the files say."""
    classes: tuple[str, ...] = ()
    """Classes in order; empty: the labels of the table, sorted."""
    patient: Literal["average", "bag"] = "average"
    """Several slides of a patient: averaged predictions, or one bag of all patches."""
    keep_sites: bool = False
    """Keep each hospital (column site) in one fold."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Outer folds, which evaluate."""
    inner: Annotated[int, Field(ge=2)] = 3
    """Inner folds, which select settings and fit the temperature."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Largest number of epochs of mlp, attention and transformer."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Resamples of patients behind each interval."""
    seed: int = 0
    """Seed of folds and training."""
    data_name: str = "own slides"
    """Name of the data set, for the card."""
    data_source: str = "not stated"
    """Source of the data set."""
    data_licence: str = "not stated"
    """Licence of the data set."""
    licence: str = "not stated"
    """Licence of the trained head; the encoder's own licence is stated beside it."""

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_with_commas(cls, value: object) -> object:
        """Take ``a,b`` for ``[a, b]``."""
        return names_with_commas(value)

"""Settings of evaluating and training a radiology system, filled by the command line or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pathology.settings import Record

__all__ = ["EvaluateSettings", "TrainSettings"]


class EvaluateSettings(Record):
    """Settings of an evaluation by cross-validation."""

    system: str
    """Published system, such as holbrook-2020; list them with 'pathology systems'."""
    cohort: Path
    """Cohort folder: one subfolder per patient with <sequence>_image and <sequence>_mask."""
    clinical: Path | None = None
    """Clinical CSV, one row per patient."""
    patient_column: str = "patient"
    """Patient ID column of the clinical CSV."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Settings of the system's recipe that differ from the published ones."""
    features: Path | None = None
    """Precomputed table from 'pathology radiology features'."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Cross-validation folds, grouped by patient."""
    seed: int = 0
    """Random seed for folds, initial weights and sampling."""
    device: str = "cpu"
    """cpu or cuda."""


class TrainSettings(EvaluateSettings):
    """Settings of a training: everything but the output folder."""

    data_name: str
    """Name of the data set, for the model card."""
    data_source: str
    """Source of the data set."""
    data_licence: str
    """Licence of the data set."""
    evaluate: bool = True
    """Cross-validate first and record the metrics on the model card."""
    constructed: bool = False
    """The data are synthetic, not from patients."""
    limits: tuple[str, ...] = ()
    """A limitation for the model card; repeatable."""

"""Settings of the training of a slide classifier, filled by the command line, Python or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pathology.settings import Record
from pathology.training.common.option_values import names_with_commas

__all__ = ["TrainSettings"]


class TrainSettings(Record):
    """Settings of a training: everything but the output folder."""

    system: str
    """Published classifier, such as foersch-2021; list them with 'pathology systems'."""
    slides: Annotated[tuple[str, ...], Field(min_length=1)]
    """Slide file, folder of slides or CSV manifest; repeatable."""
    labels: Path
    """CSV with slide_id, patient_id, label; optionally site, set, regions and further columns."""
    init: str = "imagenet"
    """Initial weights: imagenet, random, a safetensors file or a bundle."""
    classes: tuple[str, ...] | None = None
    """Classes, if not the published ones: a,b,c."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Settings of :class:`pathology.training.classifier.recipe.SlideRecipe` that differ from the published ones."""
    folds: Annotated[int, Field(ge=0)] = 0
    """Folds of a nested cross-validation; 0: a single test set."""
    keep_sites: bool = False
    """Keep each hospital (column site) in one set."""
    pixels: Literal["decoded", "reference"] = "decoded"
    """decoded: store patches on disk; reference: decode slides in every epoch."""
    mpp: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Micrometres per pixel of every slide's finest level; ``None``: as manifests and files say."""
    device: str | None = None
    """cpu, cuda or cuda:N; ``None``: CUDA where there is a device."""
    loaders: Annotated[int, Field(ge=0)] | None = None
    """Data loader processes, 0: load in the main process; ``None``: as many as the device can use."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Tiling processes; ``None``: one for each GPU, else one."""
    seed: int = 0
    """Random seed for split, sampling, augmentation and initial weights."""
    data_name: str = "own slides"
    """Name of the data set, for the model card."""
    data_source: str = "not stated"
    """Source of the data set."""
    data_licence: str = "not stated"
    """Licence of the data set."""
    licence: str = "not stated"
    """Licence of the trained weights."""

    @field_validator("slides", mode="before")
    @classmethod
    def _one_slide_or_several(cls, value: object) -> object:
        """Take one text for a list of one."""
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_with_commas(cls, value: object) -> object:
        """Take ``a,b`` for ``[a, b]``."""
        return names_with_commas(value)

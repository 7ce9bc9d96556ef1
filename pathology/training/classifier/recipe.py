"""Training recipe of a slide classifier: all settings that determine the weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathology.settings import Record

__all__ = ["AugmentationName", "SlideRecipe", "Stage"]

AugmentationName = Literal["none", "foersch", "turns-and-colour", "deeppath"]


class Stage(Record):
    """A training stage with its own schedule."""

    epochs: Annotated[int, Field(ge=1)]
    """Number of epochs."""
    frozen: bool = False
    """Train only the head and batch normalisation."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Maximum learning rate, of the head."""
    lowest_rate: Annotated[float, Field(gt=0)] | Literal["find"] | None = None
    """Learning rate of the earliest layers, with geometric spacing up to the head; ``find``: mean of three searches for
    the rate with the steepest loss decrease; ``None``: the same rate for all layers."""


class SlideRecipe(Record):
    """Recipe for training a patch classifier whose predictions are aggregated per slide."""

    architecture: Literal["densenet121", "densenet121-foersch", "inception-v3"]
    """Network."""
    architecture_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the network builder."""
    mpp: Annotated[float, Field(gt=0)] | None
    """Patch resolution in µm/px; ``None``: not published, must be given."""
    patch: Annotated[int, Field(ge=32)]
    """Side of a patch in pixels."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Stride between patches in pixels; ``None``: non-overlapping adjacent patches."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Minimum tissue fraction of a patch (1 minus the maximum background fraction used elsewhere)."""
    stain: Literal["none", "macenko", "reinhard", "vahadane"] = "none"
    """Stain normalisation of every patch; ``vahadane`` is structure-preserving colour normalisation."""
    patches_per_slide: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of patches sampled per slide; ``None``: all."""
    batch: Annotated[int, Field(ge=2)]
    """Batch size per device."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """Stages in order; each starts from the best epoch of the previous one."""
    optimiser: Literal["adamw", "rmsprop"] = "adamw"
    """``rmsprop``: decay 0.9, momentum 0.9, epsilon 1 as in DeepPATH; there epsilon is inside the square root, in
    torch outside."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Betas of AdamW; default of fastai 1.  The one-cycle schedule moves the first from 0.95 to 0.85 and back."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay: decoupled for AdamW, L2 for RMSProp."""
    schedule: Literal["one-cycle", "step"] = "one-cycle"
    """``one-cycle``: Smith & Topin 2019, with the parameters of fastai 1 (torch's defaults); ``step``: multiply the
    rate by ``step_factor`` every ``step_epochs``."""
    step_epochs: Annotated[int, Field(ge=1)] = 30
    """Epochs between learning rate steps."""
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.16
    """Learning rate multiplier at each step."""
    class_weights: bool = True
    """Weight classes by inverse patch frequency, as scikit-learn's ``balanced``."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing."""
    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of InceptionV3's auxiliary loss, TF-slim's value."""
    augmentation: AugmentationName = "turns-and-colour"
    """Augmentation of training patches; see :mod:`pathology.training.classifier.patch_augmentation`."""
    choose: Literal["patch accuracy", "patch loss", "slide loss"] = "patch loss"
    """Validation metric for epoch selection."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Early stopping: epochs without improvement; ``None``: run all epochs."""
    aggregator: Literal["mean", "share", "majority", "top", "attention", "transformer"] = "mean"
    """Slide aggregation for prediction sets and thresholds; score with the same one.  A rule of
    :mod:`pathology.findings.aggregation` (all are reported), or a network of :mod:`pathology.networks.mil`
    trained on the frozen features of the same slides."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means, for values 0 to 1; ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations; ImageNet's."""

    @model_validator(mode="after")
    def _auxiliary_fits(self) -> SlideRecipe:
        if self.architecture == "inception-v3":
            auxiliary = self.architecture_options.get("aux_logits", True)
            if auxiliary and self.patch < 299:
                raise ValueError(
                    f"patch: the auxiliary classifier of InceptionV3 needs 299 px, got {self.patch}; "
                    "smaller patches train without it (aux_logits=false)"
                )
            if self.patch < 75:
                raise ValueError(f"patch: InceptionV3 needs 75 px, got {self.patch}")
        return self

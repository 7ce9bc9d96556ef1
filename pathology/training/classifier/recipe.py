"""How a classifier of slides is trained: everything that decides the weights, as settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathology.settings import Record

__all__ = ["AugmentationName", "SlideRecipe", "Stage"]

AugmentationName = Literal["none", "foersch", "turns-and-colour", "deeppath"]


class Stage(Record):
    """One part of the training with a schedule of its own."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the patches."""
    frozen: bool = False
    """Whether only head and batch normalisation learn."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Highest rate, of the head."""
    lowest_rate: Annotated[float, Field(gt=0)] | Literal["find"] | None = None
    """Rate of the earliest layers, the ones between spaced by equal factors; ``find``: the mean of three searches for
    the rate at which the loss falls fastest; ``None``: all layers learn alike."""


class SlideRecipe(Record):
    """A training recipe for a classifier of patches and, through them, of slides."""

    architecture: Literal["densenet121", "densenet121-foersch", "inception-v3"]
    """Network."""
    architecture_options: dict[str, Any] = Field(default_factory=dict)
    """Of the network's builder."""
    mpp: Annotated[float, Field(gt=0)] | None
    """Scale of the patches in µm/px; ``None``: not published, must be given."""
    patch: Annotated[int, Field(ge=32)]
    """Side of a patch in pixels."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Distance between patches in pixels; ``None``: patches touch."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Smallest share of a patch that is tissue.  1 minus the largest share of background of other programs."""
    stain: Literal["none", "macenko", "reinhard", "vahadane"] = "none"
    """Stain normalisation of every patch; ``vahadane`` is structure-preserving colour normalisation."""
    patches_per_slide: Annotated[int, Field(ge=1)] | None = None
    """Draw at most so many patches of each slide; ``None``: all."""
    batch: Annotated[int, Field(ge=2)]
    """Patches a step and device."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """One after the other; each starts from the best epoch of the one before."""
    optimiser: Literal["adamw", "rmsprop"] = "adamw"
    """``rmsprop``: decay 0.9, momentum 0.9, epsilon 1 as in DeepPATH; there epsilon stands inside the square root, in
    torch outside."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW; fastai 1's default.  The one-cycle schedule moves the first from 0.95 to 0.85 and back."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled for AdamW, L2 for RMSProp."""
    schedule: Literal["one-cycle", "step"] = "one-cycle"
    """``one-cycle``: Smith & Topin 2019, with fastai 1's numbers, which are torch's defaults; ``step``: the rate falls
    to ``step_factor`` of itself every ``step_epochs``."""
    step_epochs: Annotated[int, Field(ge=1)] = 30
    """Epochs between falls of the rate."""
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.16
    """What remains of it."""
    class_weights: bool = True
    """Weigh classes by the inverse of their patches: scikit-learn's ``balanced``."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label spread over all classes."""
    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of InceptionV3's auxiliary loss, TF-slim's value."""
    augmentation: AugmentationName = "turns-and-colour"
    """Random changes to training patches; :mod:`pathology.training.classifier.patch_augmentation`."""
    choose: Literal["patch accuracy", "patch loss", "slide loss"] = "patch loss"
    """Which figure of the validation slides chooses the epoch."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop a stage after so many epochs without a better one; ``None``: run all."""
    aggregator: Literal["mean", "share", "majority", "top", "attention", "transformer"] = "mean"
    """How patches become a slide where prediction sets and thresholds are fitted; score with the same.  A rule of
    :mod:`pathology.findings.aggregation` (all of them are reported), or a network of :mod:`pathology.networks.mil`
    that is trained on the frozen features of the same slides."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from values 0 to 1, per channel; ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides them, per channel; ImageNet's."""

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

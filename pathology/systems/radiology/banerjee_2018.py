"""B1. Embryonal against alveolar rhabdomyosarcoma from fused diffusion-weighted and contrast-enhanced T1 MRI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="banerjee-2018",
    code="B1",
    title="AlexNet on fused DWI and contrast-enhanced T1",
    reference="Banerjee et al. 2018, Computerized Medical Imaging and Graphics 65:167",
    task="Embryonal or alveolar rhabdomyosarcoma, by patient",
    network="AlexNet on three channels: T1, DWI and their weighted mean",
    parameters=57_012_034,
    status="works",
    data="21 patients (7 female, 14 male), DWI and gadolinium-enhanced T1",
    published=(
        PublishedMetric(metric="accuracy", value="85 %", cohort="21 patients, cross-validation", source="abstract"),
        PublishedMetric(
            metric="accuracy",
            value='95 % "after testing"',
            cohort="not stated",
            source="review only; not in the abstract",
        ),
    ),
    notes=(
        "How the images were fused, the unit of the folds and all hyper-parameters are not public: both sequences are "
        "kept as channels with their mean (the fusion is reversible), folds are by patient, and the defaults are ours.",
        "Published training starts from ImageNet weights; the recipe starts from random weights by default, because "
        "weights are downloaded only on request.",
        "No public sarcoma data with both sequences are available: tested on constructed data, where neither sequence "
        "alone determines the class.",
    ),
)


def recipe() -> Recipe:
    """Return the recipe; sequences ``T1GD`` and ``DWI``, the class in the clinical column ``class``."""
    from pathology.radiology.images.registration import RegistrationSettings
    from pathology.radiology.models.image_recipe import ImageRecipe
    from pathology.radiology.models.network_classifier import ClassifierSettings
    from pathology.radiology.models.training_loop import OptimiserSettings

    return ImageRecipe(
        sequences=("T1GD", "DWI"),
        label="class",
        classes=("embryonal", "alveolar"),
        slices=8,
        size=224,
        registration=RegistrationSettings(),
        classifier=ClassifierSettings(
            architecture="alexnet", optimiser=OptimiserSettings(steps=400, batch=16, learning_rate=1e-4)
        ),
    )

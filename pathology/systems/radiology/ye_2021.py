"""B7. Surgical margins of canine soft tissue sarcoma from OCT B-scans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="ye-2021",
    code="B7",
    title="ResNet-50 on OCT of surgical margins",
    reference="Ye et al. 2021, Veterinary and Comparative Oncology",
    task="Tumour at the margin or not, by B-scan and by dog",
    network="ResNet-50",
    parameters=23_512_130,
    status="works",
    data="canine soft tissue sarcomas; the number of dogs is not in the accessible text",
    published=(
        PublishedMetric(metric="accuracy", value="97.1 %", cohort="not stated", source="review"),
        PublishedMetric(metric="sensitivity", value="94.3 %", cohort="not stated", source="review"),
    ),
    notes=(
        "Folds are by dog; whether the published ones were is unknown.  All hyper-parameters are ours.",
        "No public OCT of sarcomas is available: tested on constructed B-scans.",
    ),
)


def recipe() -> Recipe:
    """Return the recipe; sequence ``OCT`` with one B-scan per slice, the class in the clinical column ``margin``."""
    from pathology.radiology.models.image_recipe import ImageRecipe
    from pathology.radiology.models.network_classifier import ClassifierSettings
    from pathology.radiology.models.training_loop import OptimiserSettings

    return ImageRecipe(
        sequences=("OCT",),
        label="margin",
        classes=("clear", "tumour"),
        masked=False,
        slices=16,
        size=224,
        margin_mm=0.0,
        classifier=ClassifierSettings(
            architecture="resnet50", optimiser=OptimiserSettings(steps=400, batch=16, learning_rate=3e-4)
        ),
    )

"""A2. Alveolar or embryonal rhabdomyosarcoma with InceptionV3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["CLASSES", "SYSTEM", "recipe"]

CLASSES = ("ARMS", "ERMS")

SYSTEM = System(
    id="zhang-2022",
    code="A2",
    title="Deep learning of rhabdomyosarcoma: alveolar or embryonal",
    reference="Zhang et al. 2022, American Journal of Pathology 192:917",
    task="alveolar or embryonal rhabdomyosarcoma",
    network="InceptionV3 with auxiliary logits",
    parameters=24_348_900,
    status="works",
    data="80 patients; 10,658 patches for training, 1,674 for testing",
    published=(
        PublishedMetric(metric="slide AUC, ARMS", value="0.94", cohort="192 test slides", source="abstract"),
        PublishedMetric(metric="slide AUC, ERMS", value="0.92", cohort="192 test slides", source="abstract"),
        PublishedMetric(metric="patch accuracy", value="87.9 %", cohort="1,674 test patches", source="review"),
    ),
    notes=(
        "Patch size, scale, class list and hyper-parameters are not published: --target-mpp must be given; 299 px, "
        "AdamW with a one-cycle schedule, rotations and colour jitter are ours.",
        "The aggregation from patches to slide is not published: mean probability of the patches in the given "
        "regions, or of all tissue without regions.",
    ),
)


def recipe() -> SlideRecipe:
    """Return a training with our hyper-parameters, since none are published."""
    from pathology.training.classifier.recipe import SlideRecipe, Stage

    return SlideRecipe(
        architecture="inception-v3",
        mpp=None,
        patch=299,
        batch=32,
        stages=(
            Stage(epochs=3, frozen=True, learning_rate=1e-3),
            Stage(epochs=20, learning_rate=3e-4, lowest_rate=3e-5),
        ),
        weight_decay=0.01,
        augmentation="turns-and-colour",
        choose="slide loss",
        patience=5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )

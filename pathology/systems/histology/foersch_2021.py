"""A1. Five subtypes of soft tissue sarcoma with DenseNet121."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["CLASSES", "SYSTEM", "recipe"]

CLASSES = ("DDLPS", "LMS", "MFS", "SS", "UPS")

SYSTEM = System(
    id="foersch-2021",
    code="A1",
    title="Deep learning for diagnosis of soft tissue sarcoma: five subtypes",
    reference="Foersch et al. 2021, Annals of Oncology 32:1178",
    task="dedifferentiated liposarcoma, leiomyosarcoma, myxofibrosarcoma, synovial sarcoma, undifferentiated "
    "pleomorphic sarcoma",
    network="DenseNet121 with fastai 1's head",
    parameters=8_010_629,
    status="works",
    data="506 slides of 291 patients: TCGA-SARC 240 (training and validation), several centres 51 (test)",
    published=(
        PublishedMetric(
            metric="AUROC", value="0.97 ± 0.01", cohort="51 patients from several centres", source="abstract"
        ),
        PublishedMetric(
            metric="accuracy", value="79.9 ± 6.1 %", cohort="51 patients from several centres", source="abstract"
        ),
        PublishedMetric(
            metric="accuracy of nine pathologists without and with the model",
            value="46.3 ± 15.5 % and 87.1 ± 11.1 %",
            cohort="51 patients from several centres",
            source="abstract",
        ),
    ),
    notes=(
        "The scale of the tiles is not published: --target-mpp must be given.",
        "The aggregation from tiles to patient is not published: mean probability by default, with majority vote and "
        "the ten most confident tiles reported beside it.",
        "What the published ± refers to is not stated.",
        "The authors' notebook constructs MixUp but does not use it; neither does this recipe.",
        "fastai changes contrast and brightness on the logits of pixel values, albumentations on the pixel values.",
        "The authors keep the epoch with the best accuracy of validation tiles; so does this recipe, on validation "
        "patients.",
    ),
)


def recipe() -> SlideRecipe:
    """Return the published training: two stages of 25 epochs with one-cycle rates, the first with the body frozen."""
    from pathology.training.classifier.recipe import SlideRecipe, Stage

    return SlideRecipe(
        architecture="densenet121-foersch",
        mpp=None,
        patch=1024,
        stain="vahadane",
        batch=5,
        stages=(
            Stage(epochs=25, frozen=True, learning_rate=1e-4),
            Stage(epochs=25, learning_rate=1e-4, lowest_rate="find"),
        ),
        weight_decay=0.1,
        augmentation="foersch",
        choose="patch accuracy",
    )

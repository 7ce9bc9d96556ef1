"""A4. Alveolar, embryonal or clear cell sarcoma with InceptionV3, after DeepPATH."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["CLASSES", "SYSTEM", "recipe"]

CLASSES = ("ARMS", "ERMS", "CCS")

_INTERNAL = "18 ARMS, 15 ERMS, 3 CCS test slides"
_EXTERNAL = "14 ARMS, 17 ERMS, 30 CCS external slides"

SYSTEM = System(
    id="frankel-2022",
    code="A4",
    title="DeepPATH for rhabdomyosarcoma and clear cell sarcoma",
    reference="Frankel et al. 2022, Modern Pathology, doi 10.1038/s41379-022-01075-x",
    task="alveolar rhabdomyosarcoma, embryonal rhabdomyosarcoma, clear cell sarcoma",
    network="InceptionV3 with auxiliary logits",
    parameters=24_351_718,
    status="works",
    data="82 ARMS, 71 ERMS, 10 CCS slides for training, 19, 17, 2 for validation",
    published=(
        PublishedMetric(
            metric="slide AUC, ARMS, ERMS, CCS", value="0.90, 0.89, 1.00", cohort=_INTERNAL, source="tables and figures"
        ),
        PublishedMetric(
            metric="slide AUC, ARMS, ERMS, CCS", value="0.89, 0.61, 0.64", cohort=_EXTERNAL, source="tables and figures"
        ),
    ),
    notes=(
        "The internal AUC of 1.00 for CCS is based on 3 slides; the external one on 30.",
        "The settings used are not published; these are DeepPATH's for fine-tuning: 299 px at 20x, at most half "
        "background, no overlap, RMSProp from 0.001, multiplied by 0.16 every 30 epochs.",
        "DeepPATH counts a patch's bright pixels; here at least half of a patch must be tissue of the slide's mask, in "
        "training and in scoring alike.",
        "DeepPATH's RMSProp has its epsilon of 1 inside the square root, torch's outside.",
        "Both of DeepPATH's rules are reported: average probability, and share of patches per predicted class.",
    ),
)


def recipe() -> SlideRecipe:
    """Return DeepPATH's settings for fine-tuning."""
    from pathology.training.classifier.recipe import SlideRecipe, Stage

    return SlideRecipe(
        architecture="inception-v3",
        mpp=0.5,
        patch=299,
        min_tissue=0.5,
        batch=30,
        stages=(Stage(epochs=60, learning_rate=1e-3),),
        optimiser="rmsprop",
        weight_decay=4e-5,
        schedule="step",
        class_weights=False,
        augmentation="deeppath",
        choose="slide loss",
        patience=10,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )

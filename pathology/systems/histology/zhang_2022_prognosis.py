"""A2, second model. Risk of an event in embryonal rhabdomyosarcoma with InceptionV3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["CLASSES", "SYSTEM", "recipe"]

CLASSES = ("no event", "event")

SYSTEM = System(
    id="zhang-2022-prognosis",
    code="A2",
    title="Deep learning of rhabdomyosarcoma: risk in embryonal rhabdomyosarcoma",
    reference="Zhang et al. 2022, American Journal of Pathology 192:917",
    task="high or low risk of an event in embryonal rhabdomyosarcoma",
    network="InceptionV3 with auxiliary logits",
    parameters=24_348_900,
    status="works",
    data="60 patients with embryonal rhabdomyosarcoma",
    published=(
        PublishedMetric(
            metric="hazard ratio, high against low risk, adjusted for age and sex",
            value="4.64 (95 % CI 1.05-20.57, P = 0.04)",
            cohort="136 test patients",
            source="abstract",
        ),
        PublishedMetric(
            metric="likelihood-ratio test", value="P = 0.02", cohort="136 test patients", source="abstract"
        ),
    ),
    notes=(
        "The interval almost touches 1.",
        "The cut-off is the median risk of development patients whose slides were not used to fit the weights; it is "
        "on the card before any test patient is evaluated.",
        "Everything that is not published is as in zhang-2022.",
    ),
)


def recipe() -> SlideRecipe:
    """Return the training of the subtype model."""
    from pathology.systems.histology import zhang_2022

    return zhang_2022.recipe()

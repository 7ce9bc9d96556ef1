"""A1, second model. Disease-specific survival in leiomyosarcoma with DenseNet121."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["CLASSES", "SYSTEM", "recipe"]

CLASSES = ("no disease-specific death", "disease-specific death")

SYSTEM = System(
    id="foersch-2021-survival",
    code="A1",
    title="Deep learning for diagnosis of soft tissue sarcoma: survival in leiomyosarcoma",
    reference="Foersch et al. 2021, Annals of Oncology 32:1178",
    task="disease-specific survival status of patients with leiomyosarcoma, and from it a risk",
    network="DenseNet121 with fastai 1's head",
    parameters=8_009_090,
    status="works",
    data="139 slides of 85 patients with leiomyosarcoma",
    published=(
        PublishedMetric(
            metric="AUROC",
            value="0.91 ± 0.1",
            cohort="85 patients with leiomyosarcoma",
            source="secondary source, not checked in the paper",
        ),
        PublishedMetric(
            metric="accuracy",
            value="88.9 ± 9.9 %",
            cohort="85 patients with leiomyosarcoma",
            source="secondary source, not checked in the paper",
        ),
        PublishedMetric(
            metric="hazard ratio, multivariable Cox",
            value="5.5 (95 % CI 1.56-19.7, P = 0.008)",
            cohort="85 patients with leiomyosarcoma",
            source="secondary source, not checked in the paper",
        ),
    ),
    notes=(
        "No code is published for this part.  Here: a classifier of tiles by status, the patient's mean probability of "
        "the second class as risk, Kaplan-Meier curves, log-rank test and multivariable Cox model.",
        "The risk cut-off is the median of development patients whose slides were not used to fit the weights; test "
        "patients never change it.",
        "Status at last contact treats a patient lost after a month like one alive after ten years; the accompanying "
        "Cox model does not.",
    ),
)


def recipe() -> SlideRecipe:
    """Return the training of the subtype model."""
    from pathology.systems.histology import foersch_2021

    return foersch_2021.recipe()

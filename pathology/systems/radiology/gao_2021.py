"""B6. Treatment effect from longitudinal ADC maps: ACGAN for training images, VGG-19 for the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="gao-2021",
    code="B6",
    title="ACGAN and VGG-19 on ADC maps of three time points",
    reference="Gao et al. 2021, Medical Physics",
    task="Treatment effect up to 20 %, 20-90 %, 90 % and more, by patient",
    network="ACGAN; VGG-19 trained on synthetic images only",
    parameters=139_582_531,
    status="works",
    data="30 patients, 6 Gy x 5, DWI at three time points on a 0.35 T MR-guided system",
    published=(
        PublishedMetric(
            metric="accuracy, training / validation",
            value="86.5 % / 84.8 %",
            cohort="20 / 5 patients per round",
            source="review",
        ),
        PublishedMetric(
            metric="accuracy of slices", value="above 80 %", cohort="5 test patients per round", source="review"
        ),
        PublishedMetric(
            metric="accuracy of patients",
            value="100 % in six rounds, 80 % in one",
            cohort="5 test patients per round, 7 rounds",
            source="review",
        ),
    ),
    notes=(
        "The GAN is fitted on the training patients of each round only, and its use is refused where one of them is "
        "held out.  The published number of 15,000 synthetic images per class is the default.",
        "Every round reports how close synthetic images are to training images, compared with other patients' images.",
        "GAN sizes and all hyper-parameters are ours.  Seven rounds of 20/5/5 patients become folds by patient.",
        "No public longitudinal ADC maps of sarcomas are available: tested on constructed data.",
    ),
)


def recipe() -> Recipe:
    """Return the recipe; sequences ``ADC_1`` to ``ADC_3``, the class in the clinical column ``effect``."""
    from pathology.radiology.models.adversarial_recipe import AdversarialRecipe

    return AdversarialRecipe()

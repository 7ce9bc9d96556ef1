"""B12. Hypoxic habitats from multiparametric MRI, pixel by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="jardim-perassi-2021",
    code="B12",
    title="ResNet-18 hypoxia maps",
    reference="Jardim-Perassi et al. 2021, Theranostics 11:5313",
    task="Probability of hypoxia in every pixel; hypoxic fraction of the tumour",
    network="ResNet-18 on patches",
    parameters=11_177_538,
    status="works",
    data="patient-derived rhabdomyosarcoma xenografts and a syngeneic model; MRI with registered histology",
    published=(
        PublishedMetric(
            metric="correlation with histology",
            value="not found in the accessible text",
            cohort="mice",
            source="abstract",
        ),
    ),
    notes=(
        "Patch size, sequences and training are ours.",
        "Histology must be registered to the MRI, as a mask; no public pairs are available: tested on phantoms with a "
        "known hypoxic fraction.",
    ),
)


def recipe() -> Recipe:
    """Return the recipe; sequences ``T2``, ``DCE`` and ``ADC``, the truth in the mask ``hypoxia``."""
    from pathology.radiology.models.habitat_recipe import HabitatRecipe

    return HabitatRecipe()

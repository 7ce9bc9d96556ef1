"""B5. Distant metastasis from PET-CT: a two-stream 3D network with fusion at several depths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="peng-2019",
    code="B5",
    title="Two-stream 3D network on PET-CT",
    reference="Peng et al. 2019, EMBC; successor arXiv 2104.11416",
    task="Distant (lung) metastasis, by patient",
    network="two 3D streams, fused at three depths",
    parameters=444_290,
    status="works",
    data="the 51 patients of the public collection Soft-tissue-Sarcoma, of whom probably 48 were used",
    published=(
        PublishedMetric(metric="AUC", value="0.8438", cohort="probably 48 patients", source="review"),
        PublishedMetric(
            metric="accuracy", value="0.8542 (fits 41 of 48)", cohort="probably 48 patients", source="review"
        ),
        PublishedMetric(metric="sensitivity", value="0.9167", cohort="probably 48 patients", source="review"),
        PublishedMetric(
            metric="AUC, successor without delineation", value="0.903", cohort="the same collection", source="abstract"
        ),
    ),
    notes=(
        "The architecture is not public; this one keeps the idea of fusion at several depths, and its widths are ours.",
        "Fusion is tested on a constructed task that neither PET nor CT solves alone.",
    ),
)


def recipe() -> Recipe:
    """Return the recipe; sequences ``PET`` and ``CT``, the outcome in ``lung_metastasis`` (0 or 1)."""
    from pathology.radiology.models.image_recipe import ImageRecipe
    from pathology.radiology.models.network_classifier import ClassifierSettings
    from pathology.radiology.models.training_loop import OptimiserSettings

    return ImageRecipe(
        sequences=("PET", "CT"),
        label="lung_metastasis",
        classes=("0", "1"),
        planar=False,
        size=48,
        channels="as is",
        classifier=ClassifierSettings(
            architecture="two-stream-petct", optimiser=OptimiserSettings(steps=300, batch=8, learning_rate=1e-3)
        ),
    )

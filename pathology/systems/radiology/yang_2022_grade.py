"""B10. Grade of soft tissue sarcoma from MRI: a deep-learning radiomic nomogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="yang-2022-grade",
    code="B10",
    title="Deep-learning radiomic nomogram of grade",
    reference="Yang et al. 2022, Journal of Magnetic Resonance Imaging 28160",
    task="High grade or not; outcome by risk group",
    network="radiomics (and deep features), mRMR, LASSO, logistic nomogram",
    parameters=None,
    status="works",
    data="known only from a review",
    published=(PublishedMetric(metric="none", value="no value accessible", cohort="not stated", source="review"),),
    notes=(
        "Built like B4, for grade instead of lung metastasis: the publication is known only from a review.",
        "Tested on T1 MRI of 28 public patients: high grade against low and intermediate.",
    ),
)


def recipe(sequences: tuple[str, ...] = ("MR_T1",), deep_start: str | None = None) -> Recipe:
    """Return the recipe; the grade in the clinical column ``is_high`` (0 or 1), its only covariate the age."""
    from pathology.radiology.features.signature import SignatureSettings
    from pathology.radiology.models.deep_features import DeepFeatureSettings
    from pathology.radiology.models.signature_recipe import SignatureRecipe

    deep: tuple[DeepFeatureSettings, ...] = ()
    if deep_start is not None:
        deep = (DeepFeatureSettings(sequence=sequences[0], backbone="resnet34", start=deep_start),)
    return SignatureRecipe(
        sequences=sequences,
        label="is_high",
        classes=("0", "1"),
        numeric=("age",),
        deep=deep,
        signature=SignatureSettings(mrmr=10, reduction="lasso", classifier="logistic"),
    )

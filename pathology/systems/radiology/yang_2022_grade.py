"""B10. Grade of soft tissue sarcoma from MRI: a deep-learning radiomic nomogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import OwnMetric, PublishedMetric, System

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
    own=(
        OwnMetric(
            metric="AUC, clinical data alone",
            value=0.68,
            interval=(0.42, 0.91),
            n=25,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), nested 5-fold by patient, 5 repeats",
        ),
        OwnMetric(
            metric="AUC, radiomics of T1",
            value=0.493,
            interval=(0.286, 0.694),
            n=25,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), nested 5-fold by patient, 5 repeats",
        ),
        OwnMetric(
            metric="AUC, T1 and clinical data",
            value=0.633,
            interval=(0.396, 0.852),
            n=25,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), nested 5-fold by patient, 5 repeats",
        ),
        OwnMetric(
            metric="AUC, deep features of T1",
            value=0.667,
            interval=(0.458, 0.843),
            n=25,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), T1, nested 5-fold by patient, 5 repeats; untrained ResNet-34",
        ),
        OwnMetric(
            metric="AUC, T1, deep features and clinical data",
            value=0.58,
            interval=(0.338, 0.815),
            n=25,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), T1, nested 5-fold by patient, 5 repeats; untrained ResNet-34",
        ),
    ),
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

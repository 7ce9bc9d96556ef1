"""B9. Well-differentiated liposarcoma against lipoma from CT and MRI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="yang-2022-lipoma",
    code="B9",
    title="ResNet-50 features and SVM: liposarcoma or lipoma",
    reference="Yang et al. 2022, Orphanet Journal of Rare Diseases 17:158",
    task="Well-differentiated liposarcoma or lipoma, by patient",
    network="radiomics and ResNet-50 features, univariate filter, recursive elimination, SVM",
    parameters=None,
    status="works",
    data="127 patients: 89 for training, 38 external; CT and MRI, 851 features each; six pretrained networks",
    published=(
        PublishedMetric(
            metric="AUC, ResNet-50 model", value="0.950 (0.886-1.000)", cohort="38 external patients", source="abstract"
        ),
        PublishedMetric(
            metric="accuracy, ResNet-50 model", value="92.11 % (35/38)", cohort="38 external", source="abstract"
        ),
        PublishedMetric(
            metric="sensitivity, ResNet-50 model",
            value="95.00 % (73.06-99.74), 19/20",
            cohort="38 external",
            source="abstract",
        ),
        PublishedMetric(
            metric="specificity, ResNet-50 model",
            value="88.89 % (63.93-98.05), 16/18",
            cohort="38 external",
            source="abstract",
        ),
        PublishedMetric(
            metric="AUC, clinical-radiological model",
            value="0.942 (0.867-1.000)",
            cohort="38 external",
            source="abstract",
        ),
    ),
    notes=(
        "The review's table prints the second model's figures (0.942, 0.86, 0.95, 0.77) in the row of this system.",
        "Point of comparison: Vos et al. 2019, 116 tumours, AUC 0.83 from T1 and 0.89 from T1 and T2.",
        "Deep features need external weights: ImageNet's, where they can be downloaded, or a file.",
        "Tested on constructed fatty tumours; public pairs exist (WORC) but were not available.",
    ),
)


def recipe(deep_start: str | None = None) -> Recipe:
    """Return the recipe; sequences ``CT`` and ``MR_T1``, columns ``diagnosis``, ``age`` and ``ldh``.

    Parameters
    ----------
    deep_start
        Weights of the ResNet-50 whose features are added; ``None`` adds none.
    """
    from pathology.radiology.features.signature import SignatureSettings
    from pathology.radiology.models.deep_features import DeepFeatureSettings
    from pathology.radiology.models.signature_recipe import SignatureRecipe

    sequences = ("CT", "MR_T1")
    deep: tuple[DeepFeatureSettings, ...] = ()
    if deep_start is not None:
        deep = tuple(DeepFeatureSettings(sequence=s, backbone="resnet50", start=deep_start) for s in sequences)
    return SignatureRecipe(
        sequences=sequences,
        label="diagnosis",
        classes=("lipoma", "liposarcoma"),
        numeric=("age", "ldh"),
        deep=deep,
        signature=SignatureSettings(mrmr=None, reduction="rfe", eliminated_to=6, classifier="svm"),
    )

"""B4. Lung metastasis of soft tissue sarcoma from MRI: mRMR, LASSO, SMOTE and an SVM, in a nomogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="liang-2022",
    code="B4",
    title="Radiomic nomogram of lung metastasis",
    reference="Liang et al. 2022, Frontiers in Oncology 12:897676",
    task="Lung metastasis, yes or no",
    network="radiomics and ResNet-34 features, mRMR, LASSO, SMOTE, SVM, logistic nomogram",
    parameters=None,
    status="works",
    data="242 patients: 116 for training, 126 external; T1WI (949 features) and FS-T2WI (772), 54 and 50 deep features",
    published=(
        PublishedMetric(metric="AUC, nomogram", value="0.833", cohort="126 external patients", source="abstract"),
        PublishedMetric(metric="AUC, radiomics", value="0.799", cohort="126 external patients", source="abstract"),
        PublishedMetric(metric="AUC, clinical", value="0.664", cohort="126 external patients", source="abstract"),
    ),
    notes=(
        "SMOTE runs inside each training fold; every synthetic row records its parents and an audit checks them.",
        "Logistic regression, trees, forests, boosting and AdaBoost can be compared; logistic regression and SVM can "
        "be stored in a bundle.",
        "Tested on T1 MRI, CT and PET of 28 public patients.",
    ),
)


def recipe(
    sequences: tuple[str, ...] = ("MR_T1",), deep_start: str | None = None, shell_mm: float | None = None
) -> Recipe:
    """Return the recipe; the outcome in the clinical column ``lung_metastasis`` (0 or 1).

    Parameters
    ----------
    sequences
        Sequences measured.
    deep_start
        Weights of the ResNet-34 whose features of the first sequence are added; ``None`` adds none.
    shell_mm
        Width of a peritumoural shell; the publication has none.
    """
    from pathology.radiology.features.signature import SignatureSettings
    from pathology.radiology.models.deep_features import DeepFeatureSettings
    from pathology.radiology.models.signature_recipe import SignatureRecipe

    deep: tuple[DeepFeatureSettings, ...] = ()
    if deep_start is not None:
        deep = (DeepFeatureSettings(sequence=sequences[0], backbone="resnet34", start=deep_start),)
    return SignatureRecipe(
        sequences=sequences,
        label="lung_metastasis",
        classes=("0", "1"),
        numeric=("age",),
        categories={"grade": ("Low", "Intermediate", "High")},
        deep=deep,
        shell_mm=shell_mm,
        signature=SignatureSettings(mrmr=10, reduction="lasso", smote=True, classifier="svm"),
    )

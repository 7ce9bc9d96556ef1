"""B3. Relapse of soft tissue sarcoma from MRI: a deep-learning radiomic nomogram of time to relapse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="liu-2021",
    code="B3",
    title="Deep-learning radiomic nomogram of relapse",
    reference="Liu S et al. 2021, European Radiology",
    task="Time to relapse; low, medium and high risk",
    network="radiomics and ResNet-34 features, LASSO-Cox signature, Cox nomogram",
    parameters=None,
    status="works",
    data="282 patients of 3 centres, 113 with contrast-enhanced MRI; developed on one centre, tested on two",
    published=(
        PublishedMetric(metric="C-index", value="0.721 and more", cohort="282 patients, 3 centres", source="abstract"),
        PublishedMetric(
            metric="median AUC", value="0.746 and more", cohort="282 patients, 3 centres", source="abstract"
        ),
        PublishedMetric(
            metric="integrated Brier score", value="0.159 and less", cohort="282 patients, 3 centres", source="abstract"
        ),
    ),
    notes=(
        "The review names ResNet-34; the number of features kept and the penalties are ours.",
        "The nomogram is fitted on signature scores of inner folds, to avoid relying on an overfitted signature.",
        "Tested on T1 MRI of 28 public patients with time to metastasis or recurrence: too few for any conclusion.",
    ),
)


def recipe(sequence: str = "MR_T1", deep_start: str | None = None) -> Recipe:
    """Return the recipe; follow-up in the clinical columns ``relapse_days`` and ``relapse``.

    Parameters
    ----------
    sequence
        The MRI sequence measured.
    deep_start
        Weights of the ResNet-34 whose features are added (``imagenet`` or a file); ``None`` adds none.
    """
    from pathology.radiology.models.deep_features import DeepFeatureSettings
    from pathology.radiology.models.signature_recipe import SignatureRecipe
    from pathology.radiology.models.survival_recipe import SurvivalRecipe

    deep = (
        () if deep_start is None else (DeepFeatureSettings(sequence=sequence, backbone="resnet34", start=deep_start),)
    )
    return SurvivalRecipe(
        measuring=SignatureRecipe(
            sequences=(sequence,),
            label="relapse",
            classes=("0", "1"),
            numeric=("age",),
            categories={"grade": ("Low", "Intermediate", "High")},
            deep=deep,
        ),
        time="relapse_days",
        event="relapse",
        outcome="relapse",
    )

"""B2. Low against high FNCLCC grade from T1FSGd and T2FS MRI, a network a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="navarro-2021",
    code="B2",
    title="DenseNet-161 grading from MRI",
    reference="Navarro et al. 2021, Cancers 13:2866",
    task="FNCLCC grade 1 against 2 and 3, by patient; a separate model a sequence",
    network="DenseNet-161",
    parameters=26_476_418,
    status="works",
    data="148 patients for training, 158 of another hospital for testing; T1FSGd and T2FS",
    published=(
        PublishedMetric(metric="AUC, T1FSGd", value="0.75", cohort="158 external patients", source="abstract"),
        PublishedMetric(metric="AUC, T2FS", value="0.76", cohort="158 external patients", source="abstract"),
        PublishedMetric(metric="best F1, T1FSGd", value="0.90", cohort="158 external patients", source="abstract"),
    ),
    notes=(
        "An F1 of 0.90 reflects the share of high grades; balanced accuracy is reported here as well.",
        "Intervals are not published.  Hyper-parameters beyond the network are ours.",
        "The available data have plain T1, not T1FSGd or T2FS, and grades low, intermediate and high: low is compared "
        "with the rest.  With 3 low-grade patients no interval is reliable, and the frame of the cropped images may "
        "be informative without any network.",
    ),
)


def recipe(sequence: str = "MR_T1", start: str = "random") -> Recipe:
    """Return the recipe for one sequence; the grade in the clinical column ``high_grade`` (0 or 1).

    With the columns ``follow_up_days`` and ``death`` (0 or 1) overall survival is evaluated too.
    """
    from pathology.radiology.models.image_recipe import ImageRecipe
    from pathology.radiology.models.network_classifier import ClassifierSettings
    from pathology.radiology.models.training_loop import OptimiserSettings

    return ImageRecipe(
        sequences=(sequence,),
        label="high_grade",
        classes=("0", "1"),
        slices=8,
        size=224,
        survival=("follow_up_days", "death"),
        classifier=ClassifierSettings(
            architecture="densenet161",
            start=start,
            optimiser=OptimiserSettings(steps=300, batch=12, learning_rate=1e-4),
        ),
    )

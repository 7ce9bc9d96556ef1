"""B8. Tumour outlines on CT learnt from several readers as a confidence map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe"]

SYSTEM = System(
    id="marin-2022",
    code="B8",
    title="2.5D U-Net of confidence maps on CT",
    reference="Marin et al. 2022, arXiv 2110.04721",
    task="Outline the gross tumour volume with a confidence in every voxel",
    network="2.5D U-Net with attention gates",
    parameters=494_261,
    status="works",
    data="68 patients with soft tissue or bone sarcoma, CT, four readers, three trials each",
    published=(
        PublishedMetric(metric="continuous Dice", value="87 %", cohort="68 patients", source="abstract"),
        PublishedMetric(metric="Hausdorff distance", value="14 mm", cohort="68 patients", source="review"),
    ),
    notes=(
        'The exact form of the published "self-taught attention" is not public: attention gates of Oktay et al. 2018 '
        "are used instead.  Widths, depth and training are ours.",
        "Confidence is the share of contours that include a voxel.  With one contour per patient the target is that "
        "contour and the method an ordinary segmentation.",
        "The review credits these authors with another paper too (reference 93, Guo 2019, head and neck).",
        "The public patients have one contour each and images cropped around the tumour: nothing can be said about "
        "finding it.  Several readers were tested on constructed data.",
        "The continuous Dice weights every voxel: low background confidence, which remains after short training, "
        "lowers it much without affecting the contour.",
    ),
)


def recipe(sequences: tuple[str, ...] = ("CT",)) -> Recipe:
    """Return the recipe."""
    from pathology.radiology.models.segmentation_recipe import SegmentationRecipe
    from pathology.radiology.models.training_loop import OptimiserSettings

    return SegmentationRecipe(
        sequences=sequences,
        shape="2.5d",
        neighbours=1,
        spacing_mm=(2.0, 2.0, 3.27),
        window=(1, 96, 96),
        architecture="attention-unet",
        widths=(16, 32, 64, 128),
        optimiser=OptimiserSettings(steps=1500, batch=16, learning_rate=3e-3),
    )

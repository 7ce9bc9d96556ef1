"""B8. Tumour outlines on CT learnt from several readers as a confidence map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import OwnMetric, PublishedMetric, System

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
    own=(
        OwnMetric(
            metric="Dice coefficient, T1",
            value=0.577,
            interval=(0.501, 0.641),
            n=28,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), cropped images, 5-fold by patient, 600 steps at 3 mm",
        ),
        OwnMetric(
            metric="continuous Dice coefficient, T1",
            value=0.52,
            interval=(0.45, 0.581),
            n=28,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), cropped images, 5-fold by patient, 600 steps at 3 mm",
        ),
        OwnMetric(
            metric="95 % Hausdorff distance, mm, T1",
            value=38.5,
            interval=(32.5, 44.2),
            n=28,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), cropped images, 5-fold by patient, 600 steps at 3 mm",
        ),
        OwnMetric(
            metric="Dice coefficient, T1, image-free baseline",
            value=0.637,
            interval=(0.577, 0.689),
            n=28,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), cropped images, 5-fold by patient, mean training tumour in the frame",
        ),
        OwnMetric(
            metric="Dice coefficient, PET-CT",
            value=0.683,
            interval=(0.638, 0.727),
            n=28,
            unit="patients",
            data="Soft-tissue-Sarcoma (TCIA), cropped images, 2-fold by patient, 200 steps at 3 mm",
        ),
        OwnMetric(
            metric="Dice coefficient",
            value=0.951,
            interval=(0.914, 0.984),
            n=12,
            unit="patients",
            data="constructed, four readers, no clinical claim; 2-fold by patient, 1500 steps on slices of 48 x 48",
        ),
        OwnMetric(
            metric="continuous Dice coefficient",
            value=0.781,
            interval=(0.755, 0.803),
            n=12,
            unit="patients",
            data="constructed, four readers, no clinical claim; 2-fold by patient, 1500 steps on slices of 48 x 48",
        ),
        OwnMetric(
            metric="soft Dice coefficient against the readers' confidence map",
            value=0.747,
            interval=(0.718, 0.771),
            n=12,
            unit="patients",
            data="constructed, four readers, no clinical claim; 2-fold by patient, 1500 steps on slices of 48 x 48",
        ),
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

"""B11. Sarcomas of mice in MRI: 3D U-Net, then radiomics of the tumour and a shell around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.systems.system import PublishedMetric, System

if TYPE_CHECKING:
    from pathology.radiology.models.recipe import Recipe

__all__ = ["SYSTEM", "recipe", "recurrence_recipe"]

SYSTEM = System(
    id="holbrook-2020",
    code="B11",
    title="3D U-Net and peritumoural radiomics in mice",
    reference="Holbrook et al. 2020, PMC7138523",
    task="Outline the tumour; recurrence after radiotherapy from tumour and shell",
    network="3D U-Net",
    parameters=1_185_818,
    status="works",
    data="mice with soft tissue sarcoma, multicontrast MRI around radiotherapy",
    published=(
        PublishedMetric(metric="Dice, multicontrast", value="0.863", cohort="mice", source="abstract"),
        PublishedMetric(metric="Dice, T2 only", value="0.861", cohort="mice", source="abstract"),
        PublishedMetric(metric="AUC, recurrence", value="0.79", cohort="mice, tumour and shell", source="abstract"),
    ),
    notes=(
        "Widths and training are ours.  The shell is a true distance in mm.",
        "Tested on T1 MRI and PET-CT of 28 public patients, cropped around the tumour: nothing can be said about "
        "finding it.",
    ),
)


def recipe(
    sequences: tuple[str, ...] = ("MR_T1",), spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.27)
) -> Recipe:
    """Return the recipe of the segmentation."""
    from pathology.radiology.models.segmentation_recipe import SegmentationRecipe
    from pathology.radiology.models.training_loop import OptimiserSettings

    return SegmentationRecipe(
        sequences=sequences,
        shape="3d",
        spacing_mm=spacing_mm,
        window=(16, 64, 64),
        widths=(16, 32, 64, 128),
        optimiser=OptimiserSettings(steps=1500, batch=4, learning_rate=3e-3),
    )


def recurrence_recipe(sequence: str = "T2", shell_mm: float = 1.0) -> Recipe:
    """Return the recipe of recurrence (clinical column ``recurrence``, 0 or 1) from tumour and shell."""
    from pathology.radiology.features.signature import SignatureSettings
    from pathology.radiology.models.signature_recipe import SignatureRecipe

    return SignatureRecipe(
        sequences=(sequence,),
        label="recurrence",
        classes=("0", "1"),
        shell_mm=shell_mm,
        signature=SignatureSettings(classifier="logistic"),
    )

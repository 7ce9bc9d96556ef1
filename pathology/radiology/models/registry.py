"""Registry of radiology recipes by their name on the card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathology.errors import BundleError
from pathology.extras import require_extras
from pathology.radiology.io.cohort import Case
from pathology.radiology.models.bundle import RadiologyCard, read_radiology_card
from pathology.radiology.models.recipe import Recipe

__all__ = ["predict_case", "recipe_of", "require_libraries"]

_MEASURING = frozenset({"signature", "survival-signature"})
"""Kinds of recipes that measure radiomic features."""


def recipe_of(card: RadiologyCard) -> Recipe:
    """Return the recipe a bundle was made with.

    Raises
    ------
    BundleError
        If this version has no such recipe, or it does not take the card's settings.
    MissingDependencyError
        If a library that it measures with is not installed.
    """
    require_libraries(card.recipe)
    kinds = _kinds()
    if card.recipe not in kinds:
        raise BundleError(f"unknown recipe '{card.recipe}'", remedy="Use the version that created the bundle")
    try:
        return kinds[card.recipe].model_validate(card.recipe_settings)
    except ValueError as error:
        raise BundleError(f"the recipe's settings do not fit this version: {error}") from error


def require_libraries(kind: str) -> None:
    """Check, before hours of work, that the library of radiomic features is installed where a recipe measures them.

    Raises
    ------
    MissingDependencyError
        If it is not.
    """
    if kind in _MEASURING:
        require_extras("radiomics", what=f"a {kind} model")


def _kinds() -> Mapping[str, type[Recipe]]:
    from pathology.radiology.models.adversarial_recipe import AdversarialRecipe
    from pathology.radiology.models.habitat_recipe import HabitatRecipe
    from pathology.radiology.models.image_recipe import ImageRecipe
    from pathology.radiology.models.segmentation_recipe import SegmentationRecipe
    from pathology.radiology.models.signature_recipe import SignatureRecipe
    from pathology.radiology.models.survival_recipe import SurvivalRecipe

    kinds: tuple[type[Recipe], ...] = (
        AdversarialRecipe,
        HabitatRecipe,
        ImageRecipe,
        SegmentationRecipe,
        SignatureRecipe,
        SurvivalRecipe,
    )
    return {k.kind: k for k in kinds}


def predict_case(folder: Path, case: Case, out: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Apply the bundle in a folder to one patient; see :meth:`Recipe.predict`."""
    card = read_radiology_card(folder)
    found = recipe_of(card).predict(folder, card, case, out, device=device)
    described = {"patient_id": case.patient_id, "model": f"{card.name} {card.version}", "system": card.system}
    return described | found | {"intended_use": card.intended_use}

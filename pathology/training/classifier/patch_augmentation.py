"""Augmentation of single training patches on the CPU with albumentations; the only file that imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology.extras import missing_extra
from pathology.training.classifier.recipe import AugmentationName

__all__ = ["change_patch"]


def change_patch(patch: NDArray[np.uint8], name: AugmentationName, seed: int) -> NDArray[np.uint8]:
    """Augment a patch.

    Parameters
    ----------
    patch
        ``(P, P, 3)`` uint8 RGB.
    name
        ``none``; ``foersch``: flips, rotations up to 90 degrees, zoom to 1.1, warp, lighting 0.3, contrast 0.5 to 2,
        brightness 0.4 and 60 to 80 holes of 8 x 8 px, each as in Foersch et al. 2021; ``turns-and-colour``: flips,
        90-degree rotations and colour jitter, our choice for Zhang et al. 2022, who report none; ``deeppath``: flips
        and colour distortion as in the Inception preprocessing of TF-slim.
    seed
        Random seed; the result depends on it alone.

    Returns
    -------
    numpy.ndarray
        ``(P, P, 3)`` uint8 RGB.
    """
    if name == "none":
        return patch
    recipe = _recipe(name)
    recipe.set_random_seed(seed)
    changed: NDArray[np.uint8] = recipe(image=patch)["image"]
    return changed


def _foersch() -> list[Any]:
    import albumentations as a

    return [
        a.HorizontalFlip(p=0.5),
        a.VerticalFlip(p=0.5),
        # fastai 1 applies every affine and lighting transform with probability 0.75 by default.
        a.Affine(scale=(1.0, 1.1), rotate=(-90, 90), border_mode=4, p=0.75),
        a.Perspective(scale=(0.0, 0.1), border_mode=4, p=0.75),
        a.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0.0, p=0.75),
        # fastai applies these to the logits of the pixels, albumentations to the pixels.
        a.RandomBrightnessContrast(brightness_limit=0.0, contrast_limit=(-0.5, 1.0), p=1.0),
        a.RandomBrightnessContrast(brightness_limit=0.4, contrast_limit=0.0, p=1.0),
        a.CoarseDropout(num_holes_range=(60, 80), hole_height_range=(8, 8), hole_width_range=(8, 8), fill=0, p=1.0),
    ]


def _turns_and_colour() -> list[Any]:
    import albumentations as a

    return [
        a.D4(p=1.0),
        a.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.04, 0.04), p=0.8),
    ]


def _deeppath() -> list[Any]:
    import albumentations as a

    # TF-slim's distort_color: brightness 32/255, saturation and contrast 0.5 to 1.5, hue 0.2.
    return [
        a.HorizontalFlip(p=0.5),
        a.ColorJitter(
            brightness=(1 - 32 / 255, 1 + 32 / 255), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.2, 0.2), p=1.0
        ),
    ]


_RECIPES: dict[str, Callable[[], list[Any]]] = {
    "foersch": _foersch,
    "turns-and-colour": _turns_and_colour,
    "deeppath": _deeppath,
}


@cache
def _recipe(name: str) -> Any:  # noqa: ANN401 - albumentations has no type information
    # On import it checks the package index for updates unless disabled.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        import albumentations
    except ImportError as error:  # pragma: no cover - installed in the test environment
        raise missing_extra("augmentation needs albumentations", "training") from error
    return albumentations.Compose(_RECIPES[name](), seed=0)

"""Vary how strongly a slide is stained, for training: as if the laboratory had taken another batch of dye.

After Tellez et al., "Quantifying the effects of data augmentation and stain color normalization in convolutional neural
networks for computational pathology", Medical Image Analysis 58 (2019) 101544, but in the stain space of the slide
itself instead of one fixed for all.
"""

from __future__ import annotations

import math
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.slide.stain.normalise import StainLook
from pathology.slide.stain.vectors import density_of

__all__ = ["StainVariation", "vary_stain"]


class StainVariation(Record):
    """How far staining is varied."""

    amount: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Largest relative change of the amount of each stain: factors lie between 1 minus and 1 plus this."""
    shift: Annotated[float, Field(ge=0)] = 0.05
    """Largest amount of each stain added to or taken from what is stained, in natural-logarithm optical density."""


_CLEAR = 0.15
"""Mean natural-logarithm density below which a pixel counts as ever less stained: glass gets no shift."""


def vary_stain(
    block: NDArray[np.uint8], look: StainLook, variation: StainVariation, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change the amounts of haematoxylin and eosin at random, the same way for a whole block.

    What the two stains do not explain (pigment, pen, noise) stays as it is, and so does glass.

    Parameters
    ----------
    block
        ``(..., 3)`` uint8 RGB.
    look
        The slide's look, by Macenko's or Vahadane's method.
    variation
        How far.
    rng
        Source of randomness; four numbers are drawn.

    Returns
    -------
    numpy.ndarray
        The same shape, uint8.

    Raises
    ------
    UsageError
        If the look has no stain matrix (Reinhard), or the block is no RGB image.
    """
    if look.matrix is None:
        raise UsageError(f"a look by the method {look.method} has no stain matrix to vary")
    if block.dtype != np.uint8 or block.ndim < 2 or block.shape[-1] != 3:
        raise UsageError(f"stains are varied in (..., 3) uint8 RGB; this is {block.shape} {block.dtype}")
    amount = rng.uniform(-variation.amount, variation.amount, 2)
    shift = rng.uniform(-variation.shift, variation.shift, 2)
    matrix = np.asarray(look.matrix)
    # density + (amounts * amount + shift) @ matrix, with amounts = density @ pinv(matrix)
    across = np.eye(3) + np.linalg.pinv(matrix) @ np.diag(amount) @ matrix
    offset = shift @ matrix
    flat = np.ascontiguousarray(block).reshape(1, -1, 3)
    density = cv2.LUT(flat, _DENSITY_TABLE)
    stained = np.clip(density.mean(axis=2, keepdims=True) / _CLEAR, 0, 1)
    changed = cv2.transform(density, across.T.astype(np.float32)) + stained * offset.astype(np.float32)
    light: NDArray[np.float32] = cv2.exp(math.log(255) - np.maximum(changed, 0))
    return np.rint(light).astype(np.uint8).reshape(block.shape)


_DENSITY_TABLE = density_of(np.arange(256, dtype=np.uint8)).astype(np.float32)[None]

"""From a patch of the slide to an encoder's input: resized and cropped as the authors' own transforms do it."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from pathology.encoders.specification import EncoderSpecification

__all__ = ["encoder_input"]


def encoder_input(
    patches: NDArray[np.uint8], specification: EncoderSpecification, executor: Executor | None = None
) -> NDArray[np.uint8]:
    """Resize patches and cut out their centres.

    The published encoders were trained and are used with Pillow's antialiased interpolation, as torchvision's
    ``Resize`` applies it to images; another implementation would give other pixels.

    Parameters
    ----------
    patches
        ``(B, P, P, 3)`` uint8.
    specification
        Gives size, interpolation and crop.
    executor
        Resizes patches side by side; Pillow works outside the interpreter lock.

    Returns
    -------
    numpy.ndarray
        ``(B, input, input, 3)`` uint8; ``patches`` itself if nothing is to be done.
    """
    side, size, crop = patches.shape[1], specification.resize, specification.input
    if side == size == crop:
        return patches
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[specification.interpolation]
    first = round((size - crop) / 2)  # torchvision's centre
    result = np.empty((len(patches), crop, crop, 3), np.uint8)

    def one(index: int) -> None:
        patch = patches[index]
        if side != size:
            patch = np.asarray(Image.fromarray(patch).resize((size, size), method))
        result[index] = patch[first : first + crop, first : first + crop]

    for _ in (executor.map if executor is not None else map)(one, range(len(patches))):
        pass
    return result

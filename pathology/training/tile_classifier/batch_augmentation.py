"""Augmentation of whole patch batches on the training device.

All random numbers are drawn on the CPU from one generator, so that CPU and GPU see the same patches.
"""

from __future__ import annotations

import math
from typing import Annotated, Final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pathology.settings import Record

__all__ = ["AugmentationSettings", "augment", "jitter_stain", "window_side"]

_RGB_FROM_HED: Final = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density per channel of haematoxylin, eosin and DAB (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291),
as scikit-image's ``rgb_from_hed`` has it."""


class AugmentationSettings(Record):
    """Augmentation strength.  Every range is symmetric about no change."""

    resampled: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of patches that are rotated by any angle and scaled.  The others are only flipped and rotated by
    multiples of 90°, without interpolation, because interpolation blurs and patches to be scored are sharp."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Maximum relative change of scale: scanners and metadata differ by a few per cent."""
    stain: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Maximum relative change of each stain intensity."""
    stain_shift: Annotated[float, Field(ge=0)] = 0.05
    """Maximum additive shift of each stain, in optical density (natural logarithm)."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Maximum relative change of contrast."""
    brightness: Annotated[float, Field(ge=0)] = 0.08
    """Maximum change of brightness, for values 0 to 1."""


def window_side(patch: int, settings: AugmentationSettings) -> int:
    """Return the side in pixels of the window a patch is cut from, large enough for any angle and scale."""
    return math.ceil(patch * math.sqrt(2) * (1 + settings.scale))


def augment(windows: Tensor, patch: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Cut an augmented patch from the centre of each window.

    Parameters
    ----------
    windows
        ``(B, 3, S, S)`` uint8 RGB, ``S`` at least ``patch``; with ``S`` below :func:`window_side` the corners of some
        patches are reflected tissue.
    patch
        Side of a patch in pixels.
    settings
        Augmentation strength.
    generator
        CPU generator; advanced by the same amount on every device.

    Returns
    -------
    torch.Tensor
        ``(B, 3, patch, patch)`` float32 RGB, 0 to 1, on the windows' device.
    """
    count = len(windows)

    def symmetric(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * 2 - 1

    quarter = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    mirror = torch.randint(2, (count,), generator=generator) * 2.0 - 1
    free = (torch.rand(count, generator=generator) < settings.resampled).float()
    angle = quarter + free * symmetric() * (math.pi / 4)
    scale = 1 + free * symmetric() * settings.scale
    amount = 1 + symmetric(3) * settings.stain
    shift = symmetric(3) * settings.stain_shift
    contrast = 1 + symmetric() * settings.contrast
    brightness = symmetric() * settings.brightness

    device = windows.device
    pixels = _turn(windows.float() / 255, patch, angle.to(device), scale.to(device), mirror.to(device))
    pixels = jitter_stain(pixels, amount.to(device), shift.to(device))
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = (pixels - mean) * contrast.to(device).view(-1, 1, 1, 1) + mean + brightness.to(device).view(-1, 1, 1, 1)
    return pixels.clamp(0, 1)


def _turn(windows: Tensor, patch: int, angle: Tensor, scale: Tensor, mirror: Tensor) -> Tensor:
    side = windows.shape[-1]
    if (side - patch) % 2:
        # An odd margin would shift the patch by half a pixel, and blur even 90° rotations.
        windows = windows[..., :-1, :-1]
        side -= 1
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    ratio = patch / side
    zero = torch.zeros_like(angle)
    matrix = torch.stack(
        [
            torch.stack([mirror * cosine, -sine, zero], dim=1),
            torch.stack([mirror * sine, cosine, zero], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix * ratio, [len(windows), 3, patch, patch], align_corners=False)
    return functional.grid_sample(windows, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def jitter_stain(pixels: Tensor, amount: Tensor, shift: Tensor) -> Tensor:
    """Vary the intensity of each stain.

    Colours are separated into haematoxylin, eosin and a residual in optical density (Ruifrok & Johnston 2001), each
    is scaled and shifted, and the colours are recombined; after Tellez et al. 2019 (Medical Image
    Analysis 58:101544).

    Parameters
    ----------
    pixels
        ``(B, 3, H, W)`` float RGB, 0 to 1.
    amount, shift
        ``(B, 3)``: factor and offset for each stain; 1 and 0 leave it unchanged.

    Returns
    -------
    torch.Tensor
        ``(B, 3, H, W)`` float RGB; values may slightly exceed 0 to 1.
    """
    matrix = torch.tensor(_RGB_FROM_HED, dtype=pixels.dtype, device=pixels.device)
    density = -torch.log(pixels.clamp_min(1 / 255))
    stains = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(matrix))
    stains = stains * amount[:, :, None, None] + shift[:, :, None, None]
    return torch.exp(-torch.einsum("bshw,sc->bchw", stains, matrix))

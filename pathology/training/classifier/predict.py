"""Run a network on the patches of labelled slides, slide by slide."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pathology.inference.engines.torch import has_bf16
from pathology.training.classifier.patches import SlidePatches
from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["SlideLogits", "automatic_precision", "normalised", "predict_slides"]


@dataclass(frozen=True)
class SlideLogits:
    """Patch logits of a slide.

    Attributes
    ----------
    patches
        ``(n,)`` patch indices in the slide's store, ascending.
    logits
        ``(n, C)`` float32.
    """

    patches: NDArray[np.int64]
    logits: NDArray[np.float32]

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """Return the softmax of the logits divided by a temperature, ``(n, C)``."""
        scaled = self.logits.astype(np.float64) / temperature
        raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def automatic_precision(device: torch.device) -> torch.dtype | None:
    """Return the fast low precision of a device, or ``None``: bf16 if the hardware supports it, otherwise fp16 on
    CUDA and fp32 on the CPU.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if has_bf16() else None


def mixed(device: torch.device, low: torch.dtype | None) -> AbstractContextManager[object]:
    """Return torch's autocast to a low precision; a null context for ``None``."""
    return nullcontext() if low is None else torch.autocast(device.type, low)


def normalised(patches: Tensor, recipe: SlideRecipe, device: torch.device) -> Tensor:
    """Convert ``(B, P, P, 3)`` uint8 patches to normalised ``(B, 3, P, P)`` float32 on the device."""
    mean = torch.tensor(recipe.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(recipe.std, device=device).view(1, 3, 1, 1)
    # A permuted NHWC tensor is NCHW in channels-last memory: no copy.
    return (patches.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255 - mean) / std


def predict_slides(
    network: nn.Module,
    patches: SlidePatches,
    rows: NDArray[np.int64],
    recipe: SlideRecipe,
    *,
    device: torch.device,
    loaders: int = 0,
    low: torch.dtype | None = None,
) -> list[SlideLogits]:
    """Run a network on the selected patches of the given slides.

    Parameters
    ----------
    network
        Returns ``(B, C)`` logits or features; set to evaluation mode.
    patches
        Patches of all slides.
    rows
        Slide rows.
    recipe
        Recipe, for normalisation and batch size.
    device
        Compute device.
    loaders
        Number of data loader processes.
    low
        Autocast precision; ``None``: fp32.

    Returns
    -------
    list of SlideLogits
        In the order of ``rows``.
    """
    network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    loader = DataLoader(
        patches.shuffled(rows, seed=0, shuffle=False),
        batch_size=4 * recipe.batch,
        num_workers=loaders,
        pin_memory=device.type == "cuda",
    )
    found: list[NDArray[np.float32]] = []
    with torch.inference_mode(), mixed(device, low):
        for pixels, (stores, places) in loader:
            answers = network(normalised(pixels, recipe, device)).float().cpu().numpy()
            if not found:
                found = [np.full((len(patches.keep[row]), answers.shape[1]), np.nan, np.float32) for row in rows]
            for store, place, answer in zip(stores.tolist(), places.tolist(), answers, strict=True):
                found[store][place] = answer
    result = []
    for values in found:
        known = np.flatnonzero(~np.isnan(values).any(axis=1))
        result.append(SlideLogits(known, values[known]))
    return result

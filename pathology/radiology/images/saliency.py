"""Saliency figures: Grad-CAM maps over the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_attention"]


def draw_attention(images: NDArray[np.float32], maps: NDArray[np.float32], *, title: str = "") -> Figure:
    """Draw Grad-CAM maps over up to nine images; for blocks, over evenly spaced slices.

    All images share one colour scale, so that an image with little influence on the prediction looks pale.

    Parameters
    ----------
    images
        ``(N, H, W)`` slices or ``(N, D, H, W)`` blocks.
    maps
        Maps of the same shape, non-negative.
    title
        Figure title.

    Raises
    ------
    UsageError
        If the shapes differ.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    if images.shape != maps.shape or images.ndim not in (3, 4):
        raise UsageError(f"maps of shape {maps.shape} do not fit images of shape {images.shape}")
    if images.ndim == 4:
        depth = images.shape[1]
        chosen = np.unique(np.linspace(0.15 * depth, 0.85 * depth - 1, 9).round().astype(int))
        images, maps = images[0, chosen], maps[0, chosen]
    images, maps = images[:9], maps[:9]
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.9, 2.6 * rows + 0.8), layout="constrained", facecolor="white")
    low, high = float(images.min()), float(images.max())
    scale = Normalize(0.0, max(float(maps.max()), 1e-12))
    shown = []
    for number, (image, where) in enumerate(zip(images, maps, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        # Where the map is zero the image stays as it is.
        axes.imshow(where, cmap="inferno", norm=scale, alpha=0.6 * scale(where).filled(0), interpolation="nearest")
        axes.axis("off")
        shown.append(axes)
    colours = ScalarMappable(scale, "inferno")
    figure.colorbar(colours, ax=shown, shrink=0.7, label="contribution to the class logit (Grad-CAM)")
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("shows where the network looked, not whether it is right; research use only", fontsize=8)
    return figure

"""Grad-CAM: image regions that drive the prediction of a classifier.

Selvaraju et al. 2017 (ICCV, arXiv 1610.02391): each channel of a feature map is weighted by the spatial mean of the
logit gradient, and the positive part of the weighted sum is kept.  The map is coarse; it shows where a network
looks, not whether it is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pathology.errors import UsageError

__all__ = ["grad_cam"]


def grad_cam(
    network: nn.Module, layer: nn.Module, images: Tensor, classes: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Compute Grad-CAM maps for a batch.

    Parameters
    ----------
    network
        A classifier that returns ``(B, classes)`` logits; run in evaluation mode, its own mode is restored.
    layer
        Module whose output is the feature map: the last one with spatial dimensions, before any activation that
        follows it.
    images
        ``(B, C, H, W)`` or ``(B, C, D, H, W)``, preprocessed for the network.
    classes
        Class to explain per image; ``None``: the predicted class.

    Returns
    -------
    numpy.ndarray
        ``(B, H, W)`` or ``(B, D, H, W)``, non-negative, in logit units, interpolated linearly to the image grid.

    Raises
    ------
    UsageError
        If the layer is not part of the forward pass or has no spatial dimensions.

    Examples
    --------
    >>> import torch
    >>> from pathology.networks import build_network
    >>> network = build_network("densenet121", 2).eval()
    >>> layer = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    >>> grad_cam(network, layer, torch.zeros(1, 3, 64, 64)).shape
    (1, 64, 64)
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:  # noqa: ANN401  # torch's hook
        seen.append(output)
        # Pass on a copy: an in-place activation would modify the stored map.
        return output.clone()

    training = network.training
    network.eval()
    hook = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            # A frozen network still has gradients if its input requires them.
            logits = network(images.detach().requires_grad_())
        if not seen or seen[-1].ndim != images.ndim:
            raise UsageError("the layer has no spatial feature map", remedy="Choose the output of a convolution")
        chosen = logits.argmax(dim=1) if classes is None else torch.as_tensor(list(classes), device=logits.device)
        wanted = logits.gather(1, chosen[:, None]).sum()
        (gradient,) = torch.autograd.grad(wanted, seen[-1])
    finally:
        hook.remove()
        network.train(training)
    grid = tuple(range(2, images.ndim))
    weight = gradient.mean(dim=grid, keepdim=True)
    maps = torch.relu((weight * seen[-1].detach()).sum(dim=1, keepdim=True))
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    full = nn.functional.interpolate(maps, size=images.shape[2:], mode=mode, align_corners=False)
    return np.asarray(full[:, 0].cpu().numpy(), np.float32)

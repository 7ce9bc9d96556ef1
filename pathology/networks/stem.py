"""What a classifier sees first: stain, edges and grain, before it has learnt to forget what does not matter to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, Inception3

__all__ = ["StemFeatures"]


class StemFeatures(nn.Module):
    """Mean and standard deviation of each channel of a network's first layers.

    A classifier's last features tell its classes apart and little else ("neural collapse", Papyan, Han and Donoho 2020,
    PNAS): what is foreign in another way lies among them.  The first layers keep it.

    Parameters
    ----------
    network
        DenseNet121, alone or as the body of Foersch et al., up to its first pooling; or InceptionV3, likewise.  Shares
        its weights.

    Raises
    ------
    TypeError
        If it is another network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if isinstance(network, Inception3):
            self.layers = nn.Sequential(
                network.Conv2d_1a_3x3, network.Conv2d_2a_3x3, network.Conv2d_2b_3x3, network.maxpool1
            )
        else:
            parts = network.features if isinstance(network, DenseNet) else dict(network.named_modules()).get("0.0")
            if not isinstance(parts, nn.Sequential) or "pool0" not in dict(parts.named_children()):
                raise TypeError(f"{type(network).__name__} has no stem that is known")
            named = dict(parts.named_children())
            self.layers = nn.Sequential(*(named[name] for name in ("conv0", "norm0", "relu0", "pool0")))
        self.channels = 64
        """Channels of the last of these layers; there are twice as many features."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn normalised ``(B, 3, H, W)`` into ``(B, 128)``: means, then standard deviations."""
        maps = self.layers(pixels).float().flatten(2)
        mean = maps.mean(dim=2)
        spread = (maps - mean[:, :, None]).square().mean(dim=2).sqrt()
        return torch.cat([mean, spread], dim=1)

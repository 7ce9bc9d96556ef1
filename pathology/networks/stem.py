"""What a classifier sees first: stain, edges and grain, before it has learnt to forget what does not matter to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, Inception3

__all__ = ["StemFeatures", "split_stem"]


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
        parent, names = _place(network)
        self.layers = nn.Sequential(*(parent.get_submodule(name) for name in names))
        self.channels = 64
        """Channels of the last of these layers; there are twice as many features."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn normalised ``(B, 3, H, W)`` into ``(B, 128)``: means, then standard deviations."""
        return self.describe(self.layers(pixels))

    @staticmethod
    def describe(maps: Tensor) -> Tensor:
        """Turn the ``(B, 64, h, w)`` that the layers give into ``(B, 128)``: means, then standard deviations."""
        maps = maps.float()
        mean = maps.mean(dim=(2, 3), keepdim=True)
        spread = (maps - mean).square().mean(dim=(2, 3)).sqrt()
        return torch.cat([mean[:, :, 0, 0], spread], dim=1)


def split_stem(network: nn.Module) -> tuple[StemFeatures, nn.Module]:
    """Take the first layers off a network, so that they are computed once for features and answer.

    Parameters
    ----------
    network
        As for :class:`StemFeatures`.  It is changed: in the layers' place it now passes on what it is given, so that in
        evaluation mode ``network(stem.layers(x))`` is what ``network(x)`` was.

    Returns
    -------
    tuple
        The stem with the layers, and the network without them.

    Raises
    ------
    TypeError
        If the network has no stem that is known.
    """
    stem = StemFeatures(network)
    if getattr(network, "transform_input", False):
        raise TypeError("an InceptionV3 that changes its input itself has no stem that could be taken off")
    parent, names = _place(network)
    for name in names:
        setattr(parent, name, nn.Identity())
    return stem, network


def _place(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the module that holds the first layers, and their names."""
    if isinstance(network, Inception3):
        return network, ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1")
    parts = network.features if isinstance(network, DenseNet) else dict(network.named_modules()).get("0.0")
    if not isinstance(parts, nn.Sequential) or "pool0" not in dict(parts.named_children()):
        raise TypeError(f"{type(network).__name__} has no stem that is known")
    return parts, ("conv0", "norm0", "relu0", "pool0")

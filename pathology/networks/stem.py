"""Features of a network's first layers: stain, edges and texture, including what later layers discard."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, Inception3

from pathology.networks.darknet import Darknet

__all__ = ["StemFeatures", "describe_cells", "split_stem"]


class StemFeatures(nn.Module):
    """Mean and standard deviation of each channel of a network's first layers.

    A classifier's last features separate its classes and keep little else ("neural collapse", Papyan, Han and Donoho
    2020, PNAS), so out-of-distribution inputs can fall among them.  The first layers keep the difference.

    Parameters
    ----------
    network
        DenseNet121, alone or as the body of Foersch et al., up to its first pooling; InceptionV3, likewise; or a
        detector in Darknet's format, up to its first layer that halves the resolution.  Weights are shared.

    Raises
    ------
    TypeError
        If the network is not supported.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if isinstance(network, Darknet):
            self.layers = network.stem
        else:
            parent, names = _place(network)
            self.layers = nn.Sequential(*(parent.get_submodule(name) for name in names))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised ``(B, 3, H, W)`` to ``(B, 2 C)`` for C channels: means, then standard deviations."""
        return self.describe(self.layers(pixels))

    @staticmethod
    def describe(maps: Tensor) -> Tensor:
        """Map the layers' output ``(B, C, h, w)`` to ``(B, 2 C)``: means, then standard deviations."""
        maps = maps.float()
        mean = maps.mean(dim=(2, 3), keepdim=True)
        spread = (maps - mean).square().mean(dim=(2, 3)).sqrt()
        return torch.cat([mean[:, :, 0, 0], spread], dim=1)


def describe_cells(maps: Tensor, cells: int) -> Tensor:
    """Describe the squares of a patch one by one, as :meth:`StemFeatures.describe` does a whole patch.

    Parameters
    ----------
    maps
        ``(B, C, h, w)`` output of the first layers; h and w multiples of ``cells``.
    cells
        Squares along each side.

    Returns
    -------
    Tensor
        ``(B, cells * cells, 2 C)``, by row and column.
    """
    batch, channels, height, width = maps.shape
    parts = maps.reshape(batch, channels, cells, height // cells, cells, width // cells)
    parts = parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return StemFeatures.describe(parts).reshape(batch, cells * cells, 2 * channels)


def split_stem(network: nn.Module) -> tuple[StemFeatures, nn.Module]:
    """Split off a network's first layers, so that features and prediction share their computation.

    Parameters
    ----------
    network
        As for :class:`StemFeatures`.  Modified in place: the layers become identities, so that in evaluation mode
        ``network(stem.layers(x))`` equals the original ``network(x)``.

    Returns
    -------
    tuple
        The stem with the layers, and the network without them.

    Raises
    ------
    TypeError
        If the network is not supported.
    """
    stem = StemFeatures(network)
    if getattr(network, "transform_input", False):
        raise TypeError("an InceptionV3 that transforms its input has no separable stem")
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
        raise TypeError(f"{type(network).__name__} has no known stem")
    return parts, ("conv0", "norm0", "relu0", "pool0")

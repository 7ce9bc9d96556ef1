"""U-Nets for volumes, from MONAI's building blocks.  The only module that imports MONAI.

Three shapes of input are in use: single slices (2D), a slice with its neighbours as channels (2.5D, Marin et al.
2022) and blocks (3D, Holbrook et al. 2020).  Widths and depths are not given in the accessible publications, so they
are arguments with defaults of our own.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.unet import UNet
from torch import nn

__all__ = ["attention_unet", "unet"]


def unet(
    classes: int = 1,
    channels: int = 1,
    *,
    dimensions: int = 3,
    widths: Sequence[int] = (16, 32, 64, 128),
    strides: Sequence[int | Sequence[int]] = (2, 2, 2),
    residual_units: int = 2,
) -> nn.Module:
    """Build a U-Net (Ronneberger 2015, Çiçek 2016) with residual units and instance normalisation.

    Parameters
    ----------
    classes
        Output channels; 1 for one structure against the rest.
    channels
        Input channels: sequences, times neighbouring slices in 2.5D.
    dimensions
        2 or 3.
    widths
        Feature channels by level, from the finest.
    strides
        Step between levels, one fewer than ``widths``; in 3D a step may be given per axis, so that thick slices are
        not downsampled first.
    residual_units
        Convolutions in the residual unit of each level.

    Returns
    -------
    torch.nn.Module
        ``(B, channels, [D,] H, W)`` to ``(B, classes, [D,] H, W)`` logits; sizes divisible by the product of the
        strides.
    """
    network: nn.Module = UNet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        channels=tuple(widths),
        # MONAI also accepts a step per axis, though it is annotated as int.
        strides=tuple(s if isinstance(s, int) else tuple(s) for s in strides),  # type: ignore[misc]
        num_res_units=residual_units,
        norm="INSTANCE",
    )
    return network


def attention_unet(
    classes: int = 1,
    channels: int = 3,
    *,
    dimensions: int = 2,
    widths: Sequence[int] = (16, 32, 64, 128),
    strides: Sequence[int] = (2, 2, 2),
) -> nn.Module:
    """Build a U-Net with attention gates on its skip connections (Oktay et al. 2018, arXiv 1804.03999).

    Parameters and shapes are those of :func:`unet`.  It stands in for the "self-taught attention" of Marin et al.
    2022, whose exact form is not public.
    """
    network: nn.Module = AttentionUnet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        channels=tuple(widths),
        strides=tuple(strides),
    )
    return network

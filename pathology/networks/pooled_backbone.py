"""torchvision backbones with mean pooling of the last feature map and one fully connected layer, as in TIAToolbox.

The patch classifiers of TIAToolbox's zoo (``CNNModel`` of ``tiatoolbox.models.architecture.vanilla``, version 2.1) are
torchvision's networks cut after their last feature map.  This differs from torchvision's own head: AlexNet and the
MobileNets lose their hidden fully connected layers, and a DenseNet's map is pooled *without* the ReLU that torchvision
applies to it.  Weights trained with one head are wrong for the other.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torchvision import models

__all__ = ["BACKBONES", "PooledBackbone", "pooled_backbone"]

BACKBONES: Final[dict[str, int]] = {
    "alexnet": 256,
    "densenet121": 1024,
    "densenet161": 2208,
    "densenet169": 1664,
    "densenet201": 1920,
    "googlenet": 1024,
    "mobilenet_v2": 1280,
    "mobilenet_v3_large": 960,
    "mobilenet_v3_small": 576,
    "resnet101": 2048,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnext101_32x8d": 2048,
    "resnext50_32x4d": 2048,
    "wide_resnet101_2": 2048,
    "wide_resnet50_2": 2048,
}
"""Channels of the last feature map, by torchvision's name for the network."""


class PooledBackbone(nn.Module):
    """A feature extractor, mean pooling, and a fully connected layer.

    Parameters
    ----------
    backbone
        One of :data:`BACKBONES`.
    classes
        Number of outputs ``C``.
    """

    def __init__(self, backbone: str, classes: int) -> None:
        super().__init__()
        self.feat_extract = _feature_map(backbone)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(BACKBONES[backbone], classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalised ``(B, 3, H, W)`` to ``(B, C)`` logits; TIAToolbox's network also applies the softmax."""
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.feat_extract(pixels)), 1))
        return logits


def pooled_backbone(classes: int, backbone: str) -> PooledBackbone:
    """Build a patch classifier as in TIAToolbox; names in its state dict are TIAToolbox's.

    Parameters
    ----------
    classes
        Number of outputs ``C``.
    backbone
        One of :data:`BACKBONES`.

    Returns
    -------
    PooledBackbone
        ``(B, 3, H, W)`` float to ``(B, C)`` logits, ``H`` and ``W`` >= 64.  Learnable parameters at 2 classes, for
        example: AlexNet 2,470,210, ResNet-18 11,177,538, DenseNet121 6,955,906, GoogLeNet 5,601,954.

    Raises
    ------
    ValueError
        If the backbone is unknown.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}; choose from {', '.join(BACKBONES)}")
    return PooledBackbone(backbone, classes)


def _feature_map(backbone: str) -> nn.Module:
    if backbone == "googlenet":
        network: nn.Module = models.googlenet(weights=None, aux_logits=False, init_weights=False)
        head = 3  # pooling, dropout, fully connected
    else:
        network = getattr(models, backbone)(weights=None)
        head = 2  # pooling, fully connected
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        return features
    # For GoogLeNet and the ResNets, the children in order are the forward pass up to the head.
    return nn.Sequential(*list(network.children())[:-head])

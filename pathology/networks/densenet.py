"""DenseNet121, plain and with the head of Foersch et al. 2021.

The body is torchvision's implementation of Huang et al. 2017 (CVPR, "Densely connected convolutional networks"),
so its published weights match by name.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet
from torchvision.models import densenet121 as torchvision_densenet121

__all__ = ["AdaptiveConcatPool", "densenet121", "densenet121_foersch"]

FEATURES: Final = 1024
"""Channels after the last dense block of DenseNet121."""


def densenet121(classes: int) -> DenseNet:
    """Build DenseNet121 as published: 6,953,856 parameters in the body, 1,025 per class in the classifier.

    Parameters
    ----------
    classes
        Number of outputs ``C``.

    Returns
    -------
    torchvision.models.DenseNet
        ``(B, 3, H, W)`` float to ``(B, C)`` logits, ``H`` and ``W`` >= 32.  Names in the state dict are
        torchvision's.
    """
    return torchvision_densenet121(weights=None, num_classes=classes)


class AdaptiveConcatPool(nn.Module):
    """Concatenated global max and mean pooling, max first, as in fastai 1."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool ``(B, F, H, W)`` to ``(B, 2F, 1, 1)``."""
        return torch.cat([features.amax(dim=(2, 3), keepdim=True), features.mean(dim=(2, 3), keepdim=True)], dim=1)


def densenet121_foersch(classes: int) -> nn.Sequential:
    """Build the network of Foersch et al. 2021 (Annals of Oncology 32:1178): 8,010,629 parameters at 5 classes.

    The model that fastai 1.0.57 builds with ``cnn_learner(densenet121)``: DenseNet121 cut after its last batch
    normalisation, *without* the ReLU that torchvision applies there, then max and mean pooling and a head of two fully
    connected layers.

    Parameters
    ----------
    classes
        Number of outputs ``C``; the publication has 5.

    Returns
    -------
    torch.nn.Sequential
        ``(B, 3, H, W)`` float to ``(B, C)`` logits.  Element 0 is the body, element 1 the head, indexed as in fastai,
        so a converted fastai state dict matches by name.  In training mode a batch needs at least two patches, because
        of the batch normalisation in the head.
    """
    body = nn.Sequential(torchvision_densenet121(weights=None, num_classes=1).features)
    head = nn.Sequential(
        AdaptiveConcatPool(),
        nn.Flatten(),
        nn.BatchNorm1d(2 * FEATURES),
        nn.Dropout(0.25),
        nn.Linear(2 * FEATURES, 512),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(512),
        nn.Dropout(0.5),
        nn.Linear(512, classes),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(body, head)

"""A 3D network with one stream for PET, one for CT, and fusion at every depth.

The architecture of Peng et al. 2019 is not public; its successor (arXiv 2104.11416) describes 3D streams with
hierarchical fusion.  This network keeps that idea, with widths of our own: at every depth the two streams' features
and the fused features of the previous depth are concatenated, so that both shallow (intensity) and deep (shape)
relations between uptake and density can be learnt; the classifier sees the pooled fusion of every depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["TwoStreamNetwork", "two_stream_petct"]


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, width, 3, padding=1, bias=False),
        nn.InstanceNorm3d(width, affine=True),
        nn.LeakyReLU(0.1),
        nn.Conv3d(width, width, 3, padding=1, bias=False),
        nn.InstanceNorm3d(width, affine=True),
        nn.LeakyReLU(0.1),
    )


class TwoStreamNetwork(nn.Module):
    """Two streams, fused at every depth.

    Parameters
    ----------
    classes
        Number of outputs.
    widths
        Feature channels by depth; the resolution is halved after each.
    dropout
        Dropout rate before the classifier.
    """

    def __init__(self, classes: int, widths: Sequence[int] = (16, 32, 64), dropout: float = 0.25) -> None:
        super().__init__()
        before = [1, *widths[:-1]]
        fused_before = [0, *widths[:-1]]
        self.pet = nn.ModuleList(_block(b, w) for b, w in zip(before, widths, strict=True))
        self.ct = nn.ModuleList(_block(b, w) for b, w in zip(before, widths, strict=True))
        self.fusion = nn.ModuleList(
            nn.Sequential(nn.Conv3d(2 * w + f, w, 1, bias=False), nn.InstanceNorm3d(w, affine=True), nn.LeakyReLU(0.1))
            for w, f in zip(widths, fused_before, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.dropout = nn.Dropout(dropout)
        # Mean and max: instance normalisation fixes the mean before the activation, so the mean alone says little.
        self.classifier = nn.Linear(2 * sum(widths), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify ``(B, 2, D, H, W)`` with PET first and CT second; ``(B, classes)`` logits.

        ``D``, ``H`` and ``W`` must be at least ``2 ** (depths - 1)`` times 2.
        """
        pet, ct = images[:, :1], images[:, 1:2]
        fused: Tensor | None = None
        pooled: list[Tensor] = []
        for depth, (pet_block, ct_block, fusion) in enumerate(zip(self.pet, self.ct, self.fusion, strict=True)):
            if depth:
                pet, ct = self.pool(pet), self.pool(ct)
            pet, ct = pet_block(pet), ct_block(ct)
            joined = [pet, ct] if fused is None else [pet, ct, self.pool(fused)]
            fused = fusion(torch.cat(joined, dim=1))
            pooled += [fused.mean(dim=(2, 3, 4)), fused.amax(dim=(2, 3, 4))]
        logits: Tensor = self.classifier(self.dropout(torch.cat(pooled, dim=1)))
        return logits


def two_stream_petct(classes: int, widths: Sequence[int] = (16, 32, 64), dropout: float = 0.25) -> TwoStreamNetwork:
    """Build :class:`TwoStreamNetwork`; 444,290 parameters at 2 classes and the default widths."""
    return TwoStreamNetwork(classes, widths, dropout)

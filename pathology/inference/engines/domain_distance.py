"""The out-of-distribution score as a layer of an engine's network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathology.stats.out_of_distribution import FeatureDomain

__all__ = ["DomainDistance"]


class DomainDistance(nn.Module):
    """The out-of-distribution score of :class:`pathology.stats.out_of_distribution.FeatureDomain` as a layer."""

    whitening: Tensor
    middle: Tensor
    offsets: Tensor

    def __init__(self, domain: FeatureDomain) -> None:
        super().__init__()
        self.register_buffer("whitening", torch.from_numpy(domain.whitening))
        # Far from 0, the difference of two whitened values would lose digits in low precision.
        middle = np.linalg.solve(domain.whitening.T.astype(np.float64), domain.centres.mean(axis=0).astype(np.float64))
        self.register_buffer("middle", torch.from_numpy(middle.astype(np.float32)))
        self.register_buffer("offsets", torch.from_numpy(domain.centres - domain.centres.mean(axis=0)))

    def forward(self, features: Tensor) -> Tensor:
        """Turn ``(B, F)`` features into ``(B, 1)`` scores."""
        white = ((features - self.middle) @ self.whitening).float()
        squared = (white[:, None, :] - self.offsets[None]).square().mean(dim=2)
        return squared.amin(dim=1, keepdim=True)

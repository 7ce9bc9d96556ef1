"""How much of each patch is spoilt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology.settings import QualitySettings
from pathology.slide.tissue.quality import ARTEFACTS, SlideQuality
from pathology.tiling.grid import TissueShare

__all__ = ["QualityShares", "spoilt"]


class QualityShares:
    """Share of any square that each artefact covers, in constant time.

    Parameters
    ----------
    quality
        What was found on the slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    """

    def __init__(self, quality: SlideQuality, dimensions: tuple[int, int]) -> None:
        self._shares = {name: TissueShare(mask, dimensions) for name, mask in quality.masks.items()}

    def __call__(self, corners: NDArray[np.int32], extent: float) -> dict[str, NDArray[np.float32]]:
        """Return the shares of squares.

        Parameters
        ----------
        corners
            ``(N, 2)`` level-0 ``(x, y)`` top left corners.
        extent
            Side of the squares in level-0 pixels.

        Returns
        -------
        dict
            ``(N,)`` float32 in 0 to 1 for each of :data:`pathology.slide.tissue.quality.ARTEFACTS`; what hangs over the
            slide's edge counts as unspoilt.
        """
        return {name: share(corners, extent) for name, share in self._shares.items()}


def spoilt(shares: dict[str, NDArray[np.float32]], settings: QualitySettings) -> NDArray[np.bool_]:
    """Return ``(N,)`` bool: patches of which any artefact covers more than its limit."""
    limits = {name: getattr(settings, f"max_{name}") for name in ARTEFACTS}
    over = np.stack([shares[name] > limits[name] for name in ARTEFACTS])
    return np.asarray(over.any(axis=0))

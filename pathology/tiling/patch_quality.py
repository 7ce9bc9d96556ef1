"""Artefact coverage of patches, and which patches are excluded because of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology.settings import QualitySettings
from pathology.slide.tissue.quality import ARTEFACTS, SlideQuality
from pathology.tiling.grid import TissueShare

__all__ = ["PatchQuality"]


class PatchQuality:
    """Fraction of any square covered by each artefact, in constant time.

    Parameters
    ----------
    quality
        Artefacts of the slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    settings
        Largest fractions allowed.
    """

    def __init__(self, quality: SlideQuality, dimensions: tuple[int, int], settings: QualitySettings) -> None:
        self._limits = np.array([getattr(settings, f"max_{name}") for name in ARTEFACTS], np.float32)
        masks = quality.masks
        # Most slides have few kinds of artefact; only those need a table.
        self._shares = [TissueShare(masks[name], dimensions) if masks[name].any() else None for name in ARTEFACTS]

    def shares(self, corners: NDArray[np.int32], extent: float) -> NDArray[np.float32]:
        """Return the artefact fractions of squares.

        Parameters
        ----------
        corners
            ``(N, 2)`` level-0 ``(x, y)`` top left corners.
        extent
            Side of the squares in level-0 pixels.

        Returns
        -------
        numpy.ndarray
            ``(N, 5)`` float32 in 0 to 1, in the order of :data:`pathology.slide.tissue.quality.ARTEFACTS`.
        """
        result = np.zeros((len(corners), len(ARTEFACTS)), np.float32)
        for column, share in enumerate(self._shares):
            if share is not None:
                result[:, column] = share(corners, extent)
        return result

    def over(self, shares: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which of ``(N, 5)`` fractions exceed their limits."""
        above: NDArray[np.bool_] = shares > self._limits
        return above

"""Fuse two registered sequences into a three-channel image (Banerjee et al. 2018: DWI and contrast-enhanced T1).

The published fusion method is not described in the accessible text.  Here both sequences are kept as channels and their
weighted mean is the third, so that networks for colour images can be used, nothing is lost, and the fusion is
reversible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError

__all__ = ["fuse"]


def fuse(first: NDArray[np.float32], second: NDArray[np.float32], weight: float = 0.5) -> NDArray[np.float32]:
    """Fuse two images of equal shape.

    Parameters
    ----------
    first, second
        ``(...)``, registered and normalised.
    weight
        Share of the first in the third channel.

    Returns
    -------
    numpy.ndarray
        ``(3, ...)``: first, second, ``weight x first + (1 - weight) x second``.

    Raises
    ------
    UsageError
        If the shapes differ or the weight is not between 0 and 1.
    """
    if first.shape != second.shape:
        raise UsageError(
            f"images of shape {first.shape} and {second.shape} cannot be fused", remedy="Register them first"
        )
    if not 0 <= weight <= 1:
        raise UsageError(f"weight: expected 0 to 1, got {weight}")
    return np.stack([first, second, weight * first + (1 - weight) * second]).astype(np.float32)

"""Fast arithmetic without wrong calls: patches near a tie, or out of range, are computed again in fp32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology.inference.engines.base import Engine
from pathology.inference.engines.recheck import SecondLook

__all__ = ["MARGIN", "NearTies", "near_ties"]

MARGIN = 0.06
"""Patches whose two leading probabilities are closer than this are computed again.  Chosen by measurement; see
``docs/performance.md``.  A call can then only differ from fp32 where rounding moved two probabilities towards
each other by more than this."""


class NearTies(SecondLook):
    """A classifier in low precision whose patches near a tie are computed again in full precision.

    Parameters
    ----------
    fast, exact
        See :class:`SecondLook`.
    margin
        Difference of the two leading probabilities below which a patch is a near tie.
    """

    corrected = "near ties"

    def __init__(self, fast: Engine, exact: Engine, margin: float = MARGIN) -> None:
        super().__init__(fast, exact)
        self._margin = margin

    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        return near_ties(results[:, : self.classes - self.extras], self._margin)


def near_ties(probabilities: NDArray[np.float32], margin: float) -> NDArray[np.intp]:
    """Return the rows of ``(N, C)`` probabilities whose two leading ones are closer than a margin, or are NaN."""
    if probabilities.shape[1] < 2 or not len(probabilities):
        return np.empty(0, np.intp)
    leading = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.flatnonzero(~(leading[:, 1] - leading[:, 0] >= margin))

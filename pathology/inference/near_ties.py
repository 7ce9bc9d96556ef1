"""Fast arithmetic without wrong calls: patches near a tie, or out of range, are computed again in fp32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology.inference.engine import Engine

__all__ = ["MARGIN", "NearTies"]

MARGIN = 0.06
"""Patches whose two leading probabilities are closer than this are computed again.  Chosen by measurement; see
``docs/performance.md``.  A call can then only differ from fp32 where rounding moved two probabilities towards
each other by more than this."""


class NearTies(Engine):
    """An engine of low precision, corrected by one of full precision where it could err.

    Parameters
    ----------
    fast
        Computes every patch.
    exact
        Computes near ties again; same model.
    margin
        Difference of the two leading probabilities below which a patch is a near tie.

    Attributes
    ----------
    fast : Engine
        The engine of low precision alone.
    rescored : int
        Patches computed twice so far.
    seen : int
        Patches computed so far.
    """

    def __init__(self, fast: Engine, exact: Engine, margin: float = MARGIN) -> None:
        self.fast = fast
        self._exact = exact
        self._margin = margin
        self.name = fast.name  # type: ignore[misc]
        self.device = fast.device
        self.precision = fast.precision
        self.batch_size = fast.batch_size
        self.appetite = fast.appetite
        self.patch = fast.patch
        self.classes = fast.classes
        self.extras = fast.extras
        self.rescored = 0
        self.seen = 0

    @property
    def description(self) -> str:
        """The fast engine's, with the correction said."""
        return f"{self.fast.description}, near ties fp32"

    def predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify patches; see :meth:`Engine.predict`."""
        probabilities = self.fast.predict(patches)
        self.seen += len(probabilities)
        if self.classes - self.extras < 2 or not len(probabilities):
            return probabilities
        leading = np.partition(probabilities[:, : self.classes - self.extras], -2, axis=1)[:, -2:]
        # Also true of NaN: what overflowed the small range of fp16 is computed again too.
        near = np.flatnonzero(~(leading[:, 1] - leading[:, 0] >= self._margin))
        if len(near):
            self.rescored += len(near)
            probabilities[near] = self._exact.predict(patches[near])
        return probabilities

    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.predict(patches)

    def close(self) -> None:
        """Close both."""
        self.fast.close()
        self._exact.close()

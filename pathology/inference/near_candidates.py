"""Fast arithmetic for detectors: low precision looks for candidates, full precision decides about them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.inference.engine import Engine

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["CandidatesExact", "easier"]


def easier(bundle: Bundle) -> Bundle:
    """Return the same detector with a quarter of the smallest score of a candidate.

    What low precision takes away from a score must not hide a candidate: in low precision a patch counts as empty only
    if all its scores are below a quarter of what a candidate needs.
    """
    rules = bundle.card.detection
    assert rules is not None
    lower = rules.model_copy(update={"floor": rules.floor / 4})
    return replace(bundle, card=bundle.card.model_copy(update={"detection": lower}))


class CandidatesExact(Engine):
    """A detector in low precision whose every patch with a candidate is computed again in full precision.

    Most patches of a slide hold no candidate.  A patch's boxes are therefore those of full precision, or none.

    Parameters
    ----------
    fast
        Computes every patch, of the :func:`easier` bundle.
    exact
        Computes patches with candidates again, of the bundle itself.

    Attributes
    ----------
    rescored : int
        Patches computed twice so far.
    seen : int
        Patches computed so far.
    """

    def __init__(self, fast: Engine, exact: Engine) -> None:
        self._fast, self._exact = fast, exact
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
        return f"{self._fast.description}, candidates fp32"

    def predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find boxes; see :meth:`Engine.predict`."""
        looked = self._fast.predict(patches)
        scores = looked.reshape(len(looked), self.classes // 5, 5)[..., 4]
        # Also true of NaN: what overflowed the small range of fp16 is computed again too.
        holding = np.flatnonzero(~(scores.max(axis=1, initial=0.0) <= 0))
        result = np.zeros_like(looked)
        self.seen += len(patches)
        self.rescored += len(holding)
        if len(holding):
            result[holding] = self._exact.predict(patches[holding])
        return result

    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.predict(patches)

    def close(self) -> None:
        """Close both."""
        self._fast.close()
        self._exact.close()

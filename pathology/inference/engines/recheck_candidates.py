"""Fast arithmetic for detectors: low precision looks for candidates, full precision decides about them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.inference.engines.recheck import SecondLook

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


class CandidatesExact(SecondLook):
    """A detector in low precision whose every patch with a candidate is computed again in full precision.

    Most patches of a slide hold no candidate.  A patch's boxes are therefore those of full precision, or none.
    The fast engine is of the :func:`easier` bundle, the exact one of the bundle itself.
    """

    corrected = "candidates"

    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        scores = results.reshape(len(results), self.classes // 5, 5)[..., 4]
        # Also true of NaN.
        return np.flatnonzero(~(scores.max(axis=1, initial=0.0) <= 0))

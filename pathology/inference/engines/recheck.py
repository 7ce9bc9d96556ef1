"""Fast arithmetic without wrong calls: a fast engine computes every patch, an exact one rechecks the doubtful ones.

Of a classifier, patches near a tie are rechecked; of a detector, patches with a candidate.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.inference.engines.base import Engine

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["MARGIN", "RecheckCandidates", "RecheckTies", "RecheckingEngine", "rows_near_tie", "with_lower_floor"]

MARGIN = 0.06
"""Patches whose two leading probabilities are closer than this are computed again.  Chosen by measurement; see
``docs/performance.md``.  A call can then only differ from fp32 where rounding moved two probabilities towards
each other by more than this."""


class RecheckingEngine(Engine):
    """An engine of low precision, corrected by one of full precision where it could err.

    Parameters
    ----------
    fast
        Computes every patch.
    exact
        Computes doubtful patches again; same model.

    Attributes
    ----------
    fast : Engine
        The engine of low precision alone.
    rescored : int
        Patches computed twice so far.
    seen : int
        Patches computed so far.
    """

    corrected: str
    """What is computed again, as the description says it."""

    def __init__(self, fast: Engine, exact: Engine) -> None:
        self.fast = fast
        self._exact = exact
        self.name = fast.name  # type: ignore[misc]
        self.device = fast.device
        self.precision = fast.precision
        self.batch_size = fast.batch_size
        self.preferred_batch = fast.preferred_batch
        self.patch = fast.patch
        self.classes = fast.classes
        self.extras = fast.extras
        self.rescored = 0
        self.seen = 0
        self._counting = Lock()

    @property
    def description(self) -> str:
        """The fast engine's, with the correction said."""
        return f"{self.fast.description}, {self.corrected} fp32"

    @abstractmethod
    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return which of the fast engine's results are to be computed again; those with NaN among them.

        What overflows the small range of fp16 comes as NaN.
        """

    def predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute patches; see :meth:`Engine.predict`."""
        return self.fast.predict_corrected(patches, self._correct)

    def _correct(self, patches: NDArray[np.uint8], results: NDArray[np.float32]) -> None:
        doubtful = self._doubtful(results)
        with self._counting:
            self.seen += len(results)
            self.rescored += len(doubtful)
        if len(doubtful):
            results[doubtful] = self._exact.predict(patches[doubtful])

    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.predict(patches)

    def close(self) -> None:
        """Close both."""
        self.fast.close()
        self._exact.close()


class RecheckTies(RecheckingEngine):
    """A classifier in low precision whose patches near a tie are computed again in full precision.

    Parameters
    ----------
    fast, exact
        See :class:`RecheckingEngine`.
    margin
        Difference of the two leading probabilities below which a patch is a near tie.
    """

    corrected = "near ties"

    def __init__(self, fast: Engine, exact: Engine, margin: float = MARGIN) -> None:
        super().__init__(fast, exact)
        self._margin = margin

    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        return rows_near_tie(results[:, : self.classes - self.extras], self._margin)


def rows_near_tie(probabilities: NDArray[np.float32], margin: float) -> NDArray[np.intp]:
    """Return the rows of ``(N, C)`` probabilities whose two leading ones are closer than a margin, or are NaN."""
    if probabilities.shape[1] < 2 or not len(probabilities):
        return np.empty(0, np.intp)
    leading = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.flatnonzero(~(leading[:, 1] - leading[:, 0] >= margin))


def with_lower_floor(bundle: Bundle) -> Bundle:
    """Return the same detector with a quarter of the smallest score of a candidate.

    What low precision takes away from a score must not hide a candidate: in low precision a patch counts as empty only
    if all its scores are below a quarter of what a candidate needs.
    """
    rules = bundle.card.detection
    assert rules is not None
    lower = rules.model_copy(update={"floor": rules.floor / 4})
    return replace(bundle, card=bundle.card.model_copy(update={"detection": lower}))


class RecheckCandidates(RecheckingEngine):
    """A detector in low precision whose every patch with a candidate is computed again in full precision.

    Most patches of a slide hold no candidate.  A patch's boxes are therefore those of full precision, or none.
    The fast engine is of the :func:`with_lower_floor` bundle, the exact one of the bundle itself.
    """

    corrected = "candidates"

    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        scores = results.reshape(len(results), self.classes // 5, 5)[..., 4]
        # Also true of NaN.
        return np.flatnonzero(~(scores.max(axis=1, initial=0.0) <= 0))

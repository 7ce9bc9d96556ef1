"""Low precision without changed predictions: a fast engine computes every patch, an exact one rechecks doubtful ones.

For a classifier, patches near a tie are rechecked; for a detector, patches with a candidate.
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
"""Patches whose two highest probabilities are closer than this are recomputed.  Chosen by measurement; see
``docs/performance.md``.  The predicted class can then differ from fp32 only where rounding changed the difference of
two probabilities by more than this."""


class RecheckingEngine(Engine):
    """A low-precision engine, corrected by a full-precision one where its result could be wrong.

    Parameters
    ----------
    fast
        Computes every patch.
    exact
        Recomputes doubtful patches with the same model.

    Attributes
    ----------
    fast : Engine
        The low-precision engine alone.
    rescored : int
        Patches recomputed so far.
    seen : int
        Patches computed so far.
    """

    corrected: str
    """What is recomputed, as named in the description."""

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
        """The fast engine's description, with the correction."""
        return f"{self.fast.description}, {self.corrected} fp32"

    @abstractmethod
    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return which of the fast engine's results to recompute, including those with NaN.

        Values that overflow the range of fp16 become NaN.
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
        """Close both engines."""
        self.fast.close()
        self._exact.close()


class RecheckTies(RecheckingEngine):
    """A classifier in low precision whose near ties are recomputed in full precision.

    Parameters
    ----------
    fast, exact
        See :class:`RecheckingEngine`.
    margin
        Difference between the two highest probabilities below which a patch is a near tie.
    """

    corrected = "near ties"

    def __init__(self, fast: Engine, exact: Engine, margin: float = MARGIN) -> None:
        super().__init__(fast, exact)
        self._margin = margin

    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        return rows_near_tie(results[:, : self.classes - self.extras], self._margin)


def rows_near_tie(probabilities: NDArray[np.float32], margin: float) -> NDArray[np.intp]:
    """Return the rows of ``(N, C)`` probabilities whose two highest are closer than a margin, or are NaN."""
    if probabilities.shape[1] < 2 or not len(probabilities):
        return np.empty(0, np.intp)
    top_two = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.flatnonzero(~(top_two[:, 1] - top_two[:, 0] >= margin))


def with_lower_floor(bundle: Bundle) -> Bundle:
    """Return the same detector with a quarter of its candidate threshold.

    A score lowered by rounding must not hide a candidate: in low precision, a patch counts as empty only if all its
    scores are below a quarter of the candidate threshold.
    """
    rules = bundle.card.detection
    assert rules is not None
    lower = rules.model_copy(update={"floor": rules.floor / 4})
    return replace(bundle, card=bundle.card.model_copy(update={"detection": lower}))


class RecheckCandidates(RecheckingEngine):
    """A detector in low precision that recomputes every patch with a candidate in full precision.

    Most patches of a slide contain no candidate.  A patch's boxes are therefore those of full precision, or none.
    The fast engine runs the :func:`with_lower_floor` bundle, the exact one the bundle itself.
    """

    corrected = "candidates"

    def _doubtful(self, results: NDArray[np.float32]) -> NDArray[np.intp]:
        boxes = results[:, : self.classes - self.extras]
        scores = boxes.reshape(len(boxes), boxes.shape[1] // 5, 5)[..., 4]
        # Also true of NaN.
        return np.flatnonzero(~(scores.max(axis=1, initial=0.0) <= 0))

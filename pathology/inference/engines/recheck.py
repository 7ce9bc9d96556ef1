"""Two engines as one: a fast one computes every patch, an exact one computes again where the fast one is in doubt."""

from __future__ import annotations

from abc import abstractmethod
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from pathology.inference.engines.base import Engine

__all__ = ["SecondLook"]


class SecondLook(Engine):
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
        self.appetite = fast.appetite
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

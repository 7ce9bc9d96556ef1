"""The interface of every inference engine: uint8 patches in, fp32 predictions out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.extras import installed, missing_extra

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = [
    "BOXES_PER_PATCH",
    "ENGINES",
    "Engine",
    "Precision",
    "available_cores",
    "extra_outputs",
    "outputs_per_patch",
    "require_torch",
]

ENGINES = ("auto", "torch", "openvino")
"""Names of the engines to choose from; ``auto`` picks the fastest by trying them."""

BOXES_PER_PATCH = 128
"""Largest number of boxes a detector returns per patch; each of its heads reports an object once or twice."""

Precision = Literal["fp32", "bf16", "fp16", "int8"]


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def outputs_per_patch(card: Card) -> int:
    """Return how many numbers a model returns per patch: one per class, or five per box for a detector."""
    return len(card.classes) if card.task == "classification" else 5 * BOXES_PER_PATCH


def extra_outputs(card: Card, *, features: bool = False) -> int:
    """Return how many columns follow the class probabilities of a patch.

    Parameters
    ----------
    card
        The model.
    features
        Whether its penultimate features are among them.

    Raises
    ------
    UsageError
        If features are requested from a model that has none.
    """
    distance = 0 if card.trust is None or card.trust.out_of_domain is None else 1
    if not features:
        return distance
    if card.task != "classification":
        raise UsageError(f"{card.name} is not a classifier and has no features")
    require_torch("computing features")
    import torch

    from pathology.bundle.catalogue import build_card_network
    from pathology.networks.penultimate import split_classifier

    with torch.device("meta"):
        _, head = split_classifier(build_card_network(card))
    return distance + head.in_features


def require_torch(what: str) -> None:
    """Check that torch is installed, which brings every other engine than OpenVINO's.

    Raises
    ------
    MissingDependencyError
        If it is not; the message begins with ``what``.
    """
    if not installed("torch"):
        raise missing_extra(f"{what} needs torch", "torch")


class Engine(ABC):
    """A network ready to run on one device.

    The batch size is fixed: a smaller batch is padded and the predictions of the padding are discarded.  The
    prediction for a patch depends on its pixels alone, never on its position in the batch or on the other patches, so
    batching, the number of workers and resuming cannot change a result.  ``pathology.testing.EngineSuite`` checks this.

    Attributes
    ----------
    name : str
        Kind of engine: ``torch``, ``openvino``.
    device : str
        ``cpu``, ``cuda:0``, ...
    precision : str
        ``fp32``, ``bf16``, ``fp16`` or ``int8``.
    batch_size : int
        Patches per batch.
    preferred_batch : int
        Patches to pass at once so that the device is never idle; a multiple of ``batch_size``.
    patch : int
        Side of a patch in pixels.
    classes : int
        Number of outputs per patch.
    extras : int
        How many trailing outputs are not class probabilities: the out-of-distribution score if the card defines one,
        then features if requested.
    """

    name: ClassVar[str]

    device: str
    precision: Precision
    batch_size: int
    preferred_batch: int
    patch: int
    classes: int
    extras: int = 0

    @property
    def description(self) -> str:
        """Engine, device and precision in one string, such as ``torch cpu fp32``."""
        return f"{self.name} {self.device} {self.precision}"

    def predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify patches.

        Parameters
        ----------
        patches
            ``(B, H, W, 3)`` uint8 RGB at the model's mpp, any ``B`` >= 0.

        Returns
        -------
        numpy.ndarray
            ``(B, C)`` float32 class probabilities, each row summing to 1, followed by :attr:`extras`.  For a detector,
            boxes; see :class:`pathology.inference.engines.detector.PatchDetector`.

        Raises
        ------
        UsageError
            If the shape or type does not fit the model.
        """
        self._check(patches)
        count = len(patches)
        if not count:
            return np.empty((0, self.classes), np.float32)
        return self._predict(self._padded(patches))[:count]

    def predict_corrected(
        self, patches: NDArray[np.uint8], correct: Callable[[NDArray[np.uint8], NDArray[np.float32]], None]
    ) -> NDArray[np.float32]:
        """Classify patches like :meth:`predict`, and let a function correct the results.

        Parameters
        ----------
        patches
            As for :meth:`predict`.
        correct
            Called with patches and their results.  An engine that computes batches in parallel calls it per batch, in
            the thread that computed it, so that no core waits for another's corrections.
        """
        results = self.predict(patches)
        correct(patches, results)
        return results

    def _check(self, patches: NDArray[np.uint8]) -> None:
        if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1:] != (self.patch, self.patch, 3):
            raise UsageError(
                f"patches: expected (B, {self.patch}, {self.patch}, 3) uint8, got {patches.shape} {patches.dtype}"
            )

    def _padded(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pad to whole batches with black patches."""
        missing = -len(patches) % self.batch_size
        return np.concatenate([patches, np.zeros((missing, *patches.shape[1:]), np.uint8)]) if missing else patches

    @abstractmethod
    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify patches whose number is a multiple of ``batch_size``, above 0."""

    @abstractmethod
    def close(self) -> None:
        """Release the device's memory.  Closing twice is allowed."""

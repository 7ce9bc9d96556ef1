"""Slide classifiers on one vector a slide, as plain arrays: chosen numbers, standardised, through dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DenseHead"]

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class DenseHead:
    """A fitted head: logistic regression (one layer) or a multi-layer perceptron with ReLU between its layers.

    Attributes
    ----------
    chosen
        ``(K,)`` positions of the numbers it uses.
    centre, scale
        ``(K,)`` mean and standard deviation on the training slides.
    layers
        Weights ``(inputs, outputs)`` and biases ``(outputs,)``.
    """

    chosen: NDArray[np.int64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]

    def logits(self, vectors: Floats) -> NDArray[np.float64]:
        """Return ``(N, C)`` logits of ``(N, V)`` vectors.

        Examples
        --------
        >>> layer = (np.array([[0.0, 1.0]]), np.zeros(2))
        >>> DenseHead(np.array([1]), np.zeros(1), np.ones(1), (layer,)).logits(np.array([[5.0, 2.0]])).tolist()
        [[0.0, 2.0]]
        """
        hidden = (np.asarray(vectors, np.float64)[:, self.chosen] - self.centre) / self.scale
        for number, (weight, bias) in enumerate(self.layers):
            hidden = (np.maximum(hidden, 0) if number else hidden) @ weight + bias
        return hidden

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return everything by name, to be stored."""
        found: dict[str, NDArray[np.generic]] = {"chosen": self.chosen, "centre": self.centre, "scale": self.scale}
        for number, (weight, bias) in enumerate(self.layers):
            found |= {f"weight{number}": np.ascontiguousarray(weight), f"bias{number}": np.ascontiguousarray(bias)}
        return found

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> DenseHead:
        """Return the head whose :meth:`arrays` these are; ``KeyError`` if one is missing."""
        layers = [(arrays[f"weight{n}"], arrays[f"bias{n}"]) for n in range((len(arrays) - 3) // 2)]
        return cls(
            np.asarray(arrays["chosen"], np.int64),
            np.asarray(arrays["centre"], np.float64),
            np.asarray(arrays["scale"], np.float64),
            tuple((np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers),
        )

"""Logistic regression and support vector machines as plain arrays, for pickle-free bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from pathology.errors import UsageError

__all__ = ["FrozenClassifier", "freeze"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FrozenClassifier:
    """A decision function.

    Attributes
    ----------
    kind
        ``linear``: ``x @ weights + intercept``.  ``rbf``: ``Σ weights_i exp(-gamma |x - vectors_i|²) + intercept``.
    weights
        Shape (P,) or (number of support vectors,).
    intercept
        Intercept.
    vectors
        Support vectors, shape (M, P); (0, P) if linear.
    gamma
        Gamma of the RBF kernel; 0 if linear.
    """

    kind: str
    weights: Floats
    intercept: float
    vectors: Floats
    gamma: float = 0.0

    def decision_function(self, x: Floats) -> Floats:
        """Return a score per row, shape (N,), higher meaning class 1."""
        if self.kind == "linear":
            return np.asarray(x @ self.weights + self.intercept, float)
        distance = ((x[:, None] - self.vectors[None]) ** 2).sum(axis=2)
        return np.asarray(np.exp(-self.gamma * distance) @ self.weights + self.intercept, float)

    def arrays(self) -> dict[str, Floats]:
        """Return the arrays for :meth:`from_arrays`."""
        scalars = np.asarray([self.intercept, self.gamma])
        return {"weights": self.weights, "vectors": self.vectors, "scalars": scalars}

    @classmethod
    def from_arrays(cls, kind: str, arrays: Mapping[str, Floats]) -> FrozenClassifier:
        """Rebuild from the arrays of :meth:`arrays`."""
        intercept, gamma = (float(v) for v in arrays["scalars"])
        return cls(kind, np.asarray(arrays["weights"], float), intercept, np.asarray(arrays["vectors"], float), gamma)


def freeze(classifier: Any) -> FrozenClassifier:  # noqa: ANN401  # any scikit-learn classifier
    """Convert a fitted classifier to arrays.

    Raises
    ------
    UsageError
        If it is neither a logistic regression nor a support vector machine.
    """
    if isinstance(classifier, FrozenClassifier):
        return classifier
    if isinstance(classifier, LogisticRegression):
        weights = np.asarray(classifier.coef_[0], float)
        return FrozenClassifier("linear", weights, float(classifier.intercept_[0]), np.zeros((0, len(weights))))
    if isinstance(classifier, SVC) and classifier.kernel == "rbf":
        return FrozenClassifier(
            "rbf",
            np.asarray(classifier.dual_coef_[0], float),
            float(classifier.intercept_[0]),
            np.asarray(classifier.support_vectors_, float),
            float(classifier._gamma),
        )
    raise UsageError(
        f"{type(classifier).__name__} is for comparison only and cannot be saved in a bundle",
        remedy="Train with the classifier 'logistic' or 'svm'",
    )

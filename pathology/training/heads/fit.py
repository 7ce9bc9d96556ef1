"""Fit one head with one setting."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pathology.networks.dense_head import DenseHead
from pathology.training.common.aggregator import MilSettings, bag_probabilities, fit_aggregator
from pathology.training.heads.data import HeadData

__all__ = ["BAG_HEADS", "CANDIDATES", "FittedHead", "fit_head"]

Rows = NDArray[np.int64]

BAG_HEADS: Final = ("attention", "transformer")
"""Heads that see single patches; their epoch is selected on a validation part."""

CANDIDATES: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "mean": tuple({"C": c} for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    "sampler": tuple({"C": c, "features": k} for k in (100, 1000) for c in (1e-3, 1e-2, 1e-1)),
    "mlp": tuple({"alpha": a} for a in (1e-2, 1.0, 10.0)),
    "attention": ({},),
    "transformer": ({},),
}
"""Settings that the inner folds choose from."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A fitted head.

    Attributes
    ----------
    kind
        One of :data:`pathology.training.heads.settings.HEADS`.
    setting
        Chosen by the inner folds.
    model
        Arrays, or a network of :mod:`pathology.networks.mil`.
    """

    kind: str
    setting: dict[str, Any]
    model: DenseHead | nn.Module

    def logits(self, data: HeadData, rows: Rows) -> NDArray[np.float64]:
        """Return ``(n, C)`` logits (for networks: log probabilities) of rows of the data."""
        if isinstance(self.model, DenseHead):
            return self.model.logits(_vectors(self.kind, data)[rows])
        return np.log(np.maximum(bag_probabilities(self.model, [data.bags[row] for row in rows]), 1e-12))


def fit_head(
    kind: str,
    data: HeadData,
    train: Rows,
    validation: Rows,
    setting: dict[str, Any],
    *,
    epochs: int,
    seed: int,
    progress: Callable[[str], None] = lambda _line: None,
) -> FittedHead:
    """Fit a head.

    Parameters
    ----------
    kind
        Which head.
    data
        All rows.
    train
        Rows to fit.
    validation
        Rows of other patients that select the epoch of attention and transformer; the other heads do not use them.
    setting
        One of :data:`CANDIDATES`.
    epochs
        Largest number of epochs of networks.
    seed
        Seed of the training.
    progress
        Called with a line after each epoch.
    """
    if kind not in BAG_HEADS:
        vectors, labels = _vectors(kind, data)[train], data.labels[train]
        return FittedHead(kind, setting, _dense(kind, vectors, labels, len(data.classes), setting, epochs, seed))
    fitted = fit_aggregator(
        [data.bags[row] for row in train],
        data.labels[train].tolist(),
        len(data.classes),
        MilSettings.model_validate(
            {"kind": kind, "epochs": epochs, "least_epochs": min(10, epochs), "patience": 10, "learning_rate": 2e-4}
        ),
        validation=([data.bags[row] for row in validation], data.labels[validation].tolist()),
        seed=seed,
        progress=lambda epoch, loss, lost: progress(
            f"epoch {epoch + 1} of at most {epochs}: loss {loss:.3f}, validation {lost:.3f}"
        ),
    )
    return FittedHead(kind, {"epochs": fitted.best_epoch + 1}, fitted.network)


def _vectors(kind: str, data: HeadData) -> NDArray[np.float32]:
    return data.deciles if kind == "sampler" else data.means


def _dense(
    kind: str, vectors: NDArray[np.float32], labels: Rows, classes: int, setting: dict[str, Any], epochs: int, seed: int
) -> DenseHead:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_selection import f_classif
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    centre, scale = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    chosen = np.flatnonzero(scale > 0)
    if kind == "sampler" and len(chosen) > setting["features"]:
        strength = np.nan_to_num(f_classif(vectors[:, chosen], labels)[0])
        chosen = np.sort(chosen[np.argsort(-strength, kind="stable")[: setting["features"]]])
    if not len(chosen):
        chosen, scale = np.arange(1), np.ones_like(scale)  # all slides are alike: only the frequencies are learned
    x = (vectors[:, chosen] - centre[chosen]) / scale[chosen]
    if kind == "mlp":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is a limit on purpose
            network = MLPClassifier((64,), alpha=setting["alpha"], max_iter=epochs, random_state=seed).fit(x, labels)
        layers = list(zip(network.coefs_, network.intercepts_, strict=True))
    else:
        linear = LogisticRegression(C=setting["C"], class_weight="balanced", max_iter=1000).fit(x, labels)
        layers = [(linear.coef_.T, linear.intercept_)]
    layers[-1] = _one_output_per_class(*layers[-1], np.unique(labels), classes)
    return DenseHead(chosen, centre[chosen], scale[chosen], tuple(layers))


def _one_output_per_class(
    weight: NDArray[np.float64], bias: NDArray[np.float64], seen: Rows, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give two classes an output each, as scikit-learn does not; a class without training slides gets none."""
    if weight.shape[1] == 1:
        weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    all_weights, all_biases = np.zeros((len(weight), classes)), np.full(classes, -30.0)
    all_weights[:, seen], all_biases[seen] = weight, bias
    return all_weights, all_biases

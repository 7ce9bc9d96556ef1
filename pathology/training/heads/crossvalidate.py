"""Nested cross-validation of heads: inner folds choose the setting and the temperature, outer folds evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pathology.stats.splits import Fold, NestedFold, audit_leakage
from pathology.stats.temperature_scaling import TemperatureFit, fit_temperature
from pathology.training.heads.data import HeadData
from pathology.training.heads.fit import BAG_HEADS, CANDIDATES, FittedHead, fit_head
from pathology.training.heads.settings import HeadSettings

__all__ = ["CalibratedHead", "HeldOut", "fit_calibrated", "predict_held_out"]

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class CalibratedHead:
    """A head and its temperature, fitted on predictions for patients that it was not trained on."""

    head: FittedHead
    temperature: float

    def probabilities(self, data: HeadData, rows: Rows) -> Floats:
        """Return ``(n, C)``."""
        found: Floats = softmax(self.head.logits(data, rows) / self.temperature, axis=1)
        return found


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of one kind of head, each by a model that never saw the row's patient.

    Attributes
    ----------
    probabilities
        ``(N, C)``, calibrated inside each training part.
    fold
        ``(N,)`` outer fold each row was tested in.
    chosen
        Setting of each outer fold.
    """

    probabilities: Floats
    fold: Rows
    chosen: tuple[dict[str, Any], ...]


def fit_calibrated(
    kind: str, data: HeadData, rows: Rows, inner: Sequence[Fold], settings: HeadSettings, say: Say
) -> CalibratedHead:
    """Choose a setting by the inner folds, fit the temperature on their predictions, and fit the head.

    Attention and transformer are fitted on the first inner fold's training part; its test part selects the epoch and
    fits the temperature.

    Parameters
    ----------
    kind
        Which head.
    data
        All rows.
    rows
        Rows to use.
    inner
        Folds of those rows.
    settings
        Seed and number of epochs.
    say
        Called with progress lines.
    """
    epochs, seed = settings.epochs, settings.seed
    if kind in BAG_HEADS:
        part = inner[0]
        head = fit_head(kind, data, part.train, part.test, {}, progress=say, epochs=epochs, seed=seed)
        return CalibratedHead(head, _temperature(head.logits(data, part.test), data, part.test).temperature)
    best: tuple[float, dict[str, Any], Floats] | None = None
    held = np.concatenate([fold.test for fold in inner])
    for setting in CANDIDATES[kind]:
        logits = np.concatenate(
            [
                fit_head(kind, data, fold.train, fold.test, setting, epochs=epochs, seed=seed).logits(data, fold.test)
                for fold in inner
            ]
        )
        loss = _temperature(logits, data, held).loss_after
        if best is None or loss < best[0]:
            best = loss, setting, logits
    assert best is not None
    head = fit_head(kind, data, rows, rows[:0], best[1], epochs=epochs, seed=seed)
    return CalibratedHead(head, _temperature(best[2], data, held).temperature)


def _temperature(logits: Floats, data: HeadData, rows: Rows) -> TemperatureFit:
    return fit_temperature(logits, data.labels[rows], groups=[data.patients[row] for row in rows])


def predict_held_out(
    kind: str, data: HeadData, folds: Sequence[NestedFold], settings: HeadSettings, say: Say = lambda _line: None
) -> HeldOut:
    """Predict every row with heads trained on other patients.

    Parameters
    ----------
    kind
        Which head.
    data
        All rows.
    folds
        Outer folds with their inner folds; audited here.
    settings
        Seed and number of epochs.
    say
        Called with progress lines.

    Raises
    ------
    LeakageError
        If a patient, or with ``keep_sites`` a hospital, is in two parts.
    """
    probabilities = np.zeros((len(data), len(data.classes)))
    number = np.zeros(len(data), np.int64)
    chosen = []
    for index, fold in enumerate(folds):
        for part in fold.inner:
            audit_leakage(
                {"train": part.train, "tune": part.test, "test": fold.outer.test},
                patients=data.patients,
                sites=data.sites if settings.keep_sites else None,
            )
        where = f"{kind}, fold {index + 1} of {len(folds)}"
        fitted = fit_calibrated(kind, data, fold.outer.train, fold.inner, settings, _at(say, where))
        rows = fold.outer.test
        probabilities[rows], number[rows] = fitted.probabilities(data, rows), index
        chosen.append(fitted.head.setting)
        say(f"{where}: done")
    return HeldOut(probabilities, number, tuple(chosen))


def _at(say: Say, where: str) -> Say:
    """Return ``say`` with a place before each line."""
    return lambda line: say(f"{where}: {line}")

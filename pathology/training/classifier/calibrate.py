"""Calibration on separate patients: temperature, prediction sets, out-of-distribution limit, risk cut-offs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathology.bundle.card import Trust
from pathology.evaluation.classifier import SlidePrediction, slide_scores
from pathology.networks.penultimate import split_classifier
from pathology.stats.conformal import fit_conformal
from pathology.stats.out_of_distribution import FeatureDomain, fit_domain, fit_limit, slide_score
from pathology.stats.temperature_scaling import TemperatureFit, fit_temperature
from pathology.training.classifier.patches import SlidePatches
from pathology.training.classifier.predict import SlideLogits, predict_slides
from pathology.training.classifier.recipe import SlideRecipe
from pathology.training.common.aggregator import bag_probabilities

__all__ = ["SplitNetwork", "TrustFit", "fit_trust"]

Rows = NDArray[np.int64]

_TOGETHER = 8
"""Number of slides with features in memory at once."""
_DOMAIN_PATCHES = 4000
"""Training patches used to fit the feature domain, evenly spread over slides: several per feature (2048)."""


class SplitNetwork:
    """A trained classifier that returns features and logits in one pass.

    Parameters
    ----------
    network
        Trained network; not modified.
    patches
        All slides.
    recipe
        Recipe, for normalisation and batch size.
    device
        Compute device.
    loaders
        Number of data loader processes.
    """

    def __init__(
        self, network: nn.Module, patches: SlidePatches, recipe: SlideRecipe, device: torch.device, loaders: int
    ) -> None:
        self._body, head = split_classifier(copy.deepcopy(network).eval())
        self._weight = head.weight.detach().cpu().numpy().astype(np.float32)
        self._bias = head.bias.detach().cpu().numpy().astype(np.float32)
        self._patches, self._recipe, self._device, self._loaders = patches, recipe, device, loaders

    def slides(self, rows: Rows, *, most: int | None = None) -> Iterator[tuple[int, SlideLogits, NDArray[np.float32]]]:
        """Yield row, logits and ``(n, F)`` features of each slide, in fp32, a few slides at a time.

        Parameters
        ----------
        rows
            Slide rows.
        most
            Maximum patches per slide, evenly spread; ``None``: all selected patches.
        """
        patches = self._patches if most is None else _thinned(self._patches, most)
        for start in range(0, len(rows), _TOGETHER):
            part = rows[start : start + _TOGETHER]
            found = predict_slides(self._body, patches, part, self._recipe, device=self._device, loaders=self._loaders)
            for row, features in zip(part.tolist(), found, strict=True):
                logits = features.logits @ self._weight.T + self._bias
                yield row, SlideLogits(features.patches, logits), features.logits


def _thinned(patches: SlidePatches, most: int) -> SlidePatches:
    thin = []
    for keep in patches.keep:
        places = np.flatnonzero(keep)
        chosen = np.zeros_like(keep)
        chosen[places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)]] = True
        thin.append(chosen)
    return SlidePatches(patches.labelled, patches.stores, tuple(thin))


@dataclass(frozen=True)
class TrustFit:
    """Fitted calibration.

    Attributes
    ----------
    temperature
        Temperature of the patch logits.
    trust
        Prediction sets and out-of-distribution limit, for the card.
    domain
        Feature domain of the training patches.
    predictions
        Predictions of the calibration slides at the fitted temperature.
    """

    temperature: TemperatureFit
    trust: Trust
    domain: FeatureDomain
    predictions: tuple[SlidePrediction, ...]


def fit_trust(
    split: SplitNetwork,
    patches: SlidePatches,
    train: Rows,
    calibration: Rows,
    *,
    aggregator: str = "mean",
    learned: nn.Module | None = None,
    coverage: float = 0.9,
    false_alarm: float = 0.05,
    seed: int = 0,
) -> TrustFit:
    """Fit temperature, prediction sets and the out-of-distribution limit.

    Parameters
    ----------
    split
        Trained network.
    patches
        All slides.
    train
        Training slides; only their features are used, to define the domain.
    calibration
        Slides of patients not used for training or selection.
    aggregator
        Slide aggregation of the prediction sets.
    learned
        Aggregator network, if trained.
    coverage
        Nominal coverage of the prediction sets.
    false_alarm
        Nominal false-alarm rate of the out-of-distribution limit.
    seed
        Seed for sampling one slide per patient.
    """
    slides = patches.labelled.slides
    features, labels = [], []
    for row, _, found in split.slides(train, most=max(2, _DOMAIN_PATCHES // len(train))):
        features.append(found)
        labels.append(np.full(len(found), slides[row].label))
    domain = fit_domain(np.concatenate(features), np.concatenate(labels))
    logits, scores, of_slides = [], [], []
    for _, given, found in split.slides(calibration):
        logits.append(given)
        of_slides.append(None if learned is None else bag_probabilities(learned, [found])[0])
        scores.append(slide_score(domain.scores(found)))
    truth = [slides[row].label for row in calibration]
    owners = [slides[row].patient_id for row in calibration]
    temperature = fit_temperature(
        np.concatenate([found.logits for found in logits]),
        np.repeat(truth, [len(found.logits) for found in logits]),
        groups=np.repeat(owners, [len(found.logits) for found in logits]),
    )
    predictions = tuple(
        SlidePrediction(
            slides[row].slide_id,
            slides[row].patient_id,
            slides[row].label,
            found.probabilities(temperature.temperature),
            answer,
        )
        for row, found, answer in zip(calibration.tolist(), logits, of_slides, strict=True)
    )
    data = f"{len(calibration)} slides of {len(set(owners))} calibration patients, not used for training or selection"
    answers = slide_scores(predictions, aggregator if learned is None else "model")
    return TrustFit(
        temperature,
        Trust(
            conformal=fit_conformal(answers, truth, patients=owners, coverage=coverage, data=data, seed=seed),
            out_of_domain=fit_limit(
                np.array(scores),
                features=domain.centres.shape[1],
                patients=owners,
                false_alarm=false_alarm,
                data=data,
                seed=seed,
            ),
            aggregator=aggregator,
            note=_note(len(set(owners)), coverage, false_alarm),
        ),
        domain,
        predictions,
    )


def _note(patients: int, coverage: float, false_alarm: float) -> str:
    """Return a note on validity, and on too few patients for the nominal rates."""
    notes = ["Valid for patients like the calibration patients, not for another hospital."]
    if patients < round(1 / (1 - coverage) - 1, 9):
        notes.append(
            f"{patients} calibration patients are too few for sets with {coverage:.0%} coverage: every set is full."
        )
    if patients < round(1 / false_alarm - 1, 9):
        notes.append(
            f"{patients} are too few for an out-of-distribution limit at {false_alarm:.0%} false alarms: none is set."
        )
    return " ".join(notes)

"""Score features of slides with a slide-level head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from pathology.bundle.head_card import EncoderReference, HeadCard, read_head, read_head_card, read_head_domain
from pathology.errors import PathologyError, UsageError
from pathology.features.bag import deciles, read_bag
from pathology.features.folder import same_encoder
from pathology.features.slide_features import SlideFeatures
from pathology.networks.dense_head import DenseHead
from pathology.stats.conformal import prediction_sets
from pathology.stats.out_of_distribution import slide_score

__all__ = ["HeadScore", "HeadScorer"]

_PATCHES = 16_384
_SCALE_TOLERANCE = 0.1


@dataclass(frozen=True)
class HeadScore:
    """The prediction for one slide.

    Attributes
    ----------
    slide_id
        The slide.
    patches
        Number of patches with features.
    probabilities
        Calibrated, by class; empty if the slide failed.
    prediction_set
        Classes that the stated coverage cannot exclude; empty if there is no rule.
    out_of_distribution
        Median patch score divided by the limit: above 1, the slide is unlike the training slides; ``None``: no limit.
    error
        Why it failed; empty if it did not.
    """

    slide_id: str
    patches: int = 0
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] = ()
    out_of_distribution: float | None = None
    error: str = ""

    @property
    def predicted(self) -> str:
        """The class, or ``abstained`` if the slide is out of distribution or the set has not exactly one class."""
        if self.probabilities is None:
            return ""
        unlike = self.out_of_distribution is not None and self.out_of_distribution > 1
        if unlike or (self.prediction_set and len(self.prediction_set) != 1):
            return "abstained"
        return max(self.probabilities, key=lambda name: (self.probabilities or {})[name])


class HeadScorer:
    """A head with its rules, opened once for many slides.

    Parameters
    ----------
    folder
        The bundle.

    Raises
    ------
    BundleError, WeightsHashError
        If the bundle is incomplete or changed.
    """

    def __init__(self, folder: Path) -> None:
        self.card: HeadCard = read_head_card(folder)
        self._model = read_head(folder, self.card)
        self._domain = read_head_domain(folder, self.card)

    def score(self, features: SlideFeatures) -> HeadScore:
        """Score one slide; what is wrong with its features is in the result, never raised."""
        try:
            check_encoder(features, self.card.encoder)
            return self._score(features)
        except PathologyError as error:
            return HeadScore(features.slide_id, error=str(error).splitlines()[0])

    def _score(self, features: SlideFeatures) -> HeadScore:
        bag = read_bag([features], _PATCHES)
        card = self.card
        if isinstance(self._model, DenseHead):
            vector = deciles(bag.sample) if card.head == "sampler" else bag.mean
            logits = self._model.logits(vector[None])
        else:
            import torch

            with torch.inference_mode():
                logits = self._model(torch.from_numpy(bag.thinned(card.patches))).logits.double().numpy()[None]
        p = softmax(logits / card.temperature, axis=1)
        rule, limit = card.trust.conformal, card.trust.out_of_domain
        chosen: Sequence[bool] = prediction_sets(p, rule)[0].tolist() if rule is not None else ()
        unlike = None
        if self._domain is not None and limit is not None and limit.limit:
            unlike = slide_score(self._domain.scores(bag.thinned(1024).astype(np.float64))) / limit.limit
        return HeadScore(
            features.slide_id,
            bag.count,
            dict(zip(card.classes, p[0].tolist(), strict=True)),
            tuple(name for name, kept in zip(card.classes, chosen, strict=False) if kept),
            unlike,
        )


def check_encoder(features: SlideFeatures, encoder: EncoderReference) -> None:
    """Refuse features of another encoder than the head was trained with.

    Raises
    ------
    UsageError
        If vector length, encoder, weights or scale differ.
    """
    names = (features.encoder, encoder.name)
    hashes = (features.weights_sha256, encoder.weights_sha256)
    wrong = ""
    if features.vector != encoder.vector:
        wrong = f"vectors of {features.vector} numbers, the head takes {encoder.vector}"
    elif all(names) and not same_encoder(*names):
        wrong = f"features of {names[0]}, the head takes those of {names[1]}"
    elif all(hashes) and hashes[0] != hashes[1]:
        wrong = "features of other weights of the encoder than the head was trained with"
    elif features.mpp and encoder.mpp and abs(features.mpp / encoder.mpp - 1) > _SCALE_TOLERANCE:
        wrong = f"features at {features.mpp:g} µm per pixel, the head was trained at {encoder.mpp:g}"
    if wrong:
        raise UsageError(wrong, where=features.path, remedy="Compute features with the head's encoder")

"""Conversion of a classifier's engine outputs to patch and slide probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.learned_aggregator import learned_aggregator
from pathology.findings.aggregation import RULES
from pathology.inference.engines.base import require_torch

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.bundle.catalogue import Bundle

__all__ = ["ClassifierOutputs", "aggregate_outputs", "check_aggregator", "needs_features"]

_LEARNED: Final = ("attention", "transformer")


@dataclass(frozen=True, eq=False)
class ClassifierOutputs:
    """A classifier's outputs for a slide.

    Attributes
    ----------
    probabilities
        ``(N, C)`` class probabilities of the patches; rows of NaN could not be read.
    of_slide
        ``(C,)`` of the slide, by an aggregator other than the mean over patches; ``None``: the mean.
    aggregator
        Name of the aggregator.
    attention
        ``(N,)`` weight of each patch in a trained aggregator's prediction, NaN where it could not be read.
    domain_scores
        ``(N,)`` out-of-distribution score of each patch, NaN where it could not be read.
    """

    probabilities: NDArray[np.float32]
    of_slide: NDArray[np.floating] | None = None
    aggregator: str = "mean"
    attention: NDArray[np.floating] | None = None
    domain_scores: NDArray[np.floating] | None = None


def needs_features(aggregator: str) -> bool:
    """Whether an aggregator uses features, not probabilities."""
    return aggregator in _LEARNED


def check_aggregator(card: Card, aggregator: str) -> None:
    """Reject an aggregator that the model does not include, before any work starts.

    Raises
    ------
    BundleError
        The message lists the available ones.
    """
    if needs_features(aggregator):
        learned_aggregator(card, aggregator)


def aggregate_outputs(bundle: Bundle, outputs: NDArray[np.float32], aggregator: str) -> ClassifierOutputs:
    """Split an engine's outputs and aggregate the patches.

    Parameters
    ----------
    bundle
        A classifier.
    outputs
        ``(N, C + extras)`` float32 of :class:`pathology.inference.engines.base.Engine`; rows of NaN could not be read.
    aggregator
        See :attr:`pathology.settings.ScoreSettings.aggregator`.

    Returns
    -------
    ClassifierOutputs
        The patch probabilities, and the slide probabilities if they are not the mean.
    """
    card = bundle.card
    probabilities = np.ascontiguousarray(outputs[:, : len(card.classes)])
    extras = outputs[:, len(card.classes) :]
    scores = None
    if card.trust is not None and card.trust.out_of_domain is not None:
        scores, extras = extras[:, 0], extras[:, 1:]
    if aggregator == "mean" or np.isnan(probabilities).any(axis=1).all():
        return ClassifierOutputs(probabilities, domain_scores=scores)
    if not needs_features(aggregator):
        of_slide = RULES[aggregator](probabilities)
        return ClassifierOutputs(probabilities, of_slide, aggregator, domain_scores=scores)
    require_torch(f"the aggregator {aggregator}")
    import torch

    readable = ~np.isnan(extras).any(axis=1)
    with torch.inference_mode():
        found = bundle.aggregator(aggregator)(torch.from_numpy(np.ascontiguousarray(extras[readable])))
        of_slide = torch.softmax(found.logits.double(), dim=0).numpy()
    attention = np.full(len(outputs), np.nan, np.float32)
    attention[readable] = found.attention.numpy()
    return ClassifierOutputs(probabilities, of_slide, aggregator, attention, scores)

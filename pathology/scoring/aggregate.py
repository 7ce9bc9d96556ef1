"""From what an engine gives for a slide's patches to what is known of the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.learned_aggregator import learned_aggregator
from pathology.findings.aggregation import RULES
from pathology.findings.slide_answer import SlideAnswer

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.bundle.catalogue import Bundle

__all__ = ["check_aggregator", "needs_features", "slide_answer"]

_LEARNED: Final = ("attention", "transformer")


def needs_features(aggregator: str) -> bool:
    """Whether an aggregator works on features, not on probabilities."""
    return aggregator in _LEARNED


def check_aggregator(card: Card, aggregator: str) -> None:
    """Refuse an aggregator that the model does not have, before any work starts.

    Raises
    ------
    BundleError
        The message says which there are.
    """
    if needs_features(aggregator):
        learned_aggregator(card, aggregator)


def slide_answer(
    bundle: Bundle, outputs: NDArray[np.float32], aggregator: str
) -> tuple[NDArray[np.float32], SlideAnswer]:
    """Take an engine's outputs apart and put the patches together.

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
    tuple
        The ``(N, C)`` class probabilities of the patches, and what is known beside them.
    """
    card = bundle.card
    probabilities = np.ascontiguousarray(outputs[:, : len(card.classes)])
    extras = outputs[:, len(card.classes) :]
    scores = None
    if card.trust is not None and card.trust.out_of_domain is not None:
        scores, extras = extras[:, 0], extras[:, 1:]
    if aggregator == "mean" or np.isnan(probabilities).any(axis=1).all():
        return probabilities, SlideAnswer(domain_scores=scores)
    if not needs_features(aggregator):
        of_slide = RULES[aggregator](probabilities)
        return probabilities, SlideAnswer(of_slide, aggregator, domain_scores=scores)
    import torch

    readable = ~np.isnan(extras).any(axis=1)
    with torch.inference_mode():
        found = bundle.aggregator(aggregator)(torch.from_numpy(np.ascontiguousarray(extras[readable])))
        of_slide = torch.softmax(found.logits.double(), dim=0).numpy()
    attention = np.full(len(outputs), np.nan, np.float32)
    attention[readable] = found.attention.numpy()
    return probabilities, SlideAnswer(of_slide, aggregator, attention, scores)

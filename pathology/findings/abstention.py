"""Whether a slide gets an answer: in the domain at all, and which classes cannot be excluded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.stats.conformal import prediction_sets
from pathology.stats.out_of_distribution import slide_score

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = ["TrustAssessment", "assess_trust"]


@dataclass(frozen=True, slots=True)
class TrustAssessment:
    """How far a slide's answer can be believed.

    Attributes
    ----------
    prediction_set
        Classes that cannot be excluded, the most probable first; ``None`` where the model has no rule for it, or where
        the slide is outside its domain and no rule holds.
    out_of_domain
        Whether the slide is outside what the model was trained on; ``None`` where the model cannot tell.
    domain_score
        The slide's out-of-domain score, 1 for a typical training patch; ``None`` where the model has none.
    because
        Why there is no answer, in words; empty where there is one.
    """

    prediction_set: tuple[str, ...] | None
    out_of_domain: bool | None
    domain_score: float | None
    because: str


def assess_trust(
    card: Card,
    probabilities: NDArray[np.floating],
    domain_scores: NDArray[np.floating] | None = None,
    *,
    aggregator: str = "mean",
) -> TrustAssessment:
    """Apply the card's rules to one slide.

    Parameters
    ----------
    card
        The model.
    probabilities
        ``(C,)`` of the slide.
    domain_scores
        ``(N,)`` out-of-domain score of each patch, NaN where it could not be read.
    aggregator
        How the slide's probabilities were made; prediction sets hold for the one they were fitted with.
    """
    because: list[str] = []
    trust = card.trust
    domain = trust.out_of_domain if trust is not None else None
    score: float | None = None
    outside: bool | None = None
    if domain is not None and domain_scores is not None:
        score = slide_score(domain_scores)
        if domain.limit is not None:
            outside = score > domain.limit
            if outside:
                because.append(
                    f"outside what this model was trained on: score {score:.2f}, limit {domain.limit:.2f}"
                    f" ({domain.false_alarm:.0%} false alarms among slides like {domain.n} calibration {domain.unit})"
                )
    rule = trust.conformal if trust is not None and trust.aggregator == aggregator else None
    members: tuple[str, ...] | None = None
    if rule is not None and not outside:
        inside = prediction_sets(np.asarray(probabilities)[None], rule)[0]
        members = tuple(card.classes[k] for k in np.argsort(-np.asarray(probabilities), kind="stable") if inside[k])
        if len(members) != 1:
            said = " or ".join(members) if members else "no class is probable enough"
            because.append(
                f"not sure: {said} (sets meant to hold the truth for {rule.coverage:.0%} of {rule.unit} like the"
                f" {rule.n} of the calibration)"
            )
    lowest = card.abstention.min_probability if card.abstention is not None else None
    highest = float(np.max(probabilities))
    if lowest is not None and highest < lowest:
        because.append(
            f"the most probable class has probability {highest:.2f}, below the model's limit of {lowest:.2f}"
        )
    return TrustAssessment(members, outside, score, "; ".join(because))

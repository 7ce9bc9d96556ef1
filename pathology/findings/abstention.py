"""Abstention: whether a slide is in the model's domain, and which classes cannot be excluded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.stats.conformal import prediction_sets
from pathology.stats.out_of_distribution import slide_score

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = ["DomainAssessment", "TrustAssessment", "assess_domain", "assess_trust"]


@dataclass(frozen=True, slots=True)
class DomainAssessment:
    """Whether a slide is in the model's training domain.

    Attributes
    ----------
    outside
        ``None`` if the model has no rule for it.
    score
        The slide's out-of-distribution score, 1 for a typical training patch; ``None`` if the model has none.
    because
        Why the model abstains, as text; empty if the slide is inside.
    """

    outside: bool | None = None
    score: float | None = None
    because: str = ""


def assess_domain(card: Card, domain_scores: NDArray[np.floating] | None) -> DomainAssessment:
    """Apply the card's domain limit to one slide.

    Parameters
    ----------
    card
        The model: a classifier or a detector.
    domain_scores
        ``(N,)`` out-of-distribution score of each patch, NaN for unreadable patches; ``None``: the model has none.
    """
    rule = card.trust.out_of_domain if card.trust is not None else None
    if rule is None or domain_scores is None:
        return DomainAssessment()
    score = slide_score(domain_scores)
    if rule.limit is None:
        return DomainAssessment(score=score)
    if score <= rule.limit:
        return DomainAssessment(False, score)
    return DomainAssessment(
        True,
        score,
        f"outside this model's training domain: score {score:.2f}, limit {rule.limit:.2f}"
        f" ({rule.false_alarm:.0%} false alarms among slides like {rule.n} calibration {rule.unit})",
    )


@dataclass(frozen=True, slots=True)
class TrustAssessment:
    """Reliability of a slide's prediction.

    Attributes
    ----------
    prediction_set
        Classes that cannot be excluded, most probable first; ``None`` if the model has no rule for it, or if the slide
        is out of domain and no rule applies.
    out_of_domain
        Whether the slide is outside the model's training domain; ``None`` if the model has no rule for it.
    domain_score
        The slide's out-of-distribution score, 1 for a typical training patch; ``None`` if the model has none.
    because
        Why the model abstains, as text; empty if it does not.
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
        ``(N,)`` out-of-distribution score of each patch, NaN for unreadable patches.
    aggregator
        Aggregator of the slide's probabilities; prediction sets are valid only for the one they were fitted with.
    """
    domain = assess_domain(card, domain_scores)
    because = [domain.because] if domain.because else []
    trust = card.trust
    rule = trust.conformal if trust is not None and trust.aggregator == aggregator else None
    members: tuple[str, ...] | None = None
    if rule is not None and not domain.outside:
        inside = prediction_sets(np.asarray(probabilities)[None], rule)[0]
        members = tuple(card.classes[k] for k in np.argsort(-np.asarray(probabilities), kind="stable") if inside[k])
        if len(members) != 1:
            said = " or ".join(members) if members else "no class is probable enough"
            because.append(
                f"inconclusive: {said} (sets contain the true class for {rule.coverage:.0%} of {rule.unit} like the"
                f" {rule.n} used for calibration)"
            )
    lowest = card.abstention.min_probability if card.abstention is not None else None
    highest = float(np.max(probabilities))
    if lowest is not None and highest < lowest:
        because.append(
            f"the most probable class has probability {highest:.2f}, below the model's limit of {lowest:.2f}"
        )
    return TrustAssessment(members, domain.outside, domain.score, "; ".join(because))

"""When a slide gets no answer, and what is said then."""

import numpy as np
import pytest

from pathology.bundle.card import Abstention, Card, Trust
from pathology.bundle.catalogue import load_bundle
from pathology.findings.abstention import assess_trust
from pathology.findings.slide_result import SlideResult
from pathology.stats.conformal import ConformalRule
from pathology.stats.out_of_distribution import OutOfDomainRule
from pathology.testing.random_bundle import write_random_bundle


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Card:
    return load_bundle(write_random_bundle(tmp_path_factory.mktemp("m") / "judged", classes=("LMS", "UPS", "SS"))).card


def trusting(card, *, threshold=0.6, limit=2.0, aggregator="mean"):
    trust = Trust(
        conformal=ConformalRule(method="lac", coverage=0.9, threshold=threshold, n=23),
        out_of_domain=OutOfDomainRule(limit=limit, false_alarm=0.05, n=40, unit="slides", features=8),
        aggregator=aggregator,
    )
    return card.model_copy(update={"trust": trust})


INSIDE = np.array([0.9, 1.1, np.nan])


def test_one_class_is_an_answer(card):
    verdict = assess_trust(trusting(card), np.array([0.7, 0.2, 0.1]), INSIDE)
    assert (verdict.prediction_set, verdict.out_of_domain, verdict.because) == (("LMS",), False, "")
    assert verdict.domain_score == pytest.approx(1.0)


def test_two_classes_are_not_sure(card):
    verdict = assess_trust(trusting(card), np.array([0.41, 0.45, 0.14]), INSIDE)
    assert verdict.prediction_set == ("UPS", "LMS")
    assert verdict.because.startswith(
        "inconclusive: UPS or LMS (sets contain the true class for 90% of patients like the 23"
    )


def test_no_class_is_not_sure_either(card):
    verdict = assess_trust(trusting(card, threshold=0.3), np.array([0.4, 0.3, 0.3]), INSIDE)
    assert verdict.prediction_set == ()
    assert verdict.because.startswith("inconclusive: no class is probable enough")


def test_outside_the_domain_no_set_holds(card):
    verdict = assess_trust(trusting(card), np.array([0.98, 0.01, 0.01]), np.array([5.0, 3.0, 1.0]))
    assert verdict.out_of_domain
    assert verdict.prediction_set is None
    assert verdict.because.startswith("outside this model's training domain: score 3.00, limit 2.00")


def test_without_a_limit_nobody_is_outside(card):
    verdict = assess_trust(trusting(card, limit=None), np.array([0.98, 0.01, 0.01]), np.array([99.0]))
    assert verdict.out_of_domain is None
    assert verdict.domain_score == 99
    assert verdict.because == ""


def test_sets_hold_for_their_own_aggregator(card):
    p = np.array([0.41, 0.45, 0.14])
    assert assess_trust(trusting(card), p, INSIDE, aggregator="attention").prediction_set is None
    assert (
        assess_trust(trusting(card, aggregator="attention"), p, INSIDE, aggregator="attention").prediction_set
        is not None
    )


def test_without_trust_the_model_always_answers(card):
    verdict = assess_trust(card, np.array([0.34, 0.33, 0.33]))
    assert (verdict.prediction_set, verdict.out_of_domain, verdict.domain_score, verdict.because) == (
        None,
        None,
        None,
        "",
    )
    unsure = card.model_copy(update={"abstention": Abstention(method="given", min_probability=0.5)})
    assert "below the model's limit of 0.50" in assess_trust(unsure, np.array([0.34, 0.33, 0.33])).because


def test_a_card_without_trust_stays_valid_and_a_detector_has_no_prediction_sets(card):
    assert Card.model_validate(card.model_dump(mode="json")) == card
    sets = {"conformal": {"method": "lac", "coverage": 0.9, "threshold": 0.5, "n": 64, "unit": "slides"}}
    detector = card.model_dump(mode="json") | {"task": "detection", "detection": {"threshold": 0.5}, "trust": sets}
    with pytest.raises(ValueError, match="valid for classifiers only"):
        Card.model_validate(detector)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "LMS"),
        ({"status": "abstained", "prediction": None}, "no prediction"),
        ({"status": "abstained", "prediction": None, "prediction_set": ("UPS", "LMS")}, "inconclusive: UPS or LMS"),
        (
            {"status": "abstained", "prediction": None, "prediction_set": ()},
            "inconclusive: no class is probable enough",
        ),
        ({"status": "abstained", "prediction": None, "out_of_domain": True}, "outside this model's training domain"),
        ({"status": "failed", "prediction": None}, ""),
    ],
)
def test_what_is_said_of_a_slide(fields, said):
    base = {"slide_id": "s", "path": "s", "status": "scored", "model": "m", "model_sha256": "", "prediction": "LMS"}
    assert SlideResult.model_validate({**base, **fields}).answer == said

"""Follow-up of the awkward kinds: ties, heavy censoring, events and censoring at one time."""

import numpy as np
import pytest

from pathology.survival.outcome import Outcome

KINDS = {
    "plain": {"n": 120, "ties": False, "censoring": 0.4},
    "ties": {"n": 120, "ties": True, "censoring": 0.4},
    "heavy censoring": {"n": 200, "ties": False, "censoring": 0.9},
    "heavy censoring and ties": {"n": 200, "ties": True, "censoring": 0.85},
    "no censoring": {"n": 60, "ties": True, "censoring": 0.0},
}


def _make(n, *, ties, censoring, seed=0, effect=1.0):
    """Exponential times with one covariate; about ``censoring`` of the patients are censored at random times."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    time = rng.exponential(1000 * np.exp(-effect * x))
    event = rng.random(n) >= censoring
    time = np.where(event, time, time * rng.random(n))
    if ties:
        time = np.ceil(time / 100) * 100
    return x, Outcome(time + 1, event)


@pytest.fixture(params=list(KINDS), ids=lambda k: k.replace(" ", "-"))
def follow_up(request):
    """(training outcome, test outcome, test risk with ties) of one kind."""
    x, outcome = _make(**KINDS[request.param])
    half = len(x) // 2
    train, test = outcome.take(np.arange(half)), outcome.take(np.arange(half, len(x)))
    return train, test, x[half:].round(1)


@pytest.fixture(scope="session")
def make_follow_up():
    """The function that makes follow-up of a wanted kind: ``(covariate, outcome)``."""
    return _make

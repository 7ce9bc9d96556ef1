"""Losses equal torchsurv, pycox and their definitions."""

import numpy as np
import pytest
import torch

from pathology.survival.models.cox import partial_log_likelihood
from pathology.survival.models.losses import cosine_distance_loss, cox_loss, deephit_loss, logistic_hazard_loss
from pathology.survival.outcome import Outcome

# np.random.default_rng(11).normal(size=(7, 5)) as float32; the values below are pycox 0.3.0's on it.
LOGITS = torch.from_numpy(np.random.default_rng(11).normal(size=(7, 5)).astype(np.float32))
INTERVAL = torch.tensor([0, 4, 2, 2, 1, 3, 2])
EVENT = torch.tensor([1, 0, 1, 0, 1, 1, 1]).bool()


def test_discrete_losses_equal_pycox():
    assert float(logistic_hazard_loss(LOGITS, INTERVAL, EVENT)) == pytest.approx(2.497781991958618, abs=1e-6)
    assert float(deephit_loss(LOGITS, INTERVAL, EVENT, alpha=1)) == pytest.approx(2.162647008895874, abs=1e-6)
    assert float(deephit_loss(LOGITS, INTERVAL, EVENT, alpha=0)) == pytest.approx(3.9048264026641846, abs=2e-6)
    assert float(deephit_loss(LOGITS, INTERVAL, EVENT, alpha=0.2, sigma=0.1)) == pytest.approx(3.55639052, abs=2e-6)


@pytest.mark.parametrize("seed", range(5))
def test_discrete_losses_equal_their_definitions(seed):
    rng = np.random.default_rng(seed)
    n, k = 12, 6
    phi = rng.normal(size=(n, k))
    where, event = rng.integers(0, k, n), rng.random(n) < 0.5
    event[0] = True
    total = 0.0
    for i in range(n):
        hazard = 1 / (1 + np.exp(-phi[i]))
        for j in range(where[i]):
            total -= np.log(1 - hazard[j])
        total -= np.log(hazard[where[i]] if event[i] else 1 - hazard[where[i]])
    args = torch.tensor(phi), torch.tensor(where), torch.tensor(event)
    assert float(logistic_hazard_loss(*args)) == pytest.approx(total / n, abs=1e-9)

    mass = np.exp(np.c_[phi, np.zeros(n)])
    mass /= mass.sum(axis=1, keepdims=True)
    incidence = mass.cumsum(axis=1)
    likelihood = -np.mean(
        [np.log(mass[i, where[i]]) if event[i] else np.log(mass[i, where[i] + 1 :].sum()) for i in range(n)]
    )
    ranking = 0.0
    for i in range(n):
        for j in range(n):
            if event[i] and (where[i] < where[j] or (where[i] == where[j] and not event[j])):
                ranking += np.exp(-(incidence[i, where[i]] - incidence[j, where[i]]) / 0.3)
    expected = 0.4 * likelihood + 0.6 * ranking / n**2
    assert float(deephit_loss(*args, alpha=0.4, sigma=0.3)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("censoring", [0.0, 0.5, 0.9])
def test_cox_loss_is_the_partial_likelihood(make_follow_up, ties, censoring):
    x, outcome = make_follow_up(80, ties=ties, censoring=censoring)
    eta = torch.tensor(x + 5, dtype=torch.float32)
    loss = float(cox_loss(eta, torch.tensor(outcome.time), torch.tensor(outcome.event)))
    # torchsurv takes the mean over distinct event times.
    times = len(np.unique(outcome.time[outcome.event]))
    assert loss * times == pytest.approx(-partial_log_likelihood(outcome, x), rel=1e-5)


def test_cox_loss_without_events_and_with_large_risks_is_finite():
    eta = torch.tensor([1000.0, -1000.0, 0.0], requires_grad=True)
    time = torch.tensor([1.0, 2.0, 3.0])
    none = cox_loss(eta, time, torch.zeros(3, dtype=torch.bool))
    none.backward()
    assert float(none.detach()) == 0
    assert torch.isfinite(cox_loss(eta, time, torch.tensor([True, True, False])))


def test_partial_likelihood_by_hand():
    # Deaths at 1 and 2, one censored at 3; equal risks: log(1/3) + log(1/2).
    outcome = Outcome([1, 2, 3], [1, 1, 0])
    assert partial_log_likelihood(outcome, [0, 0, 0]) == pytest.approx(np.log(1 / 3) + np.log(1 / 2))
    # Two deaths at one time, Efron: log(1/3) + log(1/2) too; Breslow would give 2 log(1/3).
    assert partial_log_likelihood(Outcome([1, 1, 3], [1, 1, 0]), [0, 0, 0]) == pytest.approx(np.log(1 / 6))


def test_cosine_distance_by_hand():
    output = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    target = torch.tensor([[0.0, 3.0], [2.0, 2.0], [0.0, 1.0]])
    # 90 degrees: 1; same direction: 0; opposite: 2.
    assert float(cosine_distance_loss(output, target, torch.ones(3))) == pytest.approx(1.0)
    assert float(cosine_distance_loss(output, target, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(0.5)
    assert float(cosine_distance_loss(output, target, torch.tensor([0.0, 0.0, 3.0]))) == pytest.approx(2.0)
    assert float(cosine_distance_loss(output, target, torch.zeros(3))) == 0

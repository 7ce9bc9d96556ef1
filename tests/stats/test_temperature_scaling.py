"""Temperature scaling: the known temperature is found, and figures equal torchmetrics'."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from pathology.errors import UsageError
from pathology.stats.classification import expected_calibration_error
from pathology.stats.temperature_scaling import fit_temperature, negative_log_likelihood, reliability, tempered


def sample(temperature, n=20_000, classes=4, seed=0):
    """Logits that are too sure by a known factor, and labels drawn from what they should have been."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (n, classes))
    p = np.exp(true) / np.exp(true).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_finds_the_temperature_and_removes_the_calibration_error(temperature):
    logits, labels = sample(temperature)
    fit = fit_temperature(logits, labels)
    assert fit.temperature == pytest.approx(temperature, rel=0.04)
    raw = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    after = expected_calibration_error(labels, tempered(raw, fit.temperature))
    assert after < 0.015
    if temperature != 1:
        assert expected_calibration_error(labels, raw) > 0.05


def test_loss_equals_torch():
    logits, labels = sample(2.0, n=50)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits) / 1.7, torch.from_numpy(labels), reduction="none"
    )
    np.testing.assert_allclose(negative_log_likelihood(logits, labels, 1.7), expected.numpy(), rtol=1e-12)


def test_minimum_equals_a_search_with_torch():
    logits, labels = sample(2.5, n=400, seed=3)
    log_temperature = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([log_temperature], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        search.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits) / log_temperature.exp(), torch.tensor(labels))
        loss.backward()
        return loss

    search.step(closure)
    assert fit_temperature(logits, labels).temperature == pytest.approx(float(log_temperature.exp().detach()), rel=1e-4)


def test_each_patient_weighs_the_same():
    logits, labels = sample(1.0, n=300)
    many = np.concatenate([logits, np.repeat(logits[:1], 500, axis=0)])
    truth = np.concatenate([labels, np.repeat((labels[:1] + 1) % 4, 500)])
    groups = [f"p{i}" for i in range(300)] + ["loud"] * 500
    assert fit_temperature(many, truth, groups=groups).temperature < 1.3
    assert fit_temperature(many, truth).temperature > 2
    assert fit_temperature(many, truth, groups=groups).groups == 301


@pytest.mark.parametrize("patients", [1, 2, 3, 10])
def test_few_patients_called_right_do_not_make_a_model_certain(patients):
    """Without a bound the likelihood of a separable set has its maximum at certainty."""
    labels = np.repeat(np.arange(patients) % 2, 20)
    logits = np.random.default_rng(0).uniform(0.2, 0.6, (len(labels), 2)) * 0.1
    logits[np.arange(len(labels)), labels] += 0.4
    fit = fit_temperature(logits, labels, groups=np.repeat(np.arange(patients), 20))
    raw = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    surest = tempered(raw, fit.temperature).max(axis=1).mean()
    assert surest == pytest.approx((patients + 1) / (patients + 2), abs=1e-6)
    assert fit.temperature < 1
    # A model that is already surer than so few patients can show is not made surer still.
    assert fit_temperature(logits * 100, labels, groups=np.repeat(np.arange(patients), 20)).temperature == 1


def test_few_patients_called_wrong_give_a_finite_temperature():
    fit = fit_temperature(np.array([[5.0, 0.0], [5.0, 0.0]]), [1, 1], groups=["a", "a"])
    assert 1 < fit.temperature <= np.exp(4)
    assert fit.loss_after == pytest.approx(np.log(2), abs=0.1)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 40))
def test_loss_never_rises(seed, classes, n):
    random = np.random.default_rng(seed)
    fit = fit_temperature(random.normal(0, 3, (n, classes)), random.integers(0, classes, n))
    assert fit.loss_after <= fit.loss_before


def test_calibration_error_and_bins_equal_torchmetrics():
    logits, labels = sample(2.0, n=3000)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    reference = float(
        multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(labels), 4, n_bins=15, norm="l1")
    )
    assert expected_calibration_error(labels, p) == pytest.approx(reference, abs=1e-6)
    bins = reliability(labels, p)
    assert sum(b.n for b in bins) == 3000
    again = sum(abs(b.accuracy - b.confidence) * b.n for b in bins if b.n) / 3000
    assert again == pytest.approx(reference, abs=1e-6)


def test_tempering_keeps_order_and_gaps():
    p = np.array([[0.7, 0.2, 0.1], [np.nan, np.nan, np.nan], [1.0, 0.0, 0.0]])
    cooler = tempered(p, 2.0)
    assert np.isnan(cooler[1]).all()
    assert cooler[0].argmax() == 0
    assert cooler[0, 0] < 0.7
    assert cooler[2, 0] == pytest.approx(1, abs=1e-5)


def test_bad_input():
    with pytest.raises(UsageError, match="expected"):
        fit_temperature(np.zeros((0, 3)), [])
    with pytest.raises(UsageError, match="not finite"):
        fit_temperature(np.array([[np.nan, 1.0]]), [0])

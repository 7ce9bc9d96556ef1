import math

import pytest

from pathology.training.common.lr_finder import find_rate, steepest_rate


def test_the_steepest_fall_of_a_curve_with_one_is_found():
    centre = math.log10(3e-3)

    def loss(rate):
        # A step down around the centre, then an explosion from 0.5 on.
        x = math.log10(rate)
        return 2 - 1 / (1 + math.exp(-4 * (x - centre))) + (100 if rate > 0.5 else 0)

    found = find_rate(loss)
    assert 1e-3 < found < 0.1  # smoothing shifts it to the right


def test_an_explosion_ends_the_sweep():
    asked = []

    def loss(rate):
        asked.append(rate)
        return 1.0 if rate < 1e-4 else math.inf

    assert find_rate(loss) < 1e-4
    assert len(asked) < 60


def test_the_ends_do_not_count():
    rates = [10.0**-k for k in range(30, 0, -1)]
    losses = [5.0] * 30
    losses[2], losses[15:] = 0.0, [4.0] * 15
    assert steepest_rate(rates, losses) in rates[10:-5]
    assert steepest_rate([1e-3, 1e-2], [1.0, 2.0]) == pytest.approx(1e-3)

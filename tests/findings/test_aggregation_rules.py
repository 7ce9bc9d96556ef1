import numpy as np
import pytest

from pathology.errors import NoTissueError, UsageError
from pathology.findings.aggregation import (
    RULES,
    average_probability,
    majority_vote,
    share_of_selected,
    top_patches,
)

# Worked by hand: four patches, three classes.
PATCHES = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])


def test_average_probability_by_hand():
    np.testing.assert_allclose(average_probability(PATCHES), [1.6 / 4, 1.7 / 4, 0.7 / 4])


def test_share_of_selected_by_hand():
    np.testing.assert_allclose(share_of_selected(PATCHES), [0.5, 0.25, 0.25])
    # At 0.4: class 0 in patches 0, 1; class 1 in patches 1, 2; class 2 in patch 3.
    np.testing.assert_allclose(share_of_selected(PATCHES, 0.4), [0.4, 0.4, 0.2])
    # At 0.75 one patch is selected, for class 1.
    np.testing.assert_allclose(share_of_selected(PATCHES, 0.75), [0, 1, 0])
    np.testing.assert_allclose(share_of_selected(PATCHES, 0.95), [1 / 3] * 3)


def test_the_two_rules_may_disagree():
    # The mean leads with class 1, the share with class 0: why both are reported.
    assert average_probability(PATCHES).argmax() == 1
    assert share_of_selected(PATCHES).argmax() == 0


def test_majority_and_top_by_hand():
    np.testing.assert_array_equal(majority_vote(PATCHES), [1, 0, 0])
    np.testing.assert_array_equal(majority_vote(PATCHES[[0, 2]]), [0, 1, 0])  # one vote each, class 1 is surer
    top = np.array([0.6, 0.6, 0.25])
    np.testing.assert_allclose(top_patches(PATCHES, 2), top / top.sum())
    np.testing.assert_allclose(top_patches(PATCHES, 99), average_probability(PATCHES))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_passes_over_unreadable_patches(name):
    gappy = np.vstack([PATCHES[:2], [[np.nan] * 3], PATCHES[2:]])
    result = RULES[name](gappy)
    np.testing.assert_allclose(result, RULES[name](PATCHES))
    assert result.sum() == pytest.approx(1)
    with pytest.raises(NoTissueError):
        RULES[name](np.full((2, 3), np.nan))


def test_wrong_shapes_are_refused():
    with pytest.raises(UsageError):
        average_probability(np.zeros(3))
    with pytest.raises(UsageError):
        top_patches(PATCHES, 0)

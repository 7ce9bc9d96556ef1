import numpy as np
import pytest

from pathology.errors import NoTissueError
from pathology.findings.aggregation import aggregate
from pathology.settings import GridSettings


def test_by_hand():
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [np.nan, np.nan], [0.1, 0.9]], np.float32)
    tissue = np.array([1.0, 0.5, 1.0, 1.0], np.float32)
    found = aggregate(probabilities, tissue, GridSettings(patch=100, mpp=1.0, stride=100))
    assert found.probabilities == pytest.approx([1.3 / 3, 1.7 / 3])
    assert found.areas_mm2 == pytest.approx([0.01, 0.015])
    assert found.shares == pytest.approx([0.4, 0.6])
    assert (found.scored, found.masked, found.predicted) == (3, 1, 1)


def test_overlapping_patches_count_no_tissue_twice():
    probabilities = np.array([[1.0, 0.0]] * 4, np.float32)
    found = aggregate(probabilities, np.ones(4, np.float32), GridSettings(patch=100, mpp=1.0, stride=50))
    assert found.areas_mm2.sum() == pytest.approx(4 * 0.05**2)


def test_gaps_between_patches_count_as_nothing():
    probabilities = np.array([[1.0, 0.0]], np.float32)
    found = aggregate(probabilities, np.ones(1, np.float32), GridSettings(patch=100, mpp=1.0, stride=200))
    assert found.areas_mm2.sum() == pytest.approx(0.1**2)


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_to_aggregate(rows):
    with pytest.raises(NoTissueError):
        aggregate(np.full((rows, 2), np.nan, np.float32), np.ones(rows, np.float32), GridSettings())

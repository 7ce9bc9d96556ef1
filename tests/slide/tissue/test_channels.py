"""Reductions over channels are numpy's own, to the last bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pathology.slide.tissue.channels import largest_channel, mean_of_channels, smallest_channel, sum_of_channels

PIXELS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)), elements=st.floats(-4, 4, width=32)
)


@given(PIXELS)
def test_floats(pixels):
    before = pixels.copy()
    for ours, numpys in (
        (sum_of_channels, np.sum),
        (mean_of_channels, np.mean),
        (largest_channel, np.max),
        (smallest_channel, np.min),
    ):
        found = ours(pixels)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, numpys(pixels, axis=2))
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(("ours", "numpys"), [(largest_channel, np.max), (smallest_channel, np.min)])
def test_bytes(ours, numpys):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(ours(pixels), numpys(pixels, axis=2))

"""Mask operations against scipy's and scikit-image's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import measure, morphology

from pathology.slide.tissue.masks import (
    choose_components,
    close_gaps,
    dilate,
    fill_holes,
    keep_components,
    number_pieces,
    remove_thin,
)

CROSS, SQUARE = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)


@st.composite
def masks(draw):
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return ndimage.uniform_filter(rng.random(shape), draw(st.integers(1, 3))) > draw(st.floats(0.3, 0.7))


def octagon(mask, radius):
    for step in range(radius):
        mask = ndimage.binary_dilation(mask, SQUARE if step % 2 else CROSS)
    return mask


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 6))
def test_dilation_equals_scipys(mask, radius):
    np.testing.assert_array_equal(dilate(mask, radius), octagon(mask, radius))


@settings(max_examples=40, deadline=None)
@given(masks(), st.integers(1, 5))
def test_closing_keeps_the_mask_and_does_not_grow_towards_the_border(mask, radius):
    closed = close_gaps(mask, radius)
    assert (closed | ~mask).all()
    # As if the image went on forever, empty.
    wide = np.pad(mask, 3 * radius)
    expected = ~octagon(~octagon(wide, radius), radius)
    inner = expected[3 * radius : -3 * radius, 3 * radius : -3 * radius]
    np.testing.assert_array_equal(closed, inner)


@settings(max_examples=40, deadline=None)
@given(masks(), st.integers(1, 3))
def test_removing_the_thin_leaves_a_part(mask, radius):
    rest = remove_thin(mask, radius)
    assert (mask | ~rest).all()
    np.testing.assert_array_equal(rest, octagon(~octagon(~mask, radius), radius))


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 30))
def test_small_components_go(mask, smallest):
    expected = morphology.remove_small_objects(mask, max_size=max(0, smallest - 1), connectivity=2)
    np.testing.assert_array_equal(keep_components(mask, smallest=smallest), expected)


def test_components_need_seeds():
    mask = np.zeros((10, 30), bool)
    mask[2:8, 2:8] = mask[2:8, 12:18] = mask[2:8, 22:28] = True
    seed = np.zeros_like(mask)
    seed[2:5, 2:8] = True  # half
    seed[2, 12] = True  # one
    seed[0, 25] = True  # outside
    assert measure.label(keep_components(mask, seed=seed)).max() == 2
    kept = keep_components(mask, seed=seed, share=0.4)
    assert kept[5, 5]
    assert not kept[:, 10:].any()


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(0, 30))
def test_holes_are_filled_up_to_a_size(mask, largest):
    filled = fill_holes(mask, largest, np.zeros_like(mask))
    labels = measure.label(~mask, connectivity=1)
    for region in measure.regionprops(labels):
        y0, x0, y1, x1 = region.bbox
        enclosed = y0 > 0 and x0 > 0 and y1 < mask.shape[0] and x1 < mask.shape[1]
        assert filled[labels == region.label].all() == (enclosed and region.area <= largest)
    assert (filled | ~mask).all()


def test_a_hole_with_a_barrier_stays():
    mask = np.ones((9, 20), bool)
    mask[3:6, 3:6] = mask[3:6, 12:15] = False
    barrier = np.zeros_like(mask)
    barrier[4, 4] = True
    filled = fill_holes(mask, 100, barrier)
    assert not filled[4, 4]
    assert filled[4, 13]


def test_components_are_shown_with_their_margin():
    mask = np.zeros((20, 30), bool)
    mask[0:3, 0:4] = mask[10:15, 10:20] = True
    seen = []

    def wanted(inside, place):
        seen.append((inside.sum(), inside.shape, place))
        return inside.sum() > 20

    chosen = choose_components(mask, wanted, smallest=5, margin=2)
    assert seen == [(12, (5, 6), (slice(0, 5), slice(0, 6))), (50, (9, 14), (slice(8, 17), slice(8, 22)))]
    np.testing.assert_array_equal(chosen, mask & (np.arange(20) >= 10)[:, None])


def test_more_pieces_than_16_bits_can_number_are_all_told_apart():
    mask = np.zeros((520, 520), bool)
    mask[::2, ::2] = True  # 67,600 single pixels
    labels, n = number_pieces(mask)
    expected, count = ndimage.label(mask)
    assert n == count == 67_600
    np.testing.assert_array_equal(labels, expected)


@settings(max_examples=30, deadline=None)
@given(masks(), st.sampled_from([None, SQUARE]))
def test_pieces_are_numbered_as_scipy_does(mask, structure):
    labels, n = number_pieces(mask, structure)
    expected, count = ndimage.label(mask, structure)
    assert n == count
    np.testing.assert_array_equal(labels, expected)

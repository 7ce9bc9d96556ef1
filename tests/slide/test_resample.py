import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from pathology.slide.readers.base import Rect
from pathology.slide.resample import choose_scaling, read_scaled
from pathology.testing.array_reader import ArrayReader


def picture(height, width, seed=0):
    """Smooth colours with fine detail on top."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 220, (height // 16 + 2, width // 16 + 2, 3)).astype(float)
    smooth = resize(coarse, (height, width, 3), order=1)
    return np.clip(smooth + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("downsamples", "scale", "level", "reduction", "rest"),
    [
        ((1,), 1.0, 0, 1, 1.0),
        ((1,), 4.0, 0, 4, 1.0),
        ((1, 4, 16), 4.0, 1, 1, 1.0),
        ((1, 4, 16), 8.0, 1, 2, 1.0),
        ((1,), 1.0 / 0.499, 0, 2, 1.0 / 0.499 / 2),
        ((1,), 1.0 / 0.501, 0, 2, 1.0 / 0.501 / 2),
        ((1,), 1.5, 0, 1, 1.5),
        ((1,), 0.5, 0, 1, 0.5),
    ],
)
def test_scaling_is_the_cheapest_that_loses_nothing(downsamples, scale, level, reduction, rest):
    reader = ArrayReader(picture(64, 64), downsamples=downsamples)
    chosen = choose_scaling(reader, scale)
    assert (chosen.level, chosen.reduction) == (level, reduction)
    assert chosen.rest == pytest.approx(rest)


def test_native_scale_is_a_copy():
    source = picture(100, 120)
    reader = ArrayReader(source)
    region = read_scaled(reader, choose_scaling(reader, 1.0), Rect(10, 20, 50, 40))
    np.testing.assert_array_equal(region.pixels, source[20:60, 10:60])


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_whole_factors_are_exact_means(factor):
    source = picture(120, 150)
    reader = ArrayReader(source)
    region = read_scaled(reader, choose_scaling(reader, factor), Rect(3, 2, 20, 15))
    part = source[2 * factor : 17 * factor, 3 * factor : 23 * factor].astype(float)
    expected = part.reshape(15, factor, 20, factor, 3).mean((1, 3))
    assert np.abs(region.pixels - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("scale", [0.5, 1.002, 1.5, 1.9, 2.004, 2.7, 3.3])
def test_any_scale_is_near_an_independent_resampling(scale):
    source = picture(400, 400)
    size = int(400 / scale)
    reader = ArrayReader(source)
    got = read_scaled(reader, choose_scaling(reader, scale), Rect(0, 0, size, size)).pixels.astype(float)
    extent = round(size * scale)
    expected = resize(source[:extent, :extent].astype(float), (size, size), order=1, anti_aliasing=scale > 1)
    inner = slice(8, -8)
    assert np.abs(got - expected)[inner, inner].mean() < 2.5


@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from([0.7, 1.0, 1.002, 1.37, 2.0, 2.004, 3.9]),
    x=st.integers(0, 40),
    y=st.integers(0, 40),
)
def test_a_pixel_does_not_depend_on_the_region_it_is_read_with(scale, x, y):
    reader = ArrayReader(picture(400, 400))
    scaling = choose_scaling(reader, scale)
    whole = read_scaled(reader, scaling, Rect(0, 0, 80, 80)).pixels.astype(int)
    part = read_scaled(reader, scaling, Rect(x, y, 30, 30)).pixels.astype(int)
    # Interpolation weights are rounded to 1/32 pixel relative to the region: at most a level or two.
    assert np.abs(whole[y : y + 30, x : x + 30] - part).max() <= 3


def test_unreadable_tiles_are_reported_at_the_target_scale():
    reader = ArrayReader(picture(256, 256), tile=64, damaged=[(0, 1, 1)])
    region = read_scaled(reader, choose_scaling(reader, 2.0), Rect(0, 0, 128, 128))
    assert region.unreadable == (Rect(32, 32, 32, 32),)
    rest = read_scaled(reader, choose_scaling(reader, 1.5), Rect(0, 0, 128, 128))
    (bad,) = rest.unreadable
    assert bad.x <= 64 / 1.5
    assert bad.y <= 64 / 1.5
    assert bad.x + bad.width >= 128 / 1.5
    assert bad.y + bad.height >= 128 / 1.5


def test_outside_the_slide_is_white():
    reader = ArrayReader(np.zeros((64, 64, 3), np.uint8))
    region = read_scaled(reader, choose_scaling(reader, 1.5), Rect(-100, -100, 20, 20))
    assert (region.pixels == 255).all()

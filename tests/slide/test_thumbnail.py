"""The whole slide at a coarse scale: exact averages, every band, nothing read twice."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import UsageError
from pathology.slide.readers.base import Level, Rect, Region, SlideReader, TileCounts
from pathology.slide.thumbnail import Reduction, thumbnail


class ArraySlide(SlideReader):
    """Arrays as levels; counts what is read and pretends that one tile is broken."""

    backend = "array"

    def __init__(self, *levels, tile=(32, 32), broken=None):
        self.path = Path("array")
        self.arrays = levels
        width = levels[0].shape[1]
        self.levels = tuple(Level(a.shape[1], a.shape[0], width / a.shape[1], tile) for a in levels)
        self.mpp = 0.5
        self.objective_power = None
        self.fingerprint = "0" * 64
        self.broken = broken
        self.pixels_read = 0
        self.largest = 0

    tile_counts = property(lambda self: TileCounts())
    unreadable_tiles = frozenset()

    def close(self):
        pass

    def _read(self, level, x, y, w, h):
        pixels = self.arrays[level][y : y + h, x : x + w].copy()
        assert pixels.shape[:2] == (h, w), "the thumbnail asked for pixels outside the level"
        self.pixels_read += w * h
        self.largest = max(self.largest, w * h)
        if self.broken is None:
            return Region(pixels)
        bad = self.broken
        left, top = max(x, bad.x), max(y, bad.y)
        right, bottom = min(x + w, bad.x + bad.width), min(y + h, bad.y + bad.height)
        if right <= left or bottom <= top:
            return Region(pixels)
        pixels[top - y : bottom - y, left - x : right - x] = 255
        return Region(pixels, (Rect(left - x, top - y, right - left, bottom - top),))


def exact(image, out_height, out_width):
    """Area average by integrating a piecewise constant image."""

    def along(values, out):
        size = values.shape[0]
        total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0, dtype=np.float64)])
        edges = np.arange(out + 1) * size / out
        whole = np.minimum(edges.astype(int), size - 1)
        rest = (edges - whole).reshape(-1, *[1] * (values.ndim - 1))
        at = total[whole] + rest * values[whole]
        return np.diff(at, axis=0) * out / size

    return np.swapaxes(along(np.swapaxes(along(image, out_height), 0, 1), out_width), 0, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.floats(0.5, 12),
    st.sampled_from([(32, 32), (150, 4), (16, 64)]),
    st.integers(0, 99),
)
def test_equals_the_exact_area_average(height, width, target, tile, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    slide = ArraySlide(image, tile=tile)
    result = thumbnail(slide, 0.5, target)
    expected = exact(image, *result.pixels.shape[:2])
    assert result.pixels.shape[0] == max(1, round(height / (target / 0.5)))
    # Half a level for rounding, and float32 sums.
    assert np.abs(result.pixels - expected).max() <= 0.51
    assert slide.pixels_read == height * width


def test_reads_in_bands_however_large_the_level():
    slide = ArraySlide(np.zeros((6000, 3000, 3), np.uint8), tile=(256, 256))
    result = thumbnail(slide, 0.5, 8.0)
    assert result.pixels.shape == (375, 188, 3)
    assert slide.pixels_read == 6000 * 3000
    assert slide.largest <= 4_000_000
    strips = ArraySlide(np.zeros((4000, 3000, 3), np.uint8), tile=(3000, 4000))
    thumbnail(strips, 0.5, 8.0)
    assert strips.largest <= 4_000_000


def test_takes_the_coarsest_level_that_is_fine_enough():
    levels = [np.full((n, n, 3), value, np.uint8) for n, value in ((512, 10), (128, 20), (32, 30))]
    assert thumbnail(ArraySlide(*levels), 0.5, 2.0).level == 1
    assert thumbnail(ArraySlide(*levels), 0.5, 7.9).pixels.max() == 20
    assert thumbnail(ArraySlide(*levels), 0.5, 8.0).pixels.max() == 30


def test_a_coarse_slide_is_not_magnified():
    result = thumbnail(ArraySlide(np.zeros((40, 30, 3), np.uint8)), 10.0, 8.0)
    assert result.pixels.shape == (40, 30, 3)
    assert result.mpp == 10.0


def test_unreadable_tiles_are_white_and_reported_in_level0_pixels():
    fine, coarse = np.zeros((256, 256, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    slide = ArraySlide(fine, coarse, tile=(16, 16), broken=Rect(16, 32, 16, 16))
    result = thumbnail(slide, 0.5, 4.0)
    assert result.level == 1
    assert result.unreadable == (Rect(64, 128, 64, 64),)
    white = np.zeros((32, 32), bool)
    white[16:24, 8:16] = True
    np.testing.assert_array_equal(result.pixels.min(axis=2) == 255, white)


@pytest.mark.parametrize("scales", [(0, 8), (0.5, 0), (-1, 8)])
def test_a_scale_must_be_positive(scales):
    with pytest.raises(UsageError, match="positive"):
        thumbnail(ArraySlide(np.zeros((8, 8, 3), np.uint8)), *scales)


def test_parts_without_interest_are_passed_over_and_white():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 200, (1024, 4096, 3), np.uint8)
    slide = ArraySlide(image, tile=(256, 256))
    within = np.zeros((8, 32), bool)
    within[5, 20] = True  # rows 640 to 767, columns 2560 to 2687
    whole = thumbnail(slide, 0.5, 1.3).pixels
    read_before = slide.pixels_read
    part = np.concatenate(list(Reduction(slide, 0.5, 1.3, within).bands()))
    assert part.shape == whole.shape
    assert slide.pixels_read - read_before < image.shape[0] * image.shape[1] / 4
    wanted = np.s_[int(640 / 2.6) : int(768 / 2.6), int(2560 / 2.6) : int(2688 / 2.6)]
    np.testing.assert_array_equal(part[wanted], whole[wanted])
    white = (part == 255).all(axis=2)
    assert white.mean() > 0.7


def test_a_band_of_nothing_is_exactly_white():
    slide = ArraySlide(np.zeros((300, 700, 3), np.uint8), tile=(64, 64))
    part = np.concatenate(list(Reduction(slide, 0.5, 1.7, np.zeros((3, 7), bool)).bands()))
    assert (part == 255).all()
    assert slide.pixels_read == 0

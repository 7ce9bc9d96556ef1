"""Focus: planted defocus is found, sharp tissue is not called blurred, and every band is judged alike."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pathology.slide.thumbnail import thumbnail
from pathology.slide.tissue.detect import find_tissue
from pathology.slide.tissue.focus import COARSEST_MPP, find_focus
from pathology.testing.array_reader import ArrayReader
from pathology.testing.planted import PlantedSlide, synthetic_tissue


def drawn(shape=(768, 1024), mpp=1.0, seed=0):
    slide = PlantedSlide.of_glass(shape, mpp, seed, (244, 243, 244))
    where = np.zeros(shape, bool)
    where[:, : shape[1] * 7 // 8] = True
    slide.tissue(where, synthetic_tissue((512, 512), slide.rng, mpp=mpp))
    return slide


def judged(pixels, mpp):
    reader = ArrayReader(pixels, mpp=mpp, tile=128)
    overview = thumbnail(reader, mpp, 8.0)
    return find_focus(reader, mpp, find_tissue(overview.pixels, overview.mpp))


def cells(mask, shape):
    """Share of each cell that a mask covers."""
    rows, columns = (np.arange(n + 1) * size // n for n, size in zip(shape, mask.shape, strict=True))
    sums = np.add.reduceat(np.add.reduceat(mask.astype(float), rows[:-1], axis=0), columns[:-1], axis=1)
    return sums / np.outer(np.diff(rows), np.diff(columns))


@pytest.mark.parametrize("sigma", [3.0, 6.0, 10.0])
def test_planted_defocus_is_found_where_it_is(sigma):
    slide = drawn()
    where = np.zeros(slide.shape, bool)
    where[:, :448] = True
    slide.defocus(where, sigma)
    focus = judged(slide.pixels(0.5), 1.0)
    share = cells(where, focus.blurred.shape)
    tissue = np.isfinite(focus.ratio)
    # Squares are pooled with their neighbours, so those along the border are left out.
    inside = ndimage.binary_erosion(share == 1, np.ones((3, 3)), border_value=1) & tissue
    outside = ndimage.binary_erosion(share == 0, np.ones((3, 3)), border_value=1) & tissue
    assert inside.sum() > 50
    assert outside.sum() > 50
    assert focus.blurred[inside].mean() > 0.95
    assert focus.blurred[outside].mean() < 0.02


def test_glass_is_not_judged():
    focus = judged(drawn().pixels(0.5), 1.0)
    assert not np.isfinite(focus.ratio[:, -1]).any()
    assert not focus.blurred[:, -1].any()


def test_the_result_does_not_depend_on_the_bands():
    # 12 rows of squares come in two batches; upside down the same rows fall into other batches.
    pixels = drawn((768, 512)).pixels(0.5)
    upright, turned = judged(pixels, 1.0), judged(pixels[::-1].copy(), 1.0)
    np.testing.assert_allclose(upright.ratio, turned.ratio[::-1], rtol=1e-4)


def test_a_slide_too_coarse_is_not_judged():
    reader = ArrayReader(np.full((64, 64, 3), 200, np.uint8), mpp=COARSEST_MPP * 2)
    overview = thumbnail(reader, COARSEST_MPP * 2, 8.0)
    focus = find_focus(reader, COARSEST_MPP * 2, find_tissue(overview.pixels, overview.mpp))
    assert focus.mpp is None
    assert not focus.blurred.any()


def test_real_fields_are_sharp_and_blurred_ones_are_not(data_dir):
    paths = sorted((data_dir / "osteosarcoma").glob("*/*.jpg"))[::3]
    sharp, blurred = [], []
    for path in paths:
        field = np.asarray(Image.open(path).convert("RGB"))
        for sigma, results in ((0, sharp), (3, blurred)):
            pixels = ndimage.gaussian_filter(field, (sigma, sigma, 0)) if sigma else field
            focus = judged(pixels, 1.0)
            tissue = np.isfinite(focus.ratio)
            results.append((np.count_nonzero(focus.blurred), np.count_nonzero(tissue)))
    (false, among), (found, of) = np.sum(sharp, axis=0), np.sum(blurred, axis=0)
    assert among > 2000
    assert false / among < 0.005
    assert found / of > 0.93

"""How large slides are shown, and where their pixels then lie."""

import io

import numpy as np
import pytest
from PIL import Image

from pathology.errors import UsageError
from pathology.outputs.figures.thumbnail import SlidePicture, jpeg, picture_size


@pytest.mark.parametrize(
    ("dimensions", "size"),
    [
        ((100_000, 50_000), (1600, 800)),
        ((2220, 2967), (1197, 1600)),
        ((1600, 1200), (1600, 1200)),
        ((1000, 600), (1000, 600)),
        ((200, 100), (400, 200)),
        ((20, 60), (160, 480)),
        ((3, 1), (24, 8)),
        ((100_000, 10), (1600, 1)),
    ],
)
def test_picture_size(dimensions, size):
    assert picture_size(dimensions, 1600) == size


def test_the_scale_follows_a_resize_exactly(noise):
    picture = SlidePicture(noise, (4.0, 4.0))
    for size in ((97, 41), (250, 200), (1000, 800)):
        other = picture.resized(size)
        assert other.pixels.shape == (size[1], size[0], 3)
        assert other.size == size
        assert other.scale[0] * size[0] == pytest.approx(1000, rel=1e-12)
        assert other.scale[1] * size[1] == pytest.approx(800, rel=1e-12)


def test_magnifying_repeats_pixels(noise):
    big = SlidePicture(noise, (1.0, 1.0)).resized((500, 400))
    assert np.array_equal(big.pixels, noise.repeat(2, axis=0).repeat(2, axis=1))


def test_a_coarse_picture_is_not_magnified_but_a_tiny_slide_is(noise):
    assert SlidePicture(noise, (40.0, 40.0)).shown((10_000, 8_000), 1600).size == (250, 200)
    assert SlidePicture(noise[:20, :10], (1.0, 1.0)).shown((10, 20), 1600).size == (80, 160)


def test_wrong_pixels_and_scales_are_refused(noise):
    for pixels in (noise[..., :2], noise[..., 0], noise.astype(np.float32)):
        with pytest.raises(UsageError, match="uint8"):
            SlidePicture(pixels, (1.0, 1.0))
    for scale in ((0.0, 1.0), (1.0, float("nan")), (-1.0, 1.0)):
        with pytest.raises(UsageError, match="scale"):
            SlidePicture(noise, scale)


def test_jpeg_is_close_to_the_picture():
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([x * 4, y * 4, 255 - x * 4], axis=-1).astype(np.uint8)
    back = np.asarray(Image.open(io.BytesIO(jpeg(smooth))))
    assert np.abs(back.astype(int) - smooth).mean() < 3

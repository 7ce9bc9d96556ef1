"""A page is a level only if it is one; of several pictures it is said which was taken."""

import cv2
import numpy as np
import pytest
import tifffile

from pathology.slide.open import open_reader
from pathology.testing.synthetic_slides import TissuePicture

BASE = TissuePicture(640, 512, mpp=1.0, tissue=0.8, seed=1)
PIXELS = BASE.window(0, 0, 640, 512)
OTHER = TissuePicture(640, 512, mpp=1.0, tissue=0.3, seed=9).window(0, 0, 640, 512)


def smaller(pixels, factor):
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    parts = pixels.reshape(height, factor, width, factor, 3)
    return np.rint(parts.mean(axis=(1, 3))).astype(np.uint8)


def write(path, *pages):
    """Write tiled pages of ``(pixels, reduced)``."""
    with tifffile.TiffWriter(path) as tif:
        for pixels, reduced in pages:
            tif.write(
                pixels,
                photometric="rgb",
                tile=(64, 64),
                compression="zlib",
                subfiletype=int(reduced),
                metadata=None,
                resolution=(20000, 20000),
                resolutionunit="CENTIMETER",
            )
    return path


def sizes(reader):
    return [level.dimensions for level in reader.levels]


@pytest.mark.parametrize("order", [(1, 2, 4), (4, 2, 1), (2, 1, 4), (4, 1, 2)])
def test_levels_in_any_order_marked_or_not(tmp_path, order):
    pages = [(smaller(PIXELS, factor), False) for factor in order]
    with open_reader(write(tmp_path / "a.tif", *pages)) as reader:
        assert sizes(reader) == [(640, 512), (320, 256), (160, 128)]
        assert reader.warnings == ()
        np.testing.assert_array_equal(reader.read(0, 0, 0, 640, 512), PIXELS)
    marked = [(smaller(PIXELS, factor), factor > 1) for factor in order]
    with open_reader(write(tmp_path / "b.tif", *marked)) as reader:
        assert sizes(reader) == [(640, 512), (320, 256), (160, 128)]


def test_a_picture_of_the_same_shape_is_no_level(tmp_path):
    path = write(tmp_path / "a.tif", (PIXELS, False), (smaller(OTHER, 2), False), (smaller(PIXELS, 4), True))
    with open_reader(path) as reader:
        assert sizes(reader) == [(640, 512), (160, 128)]
        assert "not levels of the slide (320 x 256 px)" in reader.warnings[0]


def test_of_several_regions_the_largest_is_taken_and_said(tmp_path):
    path = write(tmp_path / "a.tif", (OTHER[:256, :512], False), (PIXELS, False))
    with open_reader(path) as reader:
        assert sizes(reader) == [(640, 512)]
        assert "only the largest, 640 x 512 px, was used" in reader.warnings[0]


def test_of_several_focal_planes_the_middle_one_is_taken_and_said(tmp_path):
    planes = [np.clip(PIXELS.astype(int) + shift, 0, 255).astype(np.uint8) for shift in (-3, 0, 3)]
    with open_reader(write(tmp_path / "a.tif", *((plane, False) for plane in planes))) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 0, 640, 512), PIXELS)
        assert "number 2 of 3" in reader.warnings[0]


def test_levels_padded_to_whole_tiles_keep_their_scale(tmp_path):
    picture = TissuePicture(1000, 720, mpp=1.0, tissue=0.8, seed=2).window(0, 0, 1000, 720)
    half, quarter = smaller(picture, 2), smaller(picture, 4)

    def padded(pixels):
        wide, high = -pixels.shape[1] % 64, -pixels.shape[0] % 64
        return np.pad(pixels, ((0, high), (0, wide), (0, 0)), constant_values=255)

    for name, reduced in (("a.tif", True), ("b.tif", False)):
        path = write(tmp_path / name, (picture, False), (padded(half), reduced), (padded(quarter), reduced))
        with open_reader(path) as reader:
            assert sizes(reader) == [(1000, 720), (500, 360), (250, 180)]
            assert [level.downsample for level in reader.levels] == [1, 2, 4]
            np.testing.assert_array_equal(reader.read(1, 0, 0, 500, 360), half)
    # A level whose size only happens to be of whole tiles keeps it.
    stretched = cv2.resize(picture, (512, 384), interpolation=cv2.INTER_AREA)
    with open_reader(write(tmp_path / "c.tif", (picture, False), (stretched, True))) as reader:
        assert (500, 360) not in sizes(reader)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("tif-levels-coarse-first", [(1024, 1024), (512, 512), (256, 256)]),
        ("tif-thumbnail-first", [(1024, 1024), (512, 512), (128, 128)]),
        ("tif-tiled-thumbnail-943", [(1024, 1024), (512, 512)]),
    ],
)
def test_every_case_of_levels(data_dir, case, expected):
    with open_reader(data_dir / "cases" / case / "slide.tif") as reader:
        assert sizes(reader) == expected


def test_every_case_of_colour(data_dir):
    openslide = pytest.importorskip("openslide")
    for name in ("tif-ycbcr-raw", "tif-ycbcr22-deflate"):
        path = data_dir / "cases" / name / "slide.tif"
        with open_reader(path) as reader, openslide.OpenSlide(path) as other:
            expected = np.asarray(other.read_region((0, 0), 0, reader.dimensions).convert("RGB"))
            assert np.abs(reader.read(0, 0, 0, *reader.dimensions).astype(int) - expected).max() <= 1
    for path in sorted((data_dir / "cases" / "ome-bfconvert-j2k").glob("*.tif*")):
        with open_reader(path) as reader:
            np.testing.assert_array_equal(reader.read(0, 0, 0, *reader.dimensions), tifffile.imread(path))


def test_a_broken_colour_profile_is_ignored_and_said(data_dir):
    with open_reader(data_dir / "cases" / "tif-broken-icc-via-openslide" / "slide.tif") as reader:
        assert reader.icc_profile is None
        assert "colour profile" in reader.warnings[0]
        assert reader.read(0, 0, 0, 64, 64).shape == (64, 64, 3)

"""Slides as people use them: pictures at any scale, and how they show themselves."""

import base64
import io
import logging
import re

import numpy as np
import pytest
from PIL import Image

from pathology.errors import MissingScaleError, UnreadableTileError, UsageError
from pathology.settings import GridSettings
from pathology.slide.readers.base import Rect, Region
from pathology.slide.slide import Slide, open_slide
from pathology.testing.array_reader import ArrayReader
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "<b>A&B.svs"
    return write_svs(path, TissuePicture(1500, 1100, seed=3), mpp=0.5)


def waves(height, width):
    """Slow waves: any two honest ways to resample them agree."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(columns / p) * np.cos(rows / (p + 7)) for p in (40, 55, 70)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def waves_at(x, y, w, h, ratio):
    """The waves at the centres of output pixels."""
    columns = x + (np.arange(w) + 0.5) * ratio - 0.5
    rows = y + (np.arange(h) + 0.5) * ratio - 0.5
    channels = [128 + 100 * np.sin(columns / p) * np.cos(rows[:, None] / (p + 7)) for p in (40, 55, 70)]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7, 1.0, 1.9, 4.0])
@pytest.mark.parametrize(("x", "y"), [(100, 120), (101, 123), (107, 131)])
def test_a_region_lies_where_it_was_asked_for(mpp, x, y):
    slide = Slide(ArrayReader(waves(700, 800), downsamples=(1, 4), mpp=0.5))
    got = slide.read_region(x, y, 60, 50, mpp=mpp)
    assert got.shape == (50, 60, 3)
    # Half a level-0 pixel of rounding is at most 1.3 grey values of the fastest wave.
    assert np.abs(got - waves_at(x, y, 60, 50, mpp / 0.5)).max() < 4


def test_level_0_is_as_stored():
    pixels = waves(200, 300)
    slide = Slide(ArrayReader(pixels))
    np.testing.assert_array_equal(slide.read_region(20, 30, 50, 40), pixels[30:70, 20:70])
    np.testing.assert_array_equal(slide.read_region(-5, 0, 10, 4)[:, :5], 255)


def test_detail_finer_than_the_result_is_averaged_away():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    slide = Slide(ArrayReader(stripes, mpp=0.5))
    assert np.abs(slide.read_region(51, 50, 40, 40, mpp=2.0).astype(int) - 127.5).max() <= 1


@pytest.mark.parametrize("mpp", [0.5, 0.9, 1.0, 2.3])
def test_a_region_is_the_patch_of_the_same_corner(svs, mpp):
    with open_slide(svs) as slide:
        grid = Grid(GridSettings(patch=64, stride=48, mpp=mpp, min_tissue=0.0, block=256), slide.dimensions, 0.5)
        plan = plan_tiles(grid, TissueShare(np.ones((8, 8), bool), slide.dimensions))
        block = BlockReader(slide.reader, grid)
        for k in range(len(plan.blocks)):
            found = plan.offsets[k], plan.offsets[k + 1]
            patches = block.read(plan.blocks[k], plan.positions[found[0] : found[1]])
            for patch, (x, y) in zip(patches.pixels, plan.coords[found[0] : found[1]], strict=True):
                np.testing.assert_array_equal(slide.read_region(x, y, 64, 64, mpp=mpp), patch)


def test_thumbnails_are_exact_means_of_the_size_asked_for():
    pixels = waves(300, 400)
    slide = Slide(ArrayReader(pixels, mpp=0.5))
    quarter = slide.thumbnail(max_size=100)
    expected = pixels.reshape(75, 4, 100, 4, 3).mean((1, 3))
    assert np.abs(quarter - expected).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(slide.thumbnail(mpp=2.0), quarter)
    np.testing.assert_array_equal(slide.thumbnail(), pixels)


def test_senseless_requests_are_refused():
    slide = Slide(ArrayReader(waves(100, 100), mpp=0.5))
    with pytest.raises(UsageError, match="not both"):
        slide.thumbnail(max_size=10, mpp=4)
    with pytest.raises(UsageError, match="at least 1"):
        slide.thumbnail(max_size=0)
    with pytest.raises(UsageError, match="no area"):
        slide.read_region(0, 0, 0, 5, mpp=1)
    with pytest.raises(UsageError, match="above 0"):
        slide.read_region(0, 0, 5, 5, mpp=0)
    with pytest.raises(UsageError, match="µm per pixel"):
        Slide(ArrayReader(waves(100, 100)), mpp=500)


def test_a_scale_is_never_guessed():
    reader = ArrayReader(waves(100, 100), mpp=None)
    assert "scale not known" in repr(Slide(reader))
    assert Slide(reader).read_region(0, 0, 5, 5).shape == (5, 5, 3)
    with pytest.raises(MissingScaleError):
        Slide(reader).read_region(0, 0, 5, 5, mpp=1.0)
    assert Slide(reader, mpp=0.25).tissue().mpp == pytest.approx(8, rel=0.2)


def test_an_estimated_scale_is_logged(caplog):
    reader = ArrayReader(waves(100, 100), mpp=None)
    reader.objective_power = 20.0
    with caplog.at_level(logging.WARNING, "pathology"):
        Slide(reader).read_region(0, 0, 5, 5, mpp=1.0)
    assert "estimate from the 20x objective" in caplog.text


def test_what_cannot_be_read_is_an_error_or_white(monkeypatch, caplog):
    reader = ArrayReader(waves(100, 100), mpp=0.5)
    monkeypatch.setattr(
        reader, "_read", lambda level, x, y, w, h: Region(np.full((h, w, 3), 255, np.uint8), (Rect(0, 0, 3, 3),))
    )
    with pytest.raises(UnreadableTileError):
        Slide(reader).read_region(0, 0, 5, 5, mpp=1.0)
    assert (Slide(reader).thumbnail(max_size=50) == 255).all()
    assert "cannot be decoded" in caplog.text


def test_tissue_is_that_of_scoring(svs):
    from pathology.scoring.prepare import prepare
    from pathology.settings import TissueSettings

    with open_slide(svs) as slide:
        prepared = prepare(
            slide.reader,
            option_mpp=None,
            manifest_mpp=None,
            tissue=TissueSettings(),
            quality=None,
            grid=lambda _: GridSettings(),
            stain="none",
        )
        np.testing.assert_array_equal(slide.tissue().mask, prepared.tissue.mask)


def test_shows_itself(svs):
    slide = open_slide(svs)
    assert repr(slide) == "Slide('<b>A&B.svs': 1500 x 1100 px, 0.5 µm/px, 3 levels, tiff)"
    html = slide._repr_html_()
    assert "<b>A&B" not in html
    assert "&lt;b&gt;A&amp;B" in html
    assert "1500 × 1100 px" in html
    assert "0.5 µm/px" in html
    assert "http" not in html
    picture = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
    assert picture.size == (256, 188)
    with open_slide(svs) as again:
        wanted = again.thumbnail(max_size=256)
    assert np.abs(np.asarray(picture).astype(int) - wanted).mean() < 6
    slide.close()
    assert "Picture" in slide._repr_html_()
    assert "img" not in slide._repr_html_()


def test_a_picture_is_not_made_of_the_finest_level_alone():
    class Huge(ArrayReader):
        def read_masked(self, *_args, **_options):
            pytest.fail("read")

    reader = Huge(np.zeros((10, 10, 3), np.uint8))
    level = reader.levels[0]
    reader.levels = (type(level)(100_000, 80_000, 1.0, (256, 256)),)
    assert "img" not in Slide(reader)._repr_html_()

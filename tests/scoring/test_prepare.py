"""What is done once for a slide: quality, stain, and who is told what."""

import numpy as np
import pytest
from PIL import Image

from pathology.errors import NoTissueError
from pathology.scoring.prepare import prepare, write_quality_picture
from pathology.settings import GridSettings, QualitySettings, TissueSettings
from pathology.slide.tissue.quality import ARTEFACTS
from pathology.testing.array_reader import ArrayReader
from pathology.testing.planted import PlantedSlide, synthetic_tissue

GRID = GridSettings(patch=32, mpp=4.0, stride=32, block=256)


@pytest.fixture(scope="module")
def bubbly():
    """Tissue with an air bubble, 0.8 mm wide, whose centre is at (1.5, 1.5) mm."""
    slide = PlantedSlide.of_glass((800, 1000), 4.0, 4, (243, 242, 243))
    where = np.zeros(slide.shape, bool)
    where[50:-50, 50:-300] = True
    slide.tissue(where, synthetic_tissue((512, 512), slide.rng, mpp=4.0))
    slide.bubble((1.5, 1.5), 0.4, 50, 0.5)
    return slide.pixels(), slide.truth["bubble"]


def prepared(pixels, *, quality=None, stain="none", grid=GRID):
    reader = ArrayReader(pixels, mpp=4.0)
    return prepare(
        reader,
        option_mpp=None,
        manifest_mpp=None,
        tissue=TissueSettings(),
        quality=quality,
        grid=lambda _: grid,
        stain=stain,
    )


def test_a_large_slides_mask_is_coarser(bubbly):
    def found(most_pixels):
        return prepare(
            ArrayReader(bubbly[0], mpp=4.0),
            option_mpp=None,
            manifest_mpp=None,
            tissue=TissueSettings(most_pixels=most_pixels),
            quality=None,
            grid=lambda _: GRID,
            stain="none",
        )

    usual, bounded = found(12_000_000), found(100_000)
    assert usual.overview.mpp == pytest.approx(8)
    assert bounded.overview.pixels.shape[0] * bounded.overview.pixels.shape[1] == pytest.approx(100_000, rel=0.01)
    assert bounded.tissue.mpp == bounded.overview.mpp > 8
    assert bounded.tissue_mm2 == pytest.approx(usual.tissue_mm2, rel=0.02)


def test_patches_with_artefacts_are_excluded_and_counted(bubbly):
    pixels, bubble = bubbly
    everything, good = prepared(pixels), prepared(pixels, quality=QualitySettings(max_bubble=0.3))
    excluded = good.plan.excluded
    column = ARTEFACTS.index("bubble")
    assert len(excluded) > 8
    assert len(good.plan) + len(excluded) == len(everything.plan)
    assert (good.plan.quality[:, column] <= 0.3).all()
    assert (excluded.quality[:, column] > 0.3).all()
    assert excluded.over[:, column].all()
    # The shares are those of the bubble that was planted.
    x, y = excluded.coords[:, 0], excluded.coords[:, 1]
    truth = np.array([bubble[b : b + 32, a : a + 32].mean() for a, b in zip(x, y, strict=True)])
    assert np.abs(truth - excluded.quality[:, column]).mean() < 0.1
    assert everything.plan.quality is None
    assert not everything.warnings
    (said,) = good.warnings
    assert said.startswith(f"{len(excluded)} of {len(everything.plan)} patches were excluded for artefacts (bubble ")


@pytest.mark.parametrize(("wanted", "times"), [(2.0, "2.0"), (3.0, "1.3"), (3.6, None), (8.0, None)])
def test_a_slide_scanned_at_less_than_the_model_wants_says_so(bubbly, wanted, times):
    said = prepared(bubbly[0], grid=GRID.model_copy(update={"mpp": wanted})).warnings
    if times is None:
        assert said == ()
    else:
        assert len(said) == 1
        assert (
            f"scanned at 4 µm per pixel and the model expects {wanted:g}: patches were upsampled {times} times"
            in said[0]
        )


def test_plan_without_quality_is_the_plan_with_limits_that_allow_everything(bubbly):
    limits = dict.fromkeys((f"max_{name}" for name in ARTEFACTS), 1.0)
    one, other = prepared(bubbly[0]), prepared(bubbly[0], quality=QualitySettings(**limits))
    for name in ("coords", "tissue", "positions", "blocks", "offsets"):
        np.testing.assert_array_equal(getattr(one.plan, name), getattr(other.plan, name))
    assert len(other.plan.excluded) == 0


def test_a_slide_full_of_artefacts_says_so():
    slide = PlantedSlide.of_glass((400, 400), 4.0, 4, (243, 242, 243))
    where = np.zeros(slide.shape, bool)
    where[100:-100, 100:-100] = True
    slide.tissue(where, synthetic_tissue((512, 512), slide.rng, mpp=4.0))
    slide.bubble((0.8, 0.8), 0.3, 50, 0.5)
    only_there = GRID.model_copy(update={"patch": 400, "stride": 400, "min_tissue": 0.1})
    with pytest.raises(NoTissueError, match=r"every tissue patch has artefacts.*--no-quality"):
        prepared(slide.pixels(), quality=QualitySettings(max_bubble=0.001), grid=only_there)


def test_glass_alone_is_no_tissue():
    slide = PlantedSlide.of_glass((400, 400), 4.0, 4, (243, 242, 243))
    with pytest.raises(NoTissueError, match="no tissue was found"):
        prepared(slide.pixels(), stain="macenko")


@pytest.mark.parametrize("method", ["macenko", "reinhard", "vahadane"])
def test_stain_is_fitted_to_the_tissue_and_always_alike(bubbly, method):
    one, other = prepared(bubbly[0], stain=method), prepared(bubbly[0], stain=method)
    assert one.stain.record() == other.stain.record()
    assert one.stain.slide.method == method
    assert len(one.stain.slide.source) == 64


def test_the_picture_is_made_and_removed(bubbly, tmp_path):
    path = tmp_path / "a.quality.png"
    write_quality_picture(path, prepared(bubbly[0], quality=QualitySettings()), "A slide")
    with Image.open(path) as shown:
        shown.verify()
    write_quality_picture(path, prepared(bubbly[0]), "A slide")
    assert not path.exists()

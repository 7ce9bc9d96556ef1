"""Folds, bubbles, dirt and pen of known extent, planted into tissue."""

import numpy as np
import pytest
from PIL import Image

from pathology.settings import QualitySettings
from pathology.slide.thumbnail import Thumbnail, thumbnail
from pathology.slide.tissue.artefacts import find_artefacts
from pathology.slide.tissue.detect import ExclusionReason, find_tissue
from pathology.slide.tissue.quality import ARTEFACTS, find_quality
from pathology.testing.array_reader import ArrayReader
from pathology.testing.planted import PlantedSlide, average_down, synthetic_tissue


def planted(seed=0, shape=(800, 1000), mpp=4.0):
    slide = PlantedSlide.of_glass(shape, mpp, seed, (243, 242, 243))
    where = np.zeros(shape, bool)
    where[50:-50, 50:-300] = True
    slide.tissue(where, synthetic_tissue((512, 512), slide.rng, mpp=mpp))
    return slide


def found(slide):
    image = np.rint(average_down(slide.pixels(), 2)).astype(np.uint8)
    truth = {name: average_down(where, 2) >= 0.5 for name, where in slide.truth.items()}
    tissue = find_tissue(image, 8.0)
    return find_artefacts(image, tissue), tissue, truth


def rates(mask, truth):
    return np.count_nonzero(mask & truth) / np.count_nonzero(truth), np.count_nonzero(mask & ~truth) / truth.size


def test_a_fold_is_found():
    slide = planted(1)
    slide.fold(np.array([[0.6, 0.6], [1.6, 1.4], [2.4, 1.2]]), 0.12)
    artefacts, _, truth = found(slide)
    sensitivity, false = rates(artefacts.fold, truth["fold"])
    assert sensitivity > 0.8
    assert false < 0.01


@pytest.mark.parametrize("centre", [(1.5, 1.5), (3.4, 1.5)], ids=["over tissue", "over glass"])
def test_a_bubble_is_found_with_its_inside(centre):
    slide = planted(2)
    slide.bubble(centre, 0.4, 50, 0.5)
    artefacts, _, truth = found(slide)
    sensitivity, false = rates(artefacts.bubble, truth["bubble"])
    assert sensitivity > 0.9
    assert false < 0.01
    assert not artefacts.dark.any()


def test_a_bubble_cut_by_the_border_is_found():
    slide = planted(3)
    slide.bubble((3.8, 1.5), 0.4, 50, 0.5)
    artefacts, _, truth = found(slide)
    assert rates(artefacts.bubble, truth["bubble"])[0] > 0.9


@pytest.mark.parametrize("centre", [(1.5, 1.5), (3.4, 1.5)], ids=["on tissue", "on glass"])
@pytest.mark.parametrize("radius", [0.03, 0.1])
def test_black_dirt_is_found(centre, radius):
    slide = planted(4)
    slide.dirt(centre, radius)
    artefacts, tissue, truth = found(slide)
    sensitivity, false = rates(artefacts.dark, truth["dark"])
    assert sensitivity > 0.7
    assert false < 0.001
    assert tissue.counts["pen"] == 0


def test_clean_tissue_has_none():
    artefacts, _, _ = found(planted(5))
    assert artefacts.fold.mean() < 0.005
    assert not artefacts.bubble.any()
    assert not artefacts.dark.any()


def test_a_pen_mark_is_nothing_else():
    slide = planted(6)
    slide.pen((38, 38, 44), np.array([[3.2, 0.4], [3.6, 2.6]]), 0.4)
    artefacts, tissue, truth = found(slide)
    pen = tissue.excluded == ExclusionReason.PEN
    assert rates(pen, truth["pen"])[0] > 0.95
    assert not (artefacts.dark & pen).any()


def test_quality_brings_all_masks_over_the_whole_slide():
    slide = planted(7, (800, 1000), 2.0)
    where = np.zeros(slide.shape, bool)
    where[96:512, 96:512] = True
    slide.defocus(where, 4.0)
    reader = ArrayReader(slide.pixels(0), mpp=2.0, tile=128)
    overview = thumbnail(reader, 2.0, 8.0)
    quality = find_quality(reader, 2.0, overview, find_tissue(overview.pixels, overview.mpp))
    assert tuple(quality.masks) == ARTEFACTS
    assert all(mask.dtype == bool and mask.ndim == 2 for mask in quality.masks.values())
    shares = quality.tissue_shares()
    # Squares of 64 µm that are only partly blurred may go either way.
    expected = np.count_nonzero(where & slide.truth["tissue"]) / np.count_nonzero(slide.truth["tissue"])
    assert shares["blur"] == pytest.approx(expected, abs=0.07)
    assert shares["pen"] == 0


def test_empty_glass_has_no_shares():
    reader = ArrayReader(np.full((512, 512, 3), 243, np.uint8), mpp=2.0)
    overview = thumbnail(reader, 2.0, 8.0)
    quality = find_quality(reader, 2.0, overview, find_tissue(overview.pixels, overview.mpp))
    assert set(quality.tissue_shares().values()) == {None}


def test_tissue_of_one_row_of_pixels_is_no_problem():
    image = np.full((1, 3, 3), (200, 120, 180), np.uint8)
    artefacts = find_artefacts(image, find_tissue(image, 8.0))
    assert artefacts.fold.shape == (1, 3)


def test_thresholds_come_from_the_settings():
    slide = planted(8)
    slide.fold(np.array([[0.6, 0.6], [1.6, 1.4], [2.4, 1.2]]), 0.12)
    image = np.rint(average_down(slide.pixels(), 2)).astype(np.uint8)
    tissue = find_tissue(image, 8.0)
    assert find_artefacts(image, tissue, QualitySettings(fold_density=1.4)).fold.any()
    assert not find_artefacts(image, tissue, QualitySettings(fold_density=4.0)).fold.any()


def test_real_fields_hold_few_artefacts(data_dir):
    tissue_pixels, false = 0, np.zeros(3)
    for path in sorted((data_dir / "osteosarcoma").glob("*/*.jpg")):
        field = Thumbnail(np.asarray(Image.open(path).convert("RGB").resize((128, 128), Image.Resampling.BOX)), 8.0, 0)
        tissue = find_tissue(field.pixels, field.mpp)
        artefacts = find_artefacts(field.pixels, tissue)
        tissue_pixels += np.count_nonzero(tissue.mask)
        false += [np.count_nonzero(m) for m in (artefacts.fold, artefacts.bubble, artefacts.dark)]
    fold, bubble, dark = false / tissue_pixels
    # Bone beside marrow is taken for a fold now and then.
    assert fold < 0.015
    assert bubble < 0.001
    assert dark < 0.001

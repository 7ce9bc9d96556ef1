"""Shares of patches that artefacts cover, and which patches are excluded."""

import numpy as np

from pathology.settings import QualitySettings
from pathology.slide.tissue.artefacts import Artefacts
from pathology.slide.tissue.detect import ExclusionReason, Glass, TissueMask
from pathology.slide.tissue.focus import FocusMap
from pathology.slide.tissue.quality import ARTEFACTS, SlideQuality
from pathology.tiling.patch_quality import PatchQuality


def quality():
    excluded = np.zeros((8, 16), np.uint8)
    excluded[:4, :4] = ExclusionReason.PEN
    fold, bubble, dark = (np.zeros((8, 16), bool) for _ in range(3))
    fold[:2, 4:8] = True
    dark[4:, 12:] = True
    blurred = np.array([[False, False, True, False]])
    return SlideQuality(
        TissueMask(excluded == 0, excluded, 8.0, Glass((244, 243, 244), seen=True)),
        Artefacts(fold, bubble, dark),
        FocusMap(np.where(blurred, 0.3, 2.0).astype(np.float32), blurred, 2.0),
    )


def test_each_artefact_is_counted_at_its_own_scale():
    # The slide is 160 x 80 level-0 pixels: 10 per mask pixel, 40 x 80 per focus square.
    corners = np.array([[0, 0], [40, 0], [80, 0], [120, 40], [140, 60]], np.int32)
    table = PatchQuality(quality(), (160, 80), QualitySettings()).shares(corners, 40)
    assert table.dtype == np.float32
    shares = dict(zip(ARTEFACTS, table.T, strict=True))
    np.testing.assert_allclose(shares["pen"], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(shares["fold"], [0, 0.5, 0, 0, 0])
    np.testing.assert_allclose(shares["blur"], [0, 0, 1, 0, 0])
    np.testing.assert_allclose(shares["dark"], [0, 0, 0, 1, 0.25])
    np.testing.assert_allclose(shares["bubble"], 0)


def test_a_patch_is_excluded_above_a_limit_only():
    corners = np.array([[0, 0], [40, 0], [80, 0]], np.int32)

    def excluded(**limits):
        patches = PatchQuality(quality(), (160, 80), QualitySettings(**limits))
        return patches.over(patches.shares(corners, 40)).any(axis=1)

    # At the limit itself a patch stays: half of the second is a fold.
    np.testing.assert_array_equal(excluded(max_fold=0.5), [True, False, True])
    np.testing.assert_array_equal(excluded(max_fold=0.4), [True, True, True])
    np.testing.assert_array_equal(excluded(max_fold=0.5, max_blur=1, max_pen=1), [False, False, False])

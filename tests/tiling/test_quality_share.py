"""Shares of patches that are spoilt."""

import numpy as np

from pathology.settings import QualitySettings
from pathology.slide.tissue.artefacts import Artefacts
from pathology.slide.tissue.detect import ExclusionReason, Glass, TissueMask
from pathology.slide.tissue.focus import FocusMap
from pathology.slide.tissue.quality import ARTEFACTS, SlideQuality
from pathology.tiling.quality_share import QualityShares, spoilt


def quality():
    left_out = np.zeros((8, 16), np.uint8)
    left_out[:4, :4] = ExclusionReason.PEN
    fold, bubble, dark = (np.zeros((8, 16), bool) for _ in range(3))
    fold[:2, 4:8] = True
    dark[4:, 12:] = True
    blurred = np.array([[False, False, True, False]])
    return SlideQuality(
        TissueMask(left_out == 0, left_out, 8.0, Glass((244, 243, 244), seen=True)),
        Artefacts(fold, bubble, dark),
        FocusMap(np.where(blurred, 0.3, 2.0).astype(np.float32), blurred, 2.0),
    )


def test_each_artefact_is_counted_at_its_own_scale():
    # The slide is 160 x 80 level-0 pixels: 10 per mask pixel, 40 x 80 per focus square.
    shares = QualityShares(quality(), (160, 80))(
        np.array([[0, 0], [40, 0], [80, 0], [120, 40], [140, 60]], np.int32), 40
    )
    assert tuple(shares) == ARTEFACTS
    np.testing.assert_allclose(shares["pen"], [1, 0, 0, 0, 0])
    np.testing.assert_allclose(shares["fold"], [0, 0.5, 0, 0, 0])
    np.testing.assert_allclose(shares["blur"], [0, 0, 1, 0, 0])
    np.testing.assert_allclose(shares["dark"], [0, 0, 0, 1, 0.25])
    np.testing.assert_allclose(shares["bubble"], 0)


def test_a_patch_is_spoilt_above_a_limit_only():
    shares = QualityShares(quality(), (160, 80))(np.array([[0, 0], [40, 0], [80, 0]], np.int32), 40)
    np.testing.assert_array_equal(spoilt(shares, QualitySettings()), [True, False, True])
    np.testing.assert_array_equal(spoilt(shares, QualitySettings(max_fold=0.4)), [True, True, True])
    np.testing.assert_array_equal(spoilt(shares, QualitySettings(max_blur=1, max_pen=1)), [False, False, False])

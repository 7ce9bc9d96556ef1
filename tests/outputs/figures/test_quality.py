"""The picture of what was left out shows each thing in its colour, where it is."""

import numpy as np
import pytest

from pathology.outputs.figures.palette import hex_to_rgb
from pathology.outputs.figures.quality import QUALITY_COLOURS, quality_picture
from pathology.slide.tissue.artefacts import Artefacts
from pathology.slide.tissue.detect import ExclusionReason, Glass, TissueMask
from pathology.slide.tissue.focus import FocusMap
from pathology.slide.tissue.quality import SlideQuality


@pytest.fixture
def quality():
    excluded = np.full((100, 150), ExclusionReason.GLASS, np.uint8)
    excluded[10:90, 10:70] = ExclusionReason.NOTHING
    excluded[10:30, 100:140] = ExclusionReason.PEN
    excluded[40:50, 100:140] = ExclusionReason.EDGE
    fold, bubble, dark = (np.zeros(excluded.shape, bool) for _ in range(3))
    fold[20:30, 20:60] = True
    blurred = np.zeros((10, 15), bool)
    blurred[6:8, 2:6] = True
    return SlideQuality(
        TissueMask(excluded == 0, excluded, 8.0, Glass((244, 243, 244), seen=True)),
        Artefacts(fold, bubble, dark),
        FocusMap(np.where(blurred, 0.3, 2.0).astype(np.float32), blurred, 2.0),
    )


@pytest.mark.parametrize("longest", [150, 600, 75])
def test_colours_lie_where_things_are(quality, longest):
    slide = np.full((100, 150, 3), 255, np.uint8)
    picture = np.asarray(quality_picture(slide, quality, title="Slide 🧪", longest=longest), np.float32)
    scale = longest / 150
    for name, (y, x) in {"pen": (20, 120), "edge": (45, 120), "fold": (25, 40), "blur": (70, 40)}.items():
        expected = 0.4 * 255 + 0.6 * np.array(hex_to_rgb(QUALITY_COLOURS[name]))
        np.testing.assert_allclose(picture[round((y + 0.5) * scale), round((x + 0.5) * scale)], expected, atol=1.5)
    np.testing.assert_array_equal(picture[round(50 * scale), round(40 * scale)], 255)
    edge = picture[round(50 * scale), round(8 * scale) : round(13 * scale)]
    assert (np.abs(edge - hex_to_rgb(QUALITY_COLOURS["tissue"])).max(axis=1) < 1).any()


def test_it_has_a_legend_beside_the_slide(quality):
    picture = quality_picture(np.full((100, 150, 3), 255, np.uint8), quality, title="S")
    width = picture.width
    panel = np.asarray(picture)[:, width - 400 :]
    for colour in QUALITY_COLOURS.values():
        assert (np.abs(panel.astype(int) - hex_to_rgb(colour)).max(axis=2) == 0).any(), colour

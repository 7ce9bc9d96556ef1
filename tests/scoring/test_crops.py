"""The most telling patches: chosen, cut at their place, shown; and attention stitched over the slide."""

import numpy as np

from pathology.outputs.figures.patch_gallery import gallery_rows
from pathology.scoring.crops import cut_representative, representative_rows
from pathology.testing.array_reader import ArrayReader

P = np.array([[0.9, 0.1], [0.95, 0.05], [0.6, 0.4], [0.3, 0.7], [np.nan, np.nan]], np.float32)
COORDS = np.array([[0, 0], [40, 0], [200, 0], [0, 200], [200, 200]], np.int32)


def test_the_most_probable_that_do_not_overlap():
    assert representative_rows(P, COORDS, 64.0) == [[1, 2], [3]]
    assert representative_rows(P, COORDS, 40.0) == [[1, 0, 2], [3]]
    assert representative_rows(P, COORDS, 40.0, most=1) == [[1], [3]]
    assert representative_rows(np.full((2, 3), np.nan), COORDS[:2], 64.0) == [[], [], []]


def test_pictures_are_cut_where_the_patches_lie():
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[0:64, 40:104] = (200, 10, 10)
    pixels[200:264, 0:64] = (10, 200, 10)
    attention = np.array([0.1, 0.4, 0.1, 0.4, np.nan])
    found = cut_representative(ArrayReader(pixels), [[1], [3]], ("a", "b"), P, COORDS, 64.0, attention)
    assert [(patch.row, patch.name) for patch in found] == [(1, "a"), (3, "b")]
    np.testing.assert_array_equal(found[0].pixels[80, 80], (200, 10, 10))
    np.testing.assert_array_equal(found[1].pixels[80, 80], (10, 200, 10))
    assert found[0].attention == 0.4 * 4
    rows = gallery_rows(found)
    assert [row["name"] for row in rows] == ["a", "b"]
    assert rows[0]["patches"][0]["source"].startswith("data:image/jpeg")

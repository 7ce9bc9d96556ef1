"""Fields with known mitoses."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from pathology.errors import UsageError
from pathology.training.detector.batches import ordinary_nuclei
from pathology.training.detector.data import BOX, CROP, MitosisData
from pathology.training.detector.synthetic_fields import blend, construct_field


def drawn_crops(count=5):
    """Pink crops with a black mitosis at the centre and one violet nucleus near a corner."""
    y, x = np.mgrid[:CROP, :CROP]
    crops = np.full((count, CROP, CROP, 3), (215, 150, 195), np.uint8)
    crops[:, np.hypot(x - 64, y - 64) < 12] = (20, 10, 30)
    crops[:, np.hypot(x - 96, y - 98) < 9] = (110, 60, 120)
    crops[0, :, :20] = 0  # filled up at the border of a region
    objects = np.full((count, 6, 3), -1, np.float32)
    objects[:, 0] = (64, 64, 1)
    names = np.array([f"drawn/{i}" for i in range(count)])
    return MitosisData(crops, objects, names, np.full(count, "test"), np.ones(count, bool), ())


@pytest.fixture(scope="module")
def field():
    background = np.full((1024, 1536, 3), (220, 160, 200), np.uint8)
    background[:256] = 242  # glass
    made = construct_field(background, drawn_crops(), mitoses=40, decoys=30, hotspot=(900, 700, 260, 0.7), seed=2)
    return background, made


def test_objects_are_where_they_are_said_to_be(field):
    background, made = field
    assert (len(made.mitoses), len(made.decoys)) == (40, 30)
    for points, darkest in ((made.mitoses, 40), (made.decoys, 140)):
        for x, y in points.astype(int):
            assert abs(int(made.pixels[y - 3 : y + 4, x - 3 : x + 4].mean()) - darkest) < 50
    assert (background[256:] == (220, 160, 200)).all(), "the background given is not changed"


def test_nothing_lies_on_glass_or_on_another(field):
    _, made = field
    every = np.concatenate([made.mitoses, made.decoys])
    assert every[:, 1].min() > 256
    assert pdist(every).min() >= 64


def test_the_hotspot_holds_its_share(field):
    _, made = field
    inside = np.hypot(*(made.mitoses - (900, 700)).T) <= 260 - BOX / 2
    assert inside.sum() == 28


def test_no_room():
    with pytest.raises(UsageError, match="room for"):
        construct_field(np.full((256, 256, 3), (220, 160, 200), np.uint8), drawn_crops(), mitoses=5, decoys=0)


def test_blending_takes_the_stain_of_the_new_place():
    pale = np.full((200, 200, 3), (240, 225, 238), np.uint8)
    crop = drawn_crops(1).crops[0]
    kept, adapted = pale.copy(), pale.copy()
    blend(kept, crop, (64, 64), (100, 100), adapt=0)
    blend(adapted, crop, (64, 64), (100, 100), adapt=1)
    assert kept[100, 100].tolist() == pytest.approx([20, 10, 30], abs=3)
    ring = (100, 100 + 17)
    assert adapted[ring].mean() > kept[ring].mean() + 10, "the surroundings are paler, and so is the rim"
    assert (kept[:50] == pale[:50]).all()


def test_nuclei_are_found_beside_the_mitosis():
    nuclei = ordinary_nuclei(drawn_crops()).numpy()
    assert nuclei.shape == (5, 3, 2)
    np.testing.assert_allclose(nuclei[:, 0], np.tile([96, 98], (5, 1)), atol=4)
    assert (np.hypot(*(nuclei - 64).transpose(2, 0, 1)) >= 42).all()

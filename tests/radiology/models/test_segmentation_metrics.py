import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

from pathology.errors import UsageError
from pathology.radiology.images.consensus import confidence_map, contour_at
from pathology.radiology.io.errors import GeometryError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask
from pathology.radiology.models.segmentation_metrics import continuous_dice, dice, segmentation_agreement, soft_dice
from pathology.testing.radiology_phantoms import ellipsoid


def blobs(seed, shape=(9, 20, 24)):
    random = np.random.default_rng(seed)
    centre = np.asarray(shape) / 2 + random.uniform(-2, 2, 3)
    grid = np.indices(shape).transpose(1, 2, 3, 0)
    return (((grid - centre) / random.uniform(2.0, 5.0, 3)) ** 2).sum(-1) + random.uniform(-0.3, 0.3, shape) < 1


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # within MONAI
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.98, 0.98, 3.27)])
def test_figures_equal_monai(seed, spacing):
    first, second = blobs(seed), blobs(seed + 100)
    geometry = Geometry((24, 20, 9), spacing)
    own = segmentation_agreement(Mask(first, geometry), Mask(second, geometry))
    a, b = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (first, second))
    options = {"include_background": True, "spacing": list(geometry.array_spacing)}
    assert own.dice == pytest.approx(float(compute_dice(a, b)), abs=1e-6)
    assert own.hausdorff_mm == pytest.approx(float(compute_hausdorff_distance(a, b, **options)), abs=1e-4)
    p95 = compute_hausdorff_distance(a, b, percentile=95, **options)
    assert own.hausdorff95_mm == pytest.approx(float(p95), abs=1e-4)
    average = compute_average_surface_distance(a, b, symmetric=True, **options)
    assert own.average_surface_mm == pytest.approx(float(average), abs=1e-4)


def test_known_distance():
    geometry = Geometry((30, 30, 30), (1.0, 1.0, 2.0))
    cube = np.zeros(geometry.shape, bool)
    cube[5:10, 5:15, 5:15] = True
    moved = np.roll(cube, 3, axis=0)  # 3 slices of 2 mm
    found = segmentation_agreement(Mask(moved, geometry), Mask(cube, geometry))
    assert found.hausdorff_mm == 6.0
    assert found.dice == pytest.approx(2 / 5)


def test_empty_masks_and_other_grids():
    geometry = Geometry((8, 8, 8), (1, 1, 1))
    nothing, something = np.zeros((8, 8, 8), bool), np.zeros((8, 8, 8), bool)
    something[3, 3, 3] = True
    assert segmentation_agreement(Mask(nothing, geometry), Mask(nothing, geometry)).dice == 1.0
    lost = segmentation_agreement(Mask(nothing, geometry), Mask(something, geometry))
    assert (lost.dice, lost.hausdorff_mm) == (0.0, np.inf)
    with pytest.raises(GeometryError):
        segmentation_agreement(Mask(nothing, Geometry((8, 8, 8), (2, 1, 1))), Mask(something, geometry))


@given(st.integers(0, 2**31), st.floats(0.05, 0.95))
@settings(max_examples=50, deadline=None)
def test_binary_maps_reduce_to_dice(seed, share):
    random = np.random.default_rng(seed)
    a, b = random.random((4, 5, 6)) < share, random.random((4, 5, 6)) < share
    assert continuous_dice(a, b.astype(float)) == pytest.approx(dice(a, b))
    assert soft_dice(a.astype(float), b.astype(float)) == pytest.approx(dice(a, b))


def test_continuous_dice_by_hand():
    a = np.array([1, 1, 0, 0], bool)
    b = np.array([0.5, 0.25, 0.25, 0.0])
    # Σab = 0.75, two voxels meet, c = 0.375: 1.5 / (0.375 * 2 + 1.0)
    assert continuous_dice(a, b) == pytest.approx(1.5 / 1.75)
    # Confidence that is low but right is not punished.
    assert continuous_dice(a, np.array([0.3, 0.3, 0, 0])) == pytest.approx(1.0)
    # A haze of 0.2 over a volume that is tumour to 2 % outweighs a tumour that is found: 3.6 / (1.8 + 21.4).
    hazy = np.full(100, 0.2)
    hazy[:2] = 0.9
    assert continuous_dice(np.arange(100) < 2, hazy) == pytest.approx(3.6 / 23.2)
    assert soft_dice(np.array([0.5, 0.2]), np.array([0.5, 0.2])) == 1.0
    with pytest.raises(UsageError, match="between 0 and 1"):
        continuous_dice(a, b * 9)
    with pytest.raises(UsageError, match="shape"):
        soft_dice(b, b[:2])


def test_confidence_is_the_share_of_contours():
    geometry = Geometry((20, 20, 20), (1, 1, 1))
    contours = [ellipsoid(geometry, (9.5, 9.5, 9.5), (r, r, r)) for r in (4, 5, 6, 7)]
    confidence = confidence_map(contours)
    assert set(np.unique(confidence.array)) == {0, 0.25, 0.5, 0.75, 1}
    np.testing.assert_array_equal(contour_at(confidence, 0.5).array, contours[2].array)
    np.testing.assert_array_equal(contour_at(confidence, 1.0).array, contours[0].array)
    single = confidence_map(contours[:1])
    assert continuous_dice(contours[1].array, single.array) == pytest.approx(dice(contours[1].array, contours[0].array))
    with pytest.raises(UsageError):
        confidence_map([])
    with pytest.raises(GeometryError, match="contour 2"):
        confidence_map([contours[0], Mask(contours[0].array, Geometry((20, 20, 20), (1, 1, 2)))])

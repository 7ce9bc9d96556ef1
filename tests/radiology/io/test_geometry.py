import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathology.radiology.io.errors import EmptyMaskError, GeometryError
from pathology.radiology.io.geometry import Geometry, check_same_geometry
from pathology.radiology.io.volume import Mask, crop_to_mask


@given(
    st.tuples(*[st.floats(0.2, 8)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.floats(-3, 3),
    st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=5),
)
def test_indices_and_millimetres_are_inverse(spacing, origin, angle, points):
    c, s = np.cos(angle), np.sin(angle)
    geometry = Geometry((10, 11, 12), spacing, origin, (c, -s, 0, s, c, 0, 0, 0, 1))
    indices = np.asarray(points)
    np.testing.assert_allclose(geometry.to_index(geometry.to_patient(indices)), indices, atol=1e-6)
    assert not Geometry.from_affine(geometry.affine, geometry.size).difference(geometry)


def test_orientation_letters(axial):
    assert axial.orientation == "LPS"
    assert Geometry((2, 2, 2), (1, 1, 1), direction=(-1, 0, 0, 0, 1, 0, 0, 0, -1)).orientation == "RPI"


def test_a_sheared_grid_is_refused():
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 0.4
    with pytest.raises(GeometryError, match="perpendicular"):
        Geometry.from_affine(affine, (4, 4, 4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": (40, 36, 13)}, "voxels"),
        ({"spacing": (1.5, 1.25, 3.0)}, "spacing"),
        ({"origin": (-30.0, 22.5, 100.0)}, "shifted"),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "orientation"),
    ],
)
def test_another_grid_is_named(axial, change, words):
    other = Geometry(**({"size": axial.size, "spacing": axial.spacing, "origin": axial.origin} | change))
    with pytest.raises(GeometryError, match=words):
        check_same_geometry(axial, other, names=("image", "mask"))
    check_same_geometry(axial, axial, names=("image", "mask"))


def test_new_spacing_covers_the_same_block(oblique):
    new = oblique.with_spacing((2.0, 2.0, 2.0))
    face = np.full((1, 3), -0.5)
    np.testing.assert_allclose(new.to_patient(face), oblique.to_patient(face), atol=1e-9)
    extent = np.asarray(new.size) * 2.0 - np.asarray(oblique.size) * np.asarray(oblique.spacing)
    assert (extent >= -1e-9).all()
    assert (extent < 2.0).all()


def test_masks_that_do_not_fit_are_refused(mr, ct):
    image, mask = mr
    mask.check(image)
    with pytest.raises(EmptyMaskError, match="is empty"):
        Mask(np.zeros_like(mask.array), mask.geometry).check(image)


def test_crop_keeps_places(mr):
    image, mask = mr
    cut, cut_mask = crop_to_mask(image, mask, 5.0)
    assert cut_mask.volume_mm3 == mask.volume_mm3
    z, y, x = (int(v) for v in np.argwhere(cut_mask.array)[0])
    place = cut.geometry.to_patient(np.array([[x, y, z]]))
    old = np.rint(image.geometry.to_index(place)[0]).astype(int)
    assert image.array[old[2], old[1], old[0]] == cut.array[z, y, x]
    assert mask.array[old[2], old[1], old[0]]

import numpy as np
import pytest

from pathology.errors import UsageError
from pathology.radiology.images.intensity import IntensitySettings, default_intensity, normalise
from pathology.radiology.images.registration import (
    RegistrationSettings,
    correct_bias,
    register,
    resample,
)
from pathology.radiology.images.shells import dilate, peritumoural_shell
from pathology.radiology.io.errors import EmptyMaskError, StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Volume
from pathology.testing.radiology_phantoms import ellipsoid, tumour_phantom


def test_resampling_keeps_a_linear_ramp(oblique):
    """A ramp in space is known everywhere; resampling must not shift it."""
    z, y, x = np.indices(oblique.shape)
    points = oblique.to_patient(np.column_stack([x.ravel(), y.ravel(), z.ravel()]))
    ramp = (points @ [1.0, 2.0, -0.5]).reshape(oblique.shape).astype(np.float32)
    for spacing in [(1.0, 1.0, 1.0), (2.0, 2.0, 4.0)]:
        wanted = oblique.with_spacing(spacing)
        found = resample(Volume(ramp, oblique, "MR"), wanted)
        z, y, x = np.indices(wanted.shape)
        places = wanted.to_patient(np.column_stack([x.ravel(), y.ravel(), z.ravel()]))
        expected = (places @ [1.0, 2.0, -0.5]).reshape(wanted.shape)
        inner = (slice(3, -3), slice(9, -9), slice(9, -9))
        np.testing.assert_allclose(found.array[inner], expected[inner], atol=0.3)


def test_resampling_averages_before_it_thins():
    geometry = Geometry((64, 64, 8), (1, 1, 1))
    checkers = (np.indices(geometry.shape).sum(axis=0) % 2).astype(np.float32)
    coarse = resample(Volume(checkers, geometry, "MR"), geometry.with_spacing((4, 4, 1)))
    assert coarse.array[2:-2, 2:-2, 2:-2].std() < 0.05


def test_bias_is_removed(axial):
    image, _ = tumour_phantom(axial, seed=1, noise=5, contrast=0)
    x = np.linspace(-1, 1, axial.size[0])
    biased = image.with_array(image.array * np.exp(0.4 * x))
    limb = biased.array > 150

    def variation(v):
        return v[limb].std() / v[limb].mean()

    corrected = correct_bias(biased, shrink=1)
    assert variation(biased.array) > 0.15
    assert variation(corrected.array) < 0.5 * variation(biased.array)
    both = normalise(biased, IntensitySettings(method="zscore", bias_correction=True))
    place = np.broadcast_to(x, axial.shape)[limb]
    assert abs(np.corrcoef(both.array[limb], place)[0, 1]) < 0.4
    assert abs(np.corrcoef(normalise(biased).array[limb], place)[0, 1]) > 0.8
    with pytest.raises(UsageError, match="MR"):
        correct_bias(Volume(image.array, axial, "CT", "HU"))
    with pytest.raises(UsageError, match="negative"):
        correct_bias(image.with_array(image.array - 50))


@pytest.fixture
def head():
    """Structure without symmetry, so that an alignment is unique."""
    geometry = Geometry((48, 48, 24), (2, 2, 3))
    array = 100.0 * ellipsoid(geometry, (47, 47, 36), (38, 30, 30)).array
    array += 80.0 * ellipsoid(geometry, (60, 40, 40), (10, 14, 9)).array
    array += 60.0 * ellipsoid(geometry, (32, 55, 28), (8, 8, 12)).array
    return Volume(array.astype(np.float32), geometry, "MR", "", "t1")


def moved_copy(volume, angle, shift, invert=True):
    """The same object turned about z and shifted, in inverted contrast like another sequence."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.geometry.spacing)
    transform = sitk.Euler3DTransform((47, 47, 36), 0, 0, np.radians(angle), shift)
    array = sitk.GetArrayFromImage(sitk.Resample(image, image, transform, sitk.sitkLinear, 0.0))
    return Volume((220 - array if invert else array).astype(np.float32), volume.geometry, "MR", "", "t2"), array


def test_rigid_registration_finds_a_known_motion(head):
    moving, _ = moved_copy(head, 6, (5, -4, 3))
    found = register(head, moving, RegistrationSettings(sampling=1.0))
    assert found.metric_after < found.metric_before
    assert found.rotation_degrees == pytest.approx(6, abs=1.0)
    back = 220 - found.apply(moving, outside=220).array
    before = 220 - moving.array
    inner = (slice(4, -4), slice(8, -8), slice(8, -8))
    assert np.abs(back - head.array)[inner].mean() < 0.35 * np.abs(before - head.array)[inner].mean()


def test_registration_repeats_exactly(head):
    moving, _ = moved_copy(head, 3, (2, 2, 0))
    chosen = RegistrationSettings(iterations=15)
    np.testing.assert_array_equal(
        register(head, moving, chosen).apply(moving).array, register(head, moving, chosen).apply(moving).array
    )


def test_deformable_registration_improves_on_rigid(head):
    z, y, x = np.indices(head.array.shape)
    from scipy.ndimage import map_coordinates

    bent = map_coordinates(head.array, [z, y + 2.5 * np.sin(x / 12), x + 2 * np.sin(y / 10)], order=1)
    moving = Volume(bent.astype(np.float32), head.geometry, "MR", "", "bent")
    rigid = register(head, moving)
    both = register(head, moving, RegistrationSettings(deformable=True, grid_mm=40, iterations=15))
    assert both.metric_after < rigid.metric_after
    error = np.abs(both.apply(moving).array - head.array).mean()
    assert error < 0.8 * np.abs(rigid.apply(moving).array - head.array).mean()


def test_images_apart_are_refused(head):
    far = Volume(head.array, Geometry(head.geometry.size, head.geometry.spacing, (5000, 0, 0)), "MR", "", "far")
    with pytest.raises(StudyError, match="overlap"):
        register(head, far)


def test_intensities_by_modality(mr, ct):
    assert default_intensity("CT").method == "window"
    scaled = normalise(ct[0])
    assert scaled.array.min() == 0
    assert scaled.array[ct[0].array == ct[0].array.max()] == 1
    standard = normalise(mr[0])
    body = mr[0].array > 0.1 * np.percentile(mr[0].array, 99)
    assert abs(standard.array[body].mean()) < 0.02
    assert standard.array[body].std() == pytest.approx(1, abs=0.06)  # values beyond 5 are clipped
    # Another gain of the same scanner makes no difference.
    np.testing.assert_allclose(normalise(mr[0].with_array(mr[0].array * 3.7)).array, standard.array, atol=1e-4)
    share = normalise(mr[0], IntensitySettings(method="percentile", low=1, high=99))
    assert (share.array.min(), share.array.max()) == (0, 1)
    assert normalise(mr[0], IntensitySettings(method="none")) is mr[0]
    with pytest.raises(StudyError, match="one value"):
        normalise(mr[0].with_array(np.full(mr[0].array.shape, 7.0)))
    with pytest.raises(ValueError, match="below high"):
        IntensitySettings(method="window", low=5, high=5)
    with pytest.raises(ValueError, match="between 0 and 100"):
        IntensitySettings(method="percentile", low=0, high=101)


def test_shells_have_their_width_in_millimetres():
    geometry = Geometry((61, 61, 21), (1, 1, 3))
    centre = geometry.to_patient(np.array([[30, 30, 10]]))[0]
    point = np.zeros(geometry.shape, bool)
    point[10, 30, 30] = True
    tumour = Mask(point, geometry)
    shell = peritumoural_shell(tumour, 6, gap_mm=3)
    z, y, x = np.nonzero(shell.array)
    distance = np.linalg.norm(geometry.to_patient(np.column_stack([x, y, z])) - centre, axis=1)
    assert distance.min() > 3
    assert distance.max() <= 9
    assert shell.array[7, 30, 30]  # 9 mm up: 3 slices
    assert not shell.array[6, 30, 30]
    assert shell.array[10, 30, 21]
    assert not shell.array[10, 30, 20]
    ball = dilate(tumour, 10)
    assert ball.volume_mm3 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.05)
    np.testing.assert_array_equal(dilate(ball, 0).array, ball.array)
    assert dilate(ball, -4).volume_mm3 < ball.volume_mm3
    half = Mask(np.indices(geometry.shape)[2] > 30, geometry)
    assert not (peritumoural_shell(tumour, 6, within=half).array & ~half.array).any()
    with pytest.raises(EmptyMaskError, match="is empty after erosion"):
        dilate(ball, -40)
    with pytest.raises(UsageError):
        peritumoural_shell(tumour, 0)
    with pytest.raises(EmptyMaskError, match="no voxel lies"):
        peritumoural_shell(tumour, 0.5)

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from pathology.radiology.io.errors import EmptyMaskError, GeometryError, StudyError
from pathology.radiology.io.itk import to_image
from pathology.radiology.io.nifti import write_nifti
from pathology.radiology.io.open import open_mask, open_volume
from pathology.radiology.io.volume import Mask
from pathology.testing.radiology_phantoms import tumour_phantom


def write_itk(item, path):
    array = item.array.astype(np.uint8) if isinstance(item, Mask) else item.array
    sitk.WriteImage(to_image(array, item.geometry), str(path), useCompression=True)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("grid", ["axial", "oblique"])
def test_volumes_and_masks_come_back(request, tmp_path, suffix, grid):
    image, mask = tumour_phantom(request.getfixturevalue(grid), seed=4)
    write = write_nifti if suffix.startswith(".nii") else write_itk
    write(image, tmp_path / f"image{suffix}")
    write(mask, tmp_path / f"mask{suffix}")
    opened = open_volume(tmp_path / f"image{suffix}", modality="MR")
    assert not opened.volume.geometry.difference(image.geometry)
    np.testing.assert_array_equal(opened.volume.array, image.array)
    np.testing.assert_array_equal(open_mask(tmp_path / f"mask{suffix}", opened).array, mask.array)


def test_nifti_lies_where_simpleitk_puts_it(tmp_path, oblique):
    image, _ = tumour_phantom(oblique)
    write_nifti(image, tmp_path / "image.nii.gz")
    other = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    np.testing.assert_allclose(other.GetOrigin(), oblique.origin, atol=1e-4)
    np.testing.assert_allclose(other.GetDirection(), oblique.direction, atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other), image.array)


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(StudyError, match="file or folder not found"):
        open_volume(tmp_path / "none.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(StudyError, match="cannot be read"):
        open_volume(tmp_path / "bad.nii.gz")
    (tmp_path / "bad.nrrd").write_bytes(b"not a volume")
    with pytest.raises(StudyError, match="cannot be read"):
        open_volume(tmp_path / "bad.nrrd")
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(StudyError, match="unsupported volume format"):
        open_volume(tmp_path / "photo.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.float32), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(GeometryError, match="4 axes"):
        open_volume(tmp_path / "four.nii")
    placeless = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.float32), None)
    nibabel.save(placeless, tmp_path / "placeless.nii")
    with pytest.raises(GeometryError, match="has no orientation"):
        open_volume(tmp_path / "placeless.nii")


def test_masks_must_fit_their_image(tmp_path, mr, oblique):
    image, mask = mr
    write_nifti(image, tmp_path / "image.nii")
    opened = open_volume(tmp_path / "image.nii")
    write_nifti(Mask(mask.array, oblique), tmp_path / "turned.nii")
    with pytest.raises(GeometryError, match="orientation"):
        open_mask(tmp_path / "turned.nii", opened)
    write_nifti(Mask(np.zeros_like(mask.array), mask.geometry), tmp_path / "empty.nii")
    with pytest.raises(EmptyMaskError):
        open_mask(tmp_path / "empty.nii", opened)
    write_nifti(mask, tmp_path / "mask.nii")
    with pytest.raises(EmptyMaskError):
        open_mask(tmp_path / "mask.nii", opened, label=7)


def test_real_volumes_and_masks_fit(data_dir):
    patients = sorted((data_dir / "radiology" / "sts").glob("STS_*"))
    assert len(patients) == 28
    for patient in patients[:4]:
        for name, modality in (("CT", "CT"), ("MR_T1", "MR"), ("PET", "PT")):
            opened = open_volume(patient / f"{name}_image.nii.gz", modality=modality)
            mask = open_mask(patient / f"{name}_mask.nii.gz", opened)
            assert 100 < mask.volume_mm3 / 1000 < 3000 or mask.volume_mm3 > 10_000
            assert opened.volume.geometry.orientation == "LPS"

import shutil

import numpy as np
import pydicom
import pytest

from pathology.radiology.io.dicom import read_diffusion_series, read_series
from pathology.radiology.io.dicom_seg import read_segmentation, write_segmentation
from pathology.radiology.io.errors import (
    EmptyMaskError,
    GeometryError,
    MissingDoseError,
    MissingSliceError,
    MixedSeriesError,
    StudyError,
)
from pathology.radiology.io.open import open_mask, open_volume
from pathology.radiology.io.rtstruct import structure_names
from pathology.radiology.io.volume import Mask, Volume
from pathology.testing.radiology_dicom_write import write_contours, write_series
from pathology.testing.radiology_phantoms import ellipsoid, tumour_phantom


def edit(folder, change, only=None):
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        if only is None or number in only:
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)


@pytest.fixture
def series(mr, tmp_path):
    write_series(mr[0], tmp_path / "mr", pseudonym="P1", description="T1")
    return tmp_path / "mr"


@pytest.mark.parametrize("grid", ["axial", "oblique"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_written_series_comes_back(request, tmp_path, grid, modality):
    image, _ = tumour_phantom(request.getfixturevalue(grid), modality="MR")
    unit = {"CT": "HU", "PT": "SUV"}.get(modality, "")
    image = Volume(image.array, image.geometry, modality, unit, "x")
    write_series(image, tmp_path / "s", pseudonym="P1")
    back, series = read_series(tmp_path / "s")
    assert (back.modality, back.unit) == (modality, unit)
    assert not back.geometry.difference(image.geometry)
    step = 1.0 if modality == "CT" else float(np.ptp(image.array)) / 65535
    assert np.abs(back.array - image.array).max() <= step * 0.51
    assert series.slices[0].PatientID == "P1"


def test_slices_are_sorted_by_place_not_by_name(series, mr):
    for number, path in enumerate(sorted(series.glob("*.dcm"))):
        path.rename(series / f"x{(number * 5) % 14:02d}.dcm")
    back, _ = read_series(series)
    np.testing.assert_allclose(back.array, mr[0].array, atol=0.02)


def test_a_missing_slice_is_named(series):
    (series / "0005.dcm").unlink()
    with pytest.raises(MissingSliceError, match=r"1 slice\(s\) are missing between 109.8 and 116.3 mm"):
        read_series(series)


def test_an_uneven_gap_is_no_missing_slice(series):
    def shift(dataset):
        position = dataset.ImagePositionPatient
        position[2] = float(position[2]) + 1.2
        dataset.ImagePositionPatient = position

    edit(series, shift, only={13})
    with pytest.raises(GeometryError, match="apart but"):
        read_series(series)


def test_mixed_orientations_are_refused(series):
    edit(series, lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), only={0})
    with pytest.raises(GeometryError, match="2 orientations"):
        read_series(series)


def test_a_tilted_gantry_is_refused(series):
    def tilt(dataset):
        position = [float(v) for v in dataset.ImagePositionPatient]
        dataset.ImagePositionPatient = [position[0], position[1] + 0.3 * int(dataset.InstanceNumber), position[2]]

    edit(series, tilt)
    with pytest.raises(GeometryError, match="gantry tilt"):
        read_series(series)


def test_two_series_in_a_folder_need_a_name(series, ct):
    written = write_series(ct[0], series / "more", pseudonym="P1")
    with pytest.raises(MixedSeriesError, match="2 series"):
        read_series(series)
    assert read_series(series, series_uid=written.uid)[0].modality == "CT"
    with pytest.raises(StudyError, match="not found"):
        read_series(series, series_uid="1.2.3")


def test_the_same_slice_twice_is_refused(series):
    shutil.copy(series / "0003.dcm", series / "copy.dcm")
    with pytest.raises(MixedSeriesError, match="more than one image"):
        read_series(series)


def test_mixed_sizes_and_missing_places_are_refused(series):
    edit(series, lambda d: setattr(d, "PixelSpacing", [2.0, 2.0]), only={4})
    with pytest.raises(GeometryError, match="pixel spacing differs"):
        read_series(series)
    edit(series, lambda d: d.__delattr__("PixelSpacing"), only={4})
    with pytest.raises(GeometryError, match="PixelSpacing is missing"):
        read_series(series)


def test_an_empty_folder_and_damaged_pixels(series, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("no image here")
    with pytest.raises(StudyError, match="no DICOM image"):
        read_series(tmp_path / "none")
    path = series / "0002.dcm"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(StudyError, match=r"cannot be decoded|no readable DICOM"):
        read_series(series)


def test_diffusion_series_are_split_by_b_value(mr, tmp_path):
    for b in (0, 800):
        faded = mr[0].with_array(mr[0].array * np.exp(-b * 1e-3))
        write_series(faded, tmp_path / "dwi" / f"b{b}", pseudonym="P1")
        edit(
            tmp_path / "dwi" / f"b{b}",
            lambda d, b=b: (setattr(d, "DiffusionBValue", float(b)), setattr(d, "SeriesInstanceUID", "1.2.3.4")),
        )
    with pytest.raises(MixedSeriesError, match="b-values"):
        read_series(tmp_path / "dwi")
    volumes = read_diffusion_series(tmp_path / "dwi")
    assert list(volumes) == [0.0, 800.0]
    assert volumes[800.0].array.max() == pytest.approx(volumes[0.0].array.max() * np.exp(-0.8), rel=1e-3)
    edit(tmp_path / "dwi" / "b0", lambda d: d.__delattr__("DiffusionBValue"), only={0})
    with pytest.raises(StudyError, match="b-value"):
        read_diffusion_series(tmp_path / "dwi")


# --- SUV -----------------------------------------------------------------------------------------------------


def make_bqml(dataset, **changes):
    """A PET header as a scanner writes it: 370 MBq of F-18 one half-life before the scan, 70 kg."""
    tracer = pydicom.Dataset()
    tracer.RadionuclideTotalDose = "370000000"
    tracer.RadionuclideHalfLife = "6586.2"
    tracer.RadiopharmaceuticalStartTime = "100000"
    dataset.Units = "BQML"
    dataset.PatientWeight = "70"
    dataset.SeriesDate = dataset.AcquisitionDate = "20200102"
    dataset.SeriesTime = dataset.AcquisitionTime = "114946"  # 6586 s later
    dataset.CorrectedImage = ["DECY", "ATTN", "SCAT"]
    dataset.DecayCorrection = "START"
    for name, value in changes.items():
        target = tracer if name.startswith("Radio") else dataset
        if value is None:
            if name in target:
                delattr(target, name)
        else:
            setattr(target, name, value)
    dataset.RadiopharmaceuticalInformationSequence = pydicom.Sequence([tracer])


@pytest.fixture
def pet(axial, tmp_path):
    image, _ = tumour_phantom(axial, seed=3)
    write_series(Volume(image.array, axial, "PT", "SUV", "pet"), tmp_path / "pet", pseudonym="P1")
    return tmp_path / "pet", image


def test_suv_from_activity(pet):
    folder, image = pet
    edit(folder, make_bqml)
    back, _ = read_series(folder)
    # One half-life after 370 MBq, 185 MBq are left; SUV 1 is 185e6 Bq / 70,000 g.
    np.testing.assert_allclose(back.array, image.array * 70000 / (185e6 * 2 ** (0.2 / 6586.2)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"DecayCorrection": "ADMIN"}, 70000 / 370e6),
        ({"RadiopharmaceuticalStartDateTime": "20200102100000.00"}, 70000 / 185e6),
        # Injected before midnight, scanned after it.
        (
            {"RadiopharmaceuticalStartTime": "234000", "SeriesTime": "012946", "AcquisitionTime": "012946"},
            70000 / 185e6,
        ),
        # A series made later on a workstation: the acquisition counts.
        ({"SeriesTime": "180000"}, 70000 / 185e6),
        ({"Units": "GML"}, 1.0),
    ],
)
def test_suv_reference_times(pet, changes, factor):
    folder, image = pet
    edit(folder, lambda d: make_bqml(d, **changes))
    back, _ = read_series(folder)
    assert back.array.max() == pytest.approx(image.array.max() * factor, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RadionuclideTotalDose": None}, "injected dose is missing"),
        ({"RadionuclideHalfLife": None}, "half-life"),
        ({"PatientWeight": None}, "weight is missing"),
        ({"PatientWeight": "70000"}, "implausible"),
        ({"RadiopharmaceuticalStartTime": None}, "time of injection"),
        ({"Units": "CNTS"}, "counts without a scale factor"),
        ({"Units": "PROPCPS"}, "PROPCPS"),
        ({"CorrectedImage": ["DECY"]}, "not corrected for ATTN"),
        ({"DecayCorrection": "NONE"}, "decay correction is 'NONE'"),
    ],
)
def test_pet_without_dose_is_refused(pet, changes, words):
    folder, _ = pet
    edit(folder, lambda d: make_bqml(d, **changes))
    with pytest.raises(MissingDoseError, match=words):
        read_series(folder)


# --- contours and segmentations ------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["axial", "oblique"])
def test_contours_come_back_with_their_holes(request, tmp_path, grid):
    geometry = request.getfixturevalue(grid)
    image, _ = tumour_phantom(geometry)
    middle = tuple(geometry.to_patient(np.array([[20, 18, 7]]))[0])
    ring = ellipsoid(geometry, middle, (18, 15, 15)).array & ~ellipsoid(geometry, middle, (8, 6, 6)).array
    mask = Mask(ring, geometry, "GTV")
    series = write_series(image, tmp_path / "s", pseudonym="P1")
    write_contours(mask, series, tmp_path / "rt.dcm")
    opened = open_volume(tmp_path / "s")
    back = open_mask(tmp_path / "rt.dcm", opened)
    assert back.name == "GTV"
    np.testing.assert_array_equal(back.array, ring)


def test_contours_of_another_series_or_name_are_refused(series, mr, ct, tmp_path):
    opened = open_volume(series)
    write_contours(Mask(mr[1].array, mr[1].geometry, "GTV"), opened.series, tmp_path / "rt.dcm")
    assert structure_names(pydicom.dcmread(tmp_path / "rt.dcm")) == ("GTV",)
    with pytest.raises(StudyError, match="no unique structure 'oedema' among GTV"):
        open_mask(tmp_path / "rt.dcm", opened, structure="oedema")
    write_series(ct[0], tmp_path / "other", pseudonym="P1")
    with pytest.raises(StudyError, match="another series"):
        open_mask(tmp_path / "rt.dcm", open_volume(tmp_path / "other"))
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    del dataset.ROIContourSequence[0].ContourSequence
    dataset.save_as(tmp_path / "empty.dcm")
    with pytest.raises(EmptyMaskError, match="no contour"):
        open_mask(tmp_path / "empty.dcm", opened)


@pytest.mark.parametrize("grid", ["axial", "oblique"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_segmentation_comes_back(request, tmp_path, check_conformance, grid, modality):
    geometry = request.getfixturevalue(grid)
    image, mask = tumour_phantom(geometry, seed=5)
    image = Volume(image.array, geometry, modality, {"CT": "HU", "PT": "SUV"}.get(modality, ""), "x")
    series = write_series(image, tmp_path / "s", pseudonym="P1")
    write_segmentation(Mask(mask.array, geometry, "tumour"), series, tmp_path / "seg.dcm", model="unet-3d 1.0.0")
    back = open_mask(tmp_path / "seg.dcm", open_volume(tmp_path / "s"))
    np.testing.assert_array_equal(back.array, mask.array)
    check_conformance(tmp_path / "seg.dcm")


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_written_series_and_contours_conform(mr, tmp_path, check_conformance, modality):
    image, mask = mr
    image = Volume(image.array, image.geometry, modality, {"CT": "HU", "PT": "SUV"}.get(modality, ""), "x")
    series = write_series(image, tmp_path / "s", pseudonym="P1")
    write_contours(mask, series, tmp_path / "rt.dcm")
    check_conformance(tmp_path / "s" / "0001.dcm")
    check_conformance(tmp_path / "rt.dcm")


def test_segmentation_of_another_series_is_refused(series, mr, ct, tmp_path):
    opened = open_volume(series)
    write_segmentation(mr[1], opened.series, tmp_path / "seg.dcm")
    write_series(ct[0], tmp_path / "other", pseudonym="P1")
    with pytest.raises(StudyError, match="another series"):
        read_segmentation(tmp_path / "seg.dcm", open_volume(tmp_path / "other").series)
    with pytest.raises(EmptyMaskError):
        write_segmentation(Mask(np.zeros_like(mr[1].array), mr[1].geometry), opened.series, tmp_path / "none.dcm")
    assert not (tmp_path / "none.dcm").exists()


@pytest.mark.parametrize(("name", "modality"), [("MR_T1", "MR"), ("CT", "CT"), ("PET", "PT")])
def test_a_real_volume_goes_through_dicom(data_dir, tmp_path, check_conformance, name, modality):
    """A real volume as a DICOM series with contours: the same mask comes back from RTSTRUCT and from SEG."""
    patient = data_dir / "radiology" / "sts" / "STS_042"
    image = open_volume(patient / f"{name}_image.nii.gz", modality=modality)
    mask = open_mask(patient / f"{name}_mask.nii.gz", image, structure="GTV")
    series = write_series(image.volume, tmp_path / "s", pseudonym="STS_042")
    write_contours(mask, series, tmp_path / "rt.dcm")
    write_segmentation(mask, series, tmp_path / "seg.dcm", model="reader 1.0.0")
    opened = open_volume(tmp_path / "s")
    assert not opened.volume.geometry.difference(image.volume.geometry)
    for file in ("rt.dcm", "seg.dcm"):
        np.testing.assert_array_equal(open_mask(tmp_path / file, opened).array, mask.array)
        check_conformance(tmp_path / file)

"""A DICOM slide is the same slide, or refused for the same reason, however it is named and whatever lies beside it."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from pathology.errors import UnsupportedSlideError
from pathology.slide.open import find_slides, open_reader
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_dicom

PIXELS = TissuePicture(300, 200, mpp=1.0, tissue=0.8).window(0, 0, 300, 200)


def write(folder, **options):
    return write_dicom(folder, ArrayPicture(PIXELS), factors=(1, 2), tile=64, **options)


def identity(path):
    with open_reader(path) as reader:
        pixels = reader.read_masked(0, 0, 0, *reader.dimensions).pixels
        return reader.backend, reader.fingerprint, reader.dimensions, len(reader.levels), pixels.tobytes()


def volumes(folder):
    return [file for file in sorted(folder.glob("*.dcm")) if "VOLUME" in pydicom.dcmread(file).get("ImageType", ())]


def add_annotation(folder):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.MicroscopyBulkSimpleAnnotationsStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = uid.generate_uid(), uid.generate_uid(), "ANN"
    data.save_as(folder / "annotation.dcm", enforce_file_format=True)


def add_directory(folder):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.FileSetID, data.DirectoryRecordSequence = "SLIDES", []
    data.save_as(folder / "DICOMDIR", enforce_file_format=True)


def add_copies(folder):
    for file in list(folder.glob("*.dcm")):
        shutil.copy(file, file.with_name(f"{file.stem} (1).dcm"))


def add_tiff_preamble(folder):
    for file in folder.glob("*.dcm"):
        data = bytearray(file.read_bytes())
        data[:8] = b"II*\0\x08\0\0\0"
        file.write_bytes(data)


@pytest.mark.parametrize("disturb", [add_annotation, add_directory, add_copies, add_tiff_preamble])
@pytest.mark.parametrize("concatenated", [1, 3])
def test_what_lies_beside_a_slide_changes_nothing(tmp_path, disturb, concatenated):
    folder = write(tmp_path / "given" / "slide", concatenated=concatenated)
    expected = identity(folder)
    disturb(folder)
    assert find_slides([folder.parent]) == [folder]
    for path in (folder, *volumes(folder)):
        assert identity(path) == expected, path


def test_every_case(data_dir):
    cases = data_dir / "cases"
    seen = {}
    for name, levels in (
        ("dcm-concatenation-all-duplicated", 1),
        ("dcm-dual-tiff", 2),
        ("dcm-folder-no-fallback", 2),
        ("dcm-folder-with-annotation", 2),
        ("dcm-j2k-33003-as-ybr-ict", 1),
        ("dcm-zero-length-frame-bot", 1),
    ):
        folder = cases / name
        slides = {identity(path) for path in (folder, *volumes(folder), *find_slides([folder]))}
        assert len(slides) == 1, name
        (_, _, dimensions, number, pixels) = seen[name] = slides.pop()
        assert (dimensions, number) == ((1024, 1024), levels), name
        seen[name] = np.frombuffer(pixels, np.uint8).reshape(1024, 1024, 3).astype(int)
    # Four of them store one picture.
    same = seen["dcm-folder-with-annotation"]
    assert np.abs(seen["dcm-j2k-33003-as-ybr-ict"] - same).mean() < 5  # the other one is JPEG
    np.testing.assert_array_equal(seen["dcm-dual-tiff"], same)
    with open_reader(cases / "dcm-zero-length-frame-bot") as reader:
        reader.read_masked(0, 0, 0, 1024, 1024)
        assert reader.tile_counts.unreadable == 2


def test_a_concatenation_twice_is_openslides_picture(data_dir):
    openslide = pytest.importorskip("openslide")
    folder = data_dir / "cases" / "dcm-concatenation-all-duplicated"
    with open_reader(folder) as reader, openslide.OpenSlide(folder / "9_part.dcm") as other:
        got = reader.read(0, 0, 0, *reader.dimensions)
        expected = np.asarray(other.read_region((0, 0), 0, reader.dimensions).convert("RGB"))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("image_type", "reason"),
    [
        (None, "ImageType is missing"),
        (["ORIGINAL", "PRIMARY"], "ImageType is missing or incomplete"),
        (["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "only label"),
        (["ORIGINAL", "PRIMARY", "THUMBNAIL", "NONE"], "only thumbnail"),
    ],
)
def test_refusals_are_our_own_and_accurate(tmp_path, image_type, reason):
    folder = write(tmp_path / "slide")
    for file in list(folder.glob("*.dcm")):
        data = pydicom.dcmread(file)
        if data.ImageType[2] != "VOLUME":
            file.unlink()
            continue
        if image_type is None:
            del data.ImageType
        else:
            data.ImageType = image_type
        data.save_as(file)
    for path in (folder, *folder.glob("*.dcm")):
        with pytest.raises(UnsupportedSlideError, match=reason) as refusal:
            open_reader(path)
        assert "damaged" not in str(refusal.value)


def test_an_annotation_named_is_refused_by_name(tmp_path):
    folder = write(tmp_path / "slide")
    add_annotation(folder)
    named = folder / "annotation.dcm"
    assert find_slides([named]) == [named]
    with pytest.raises(UnsupportedSlideError, match="not a whole-slide image"):
        open_reader(named)


def test_focal_planes_are_said(tmp_path):
    folder = write(tmp_path / "slide", organisation="TILED_FULL")
    for file in volumes(folder):
        data = pydicom.dcmread(file)
        frames = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=data.NumberOfFrames))
        data.PixelData = pydicom.encaps.encapsulate(frames * 3)
        data.NumberOfFrames, data.TotalPixelMatrixFocalPlanes = 3 * len(frames), 3
        data.save_as(file)
    with open_reader(folder) as reader:
        assert any("3 focal planes; the middle one" in warning for warning in reader.warnings)

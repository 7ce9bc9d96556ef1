"""The DICOM backend: frame tables, organisations, colour, and what must stay hidden."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import openslide
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import CorruptSlideError, NotBrightfieldError, UnsupportedSlideError
from pathology.slide.open import open_reader
from pathology.slide.readers.dicom import DicomReader
from pathology.testing.slide_reader_suite import SlideReaderSuite
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_dicom

PICTURE = TissuePicture(611, 437, mpp=1.0, tissue=0.8)
FACTORS = (1, 4)
LOSSLESS = ("none", "rle", "jpeg2000-lossless")


def levels(picture=PICTURE):
    return [picture.reduced(factor, 0, 0, *picture.level_size(factor)) for factor in FACTORS]


def through_wsidicom(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pydicom, which wsidicom still calls by old names
        from wsidicom import WsiDicom

        with WsiDicom.open(path) as other:
            return [
                np.asarray(other.read_region((0, 0), level.level, level.size.to_tuple()).convert("RGB"))
                for level in sorted(other.levels, key=lambda level: -level.size.width)
            ]


class DicomSuite(SlideReaderSuite):
    identifiers = ("DOE", "12345678", "ACC-1", "S-1")

    @classmethod
    def open(cls, path):
        return DicomReader(path)


class TestEverySyntax(DicomSuite):
    @pytest.fixture(scope="class", params=["jpeg", "jpeg-rgb", "jpeg2000", "jpeg2000-lossless", "none", "rle"], ids=str)
    @classmethod
    def syntax(cls, request):
        cls.reduced_tolerance = 5.0 if "jpeg2000" in request.param else 0.0
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, syntax, tmp_path_factory):
        return write_dicom(
            tmp_path_factory.mktemp("slide") / "series", PICTURE, syntax=syntax, factors=FACTORS, tile=128
        )

    @pytest.fixture(scope="class")
    @classmethod
    def altered(cls, syntax, tmp_path_factory):
        pixels = PICTURE.window(0, 0, PICTURE.width, PICTURE.height).copy()
        pixels[200:232, 300:332] ^= 64
        folder = tmp_path_factory.mktemp("altered") / "series"
        return write_dicom(folder, ArrayPicture(pixels), syntax=syntax, factors=FACTORS, tile=128)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, syntax, slide):
        if syntax in LOSSLESS:
            return levels()
        return through_wsidicom(slide)

    def test_looks_like_what_was_written(self, expected):
        for got, wanted in zip(expected, levels(), strict=True):
            assert np.abs(got.astype(int) - wanted).mean() < 8

    def test_metadata(self, reader):
        assert reader.mpp == pytest.approx(0.5)
        assert reader.objective_power == 20
        assert reader.vendor == "synthetic"


class TestRealSeries(DicomSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, data_dir):
        return data_dir / "slides" / "formats" / "CMU-1-Small-Region-dicom"

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, cmu_slide):
        """The series was made from the Aperio slide's own tiles."""
        with openslide.OpenSlide(cmu_slide) as slide:
            return [np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))]

    def test_metadata(self, reader):
        assert reader.mpp == pytest.approx(0.499, abs=1e-3)


class TestRealInstance(DicomSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, data_dir):
        return data_dir / "slides" / "formats" / "camelyon-multiframe.dcm"

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, slide):
        with openslide.OpenSlide(slide) as other:
            return [np.asarray(other.read_region((0, 0), 0, other.dimensions).convert("RGB"))]


@settings(max_examples=25, deadline=None)
@given(
    syntax=st.sampled_from(["jpeg", "jpeg2000-lossless", "none", "rle"]),
    tile=st.sampled_from([64, 100, 256]),
    offsets=st.sampled_from(["basic", "extended", "none"]),
    organisation=st.sampled_from(["TILED_FULL", "TILED_SPARSE"]),
    fragments=st.integers(1, 3),
    concatenated=st.integers(1, 2),
)
def test_every_way_to_store_frames(tmp_path_factory, syntax, tile, offsets, organisation, fragments, concatenated):
    """Offset tables, fragments, concatenations and stated positions change nothing that is read."""
    if fragments > 1 and (offsets == "extended" or syntax == "rle"):
        fragments = 1  # not allowed by the standard
    small = ArrayPicture(PICTURE.window(150, 100, 260, 210))
    folder = write_dicom(
        tmp_path_factory.mktemp("frames") / "series",
        small,
        syntax=syntax,
        tile=tile,
        offsets=offsets,
        organisation=organisation,
        fragments=fragments,
        concatenated=concatenated,
    )
    with DicomReader(folder) as reader:
        difference = np.abs(reader.read(0, 0, 0, 260, 210).astype(int) - small.pixels)
        assert difference.mean() < 8 if syntax == "jpeg" else difference.max() == 0
        assert not reader.unreadable_tiles
    shutil.rmtree(folder)


def test_left_out_frames_are_white(tmp_path):
    folder = write_dicom(
        tmp_path / "s",
        PICTURE,
        tile=128,
        syntax="none",
        organisation="TILED_SPARSE",
        omitted=lambda level, column, row: column == 1,
    )
    with DicomReader(folder) as reader:
        region = reader.read_masked(0, 0, 0, 611, 437)
        assert not region.unreadable
        assert (region.pixels[:, 128:256] == 255).all()
        np.testing.assert_array_equal(region.pixels[:, :128], levels()[0][:, :128])


def test_any_file_opens_the_whole_series(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, factors=(1, 2, 4))
    fingerprints = set()
    for file in folder.iterdir():
        with open_reader(file) as reader:
            assert reader.backend == "dicom"
            assert len(reader.levels) == 3
            fingerprints.add(reader.fingerprint)
            for i, level in enumerate(reader.levels):
                pixels = reader.read(i, 0, 0, *level.dimensions)
                assert not (
                    pixels[:, :, 1].astype(int) - pixels[:, :, 0] > 200
                ).any()  # label and overview are pure green
    assert len(fingerprints) == 1


def test_two_series_in_a_folder(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128)
    other = TissuePicture(300, 200, seed=3)
    write_dicom(folder, other, tile=128)
    with pytest.raises(UnsupportedSlideError, match="2 DICOM series"):
        DicomReader(folder)
    sizes = set()
    for file in folder.iterdir():
        with DicomReader(file) as reader:
            sizes.add(reader.dimensions)
    assert sizes == {(611, 437), (300, 200)}


def volume_file(folder: Path, level: int = 0) -> Path:
    def width(path):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        return header.TotalPixelMatrixColumns if header.ImageType[2] == "VOLUME" else 0

    return sorted(folder.iterdir(), key=width, reverse=True)[level]


@pytest.mark.parametrize("syntax", ["jpeg", "none"])
@pytest.mark.parametrize("offsets", ["basic", "extended", "none"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path, syntax, offsets, share):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, syntax=syntax, offsets=offsets)
    file = volume_file(folder)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptSlideError):
        DicomReader(file)


def test_one_damaged_frame_is_masked(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, offsets="basic")
    file = volume_file(folder)
    content = bytearray(file.read_bytes())
    with DicomReader(folder) as reader:
        place = int(reader._stored[0].offsets[7]) + 8
        wanted = reader.read(0, 0, 0, 611, 437)
    content[place : place + 200] = bytes(200)
    file.write_bytes(content)
    with DicomReader(folder) as reader:
        region = reader.read_masked(0, 0, 0, 611, 437)
        assert reader.unreadable_tiles == {(0, 2, 1)}  # 5 tiles a row: the eighth is the third of the second row
        bad = np.zeros((437, 611), bool)
        bad[128:256, 256:384] = True
        assert (region.pixels[bad] == 255).all()
        np.testing.assert_array_equal(region.pixels[~bad], wanted[~bad])


def edited(folder: Path, **values: object) -> Path:
    file = volume_file(folder)
    header = pydicom.dcmread(file)
    for name, value in values.items():
        setattr(header, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.save_as(file)
    return file


def test_refuses_fluorescence(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, syntax="none")
    with pytest.raises(NotBrightfieldError, match="2 optical path"):
        DicomReader(edited(folder, NumberOfOpticalPaths=2))


def test_refuses_what_is_no_slide(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, syntax="none")
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        del header.TotalPixelMatrixColumns
        header.save_as(file)
    with pytest.raises(UnsupportedSlideError, match="only axial images"):
        DicomReader(folder)


def test_label_alone_is_refused(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, factors=(1,))
    volume_file(folder).unlink()
    with pytest.raises(UnsupportedSlideError, match="only label and overview images"):
        open_reader(folder)


def test_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UnsupportedSlideError, match="no DICOM slide"):
        open_reader(tmp_path)


def test_scale_from_the_imaged_volume(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, syntax="none", factors=(1,), mpp=0.25)
    file = volume_file(folder)
    header = pydicom.dcmread(file)
    del header.SharedFunctionalGroupsSequence
    header.save_as(file)
    with DicomReader(file) as reader:
        assert reader.mpp == pytest.approx(0.25, rel=1e-3)


def test_the_middle_of_several_focal_planes(tmp_path):
    folder = write_dicom(tmp_path / "s", PICTURE, tile=128, syntax="none", factors=(1,))
    file = volume_file(folder)
    header = pydicom.dcmread(file)
    planes = [header.PixelData, bytes(255 - value for value in header.PixelData), bytes(len(header.PixelData))]
    header.PixelData = planes[1] + planes[0] + planes[2]
    header.NumberOfFrames = int(header.NumberOfFrames) * 3
    header.TotalPixelMatrixFocalPlanes = 3
    header.save_as(file)
    with DicomReader(file) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 0, 611, 437), levels()[0])

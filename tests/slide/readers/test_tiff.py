"""The TIFF backend: every compression, tiled and in strips, against OpenSlide and against what was written."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import CorruptSlideError, NotBrightfieldError, UnsupportedSlideError
from pathology.slide.readers.tiff import TiffReader
from pathology.testing.slide_reader_suite import SlideReaderSuite
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_ome_tiff, write_svs, write_tiff

PICTURE = TissuePicture(611, 437, mpp=1.0, tissue=0.8)
FACTORS = (1, 4)
LOSSLESS = ("none", "lzw", "deflate", "jpeg2000-lossless", "webp-lossless")
LOSSY = ("jpeg", "jpeg-422", "jpeg-444", "jpeg-rgb", "jpeg2000", "jpeg2000-ycbcr", "webp")
OPENSLIDE_EXACT = ("jpeg", "jpeg-422", "jpeg-444", "jpeg-rgb")


def levels(picture=PICTURE, factors=FACTORS):
    return [picture.reduced(factor, 0, 0, *picture.level_size(factor)) for factor in factors]


def through_openslide(path):
    with openslide.OpenSlide(path) as slide:
        return [
            np.asarray(slide.read_region((0, 0), i, size).convert("RGB"))
            for i, size in enumerate(slide.level_dimensions)
        ]


class TiffSuite(SlideReaderSuite):
    options: ClassVar[dict] = {}

    @classmethod
    def open(cls, path):
        return TiffReader(path, **cls.options)


def write(folder: Path, kind: str, compression: str, picture=PICTURE) -> Path:
    if kind == "svs":
        return write_svs(folder / "slide.svs", picture, compression=compression, factors=FACTORS, tile=128)
    if kind == "ome":
        return write_ome_tiff(folder / "slide.ome.tif", picture, compression=compression, factors=FACTORS, tile=128)
    tile = None if kind == "strips" else (64, 128)
    return write_tiff(folder / "slide.tif", picture, compression=compression, factors=FACTORS, tile=tile)


class TestEveryKind(TiffSuite):
    """Lossless compressions give back what was written; lossy ones are read alike however they are read."""

    @pytest.fixture(
        scope="class",
        params=[
            *(("svs", compression) for compression in ("jpeg", "jpeg-rgb", "jpeg2000", "jpeg2000-ycbcr")),
            *(("tiles", compression) for compression in LOSSLESS + LOSSY),
            *(("strips", compression) for compression in ("none", "jpeg", "lzw", "webp-lossless")),
            ("ome", "jpeg"),
            ("ome", "deflate"),
        ],
        ids="-".join,
    )
    @classmethod
    def kind(cls, request):
        cls.reduced_tolerance = 5.0 if "jpeg2000" in request.param[1] else 0.0
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, kind, tmp_path_factory):
        return write(tmp_path_factory.mktemp("slide"), *kind)

    @pytest.fixture(scope="class")
    @classmethod
    def altered(cls, kind, tmp_path_factory):
        pixels = PICTURE.window(0, 0, PICTURE.width, PICTURE.height).copy()
        pixels[200:232, 300:332] ^= 64
        return write(tmp_path_factory.mktemp("altered"), *kind, picture=ArrayPicture(pixels))

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, kind, slide):
        if kind[1] in LOSSLESS:
            return levels()
        with cls.open(slide) as reader:
            return [reader.read(i, 0, 0, *level.dimensions) for i, level in enumerate(reader.levels)]

    def test_looks_like_what_was_written(self, kind, expected):
        for got, wanted in zip(expected, levels(), strict=True):
            assert np.abs(got.astype(int) - wanted).mean() < 8, kind


class TestThreadsAndNoCache(TiffSuite):
    options: ClassVar[dict] = {"threads": 3, "cache_bytes": 0}

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, tmp_path_factory):
        return write(tmp_path_factory.mktemp("slide"), "tiles", "deflate")

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls):
        return levels()


class TestRealSlide(TiffSuite):
    identifiers = ("b414003d", "CPAPERIOCS", "CMU-1")

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, cmu_slide):
        return cmu_slide

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, cmu_slide):
        return through_openslide(cmu_slide)

    def test_metadata(self, reader):
        assert reader.mpp == pytest.approx(0.499)
        assert reader.objective_power == 20
        assert reader.vendor == "aperio"
        assert reader.dimensions == (2220, 2967)
        assert len(reader.levels) == 1  # thumbnail, label and macro are none


class TestRealFormats(TiffSuite):
    @pytest.fixture(
        scope="class",
        params=[
            "CMU-1-Small-Region.jpeg.tiff",
            "CMU-1-Small-Region.jp2.tiff",
            "CMU-1-Small-Region.webp.tiff",
            "ome/xyc-JPEG.ome.tiff",
            "ome/xyc-LZW.ome.tiff",
        ],
    )
    @classmethod
    def slide(cls, data_dir, request):
        cls.reduced_tolerance = 5.0 if "jp2" in request.param else 0.0
        return data_dir / "slides" / "formats" / request.param

    def test_colours(self, reader, cmu_slide, slide):
        """The same picture as in the other containers: not blue, not pink."""
        got = reader.read(0, 0, 0, *reader.dimensions).astype(int)
        if slide.name.startswith("CMU"):
            wanted = through_openslide(cmu_slide)[0].astype(int)
            assert np.abs(got.mean((0, 1)) - wanted.mean((0, 1))).max() < 2
            assert np.abs(got - wanted).mean() < 6
        else:
            sibling = slide.with_name("xyc-LZW.ome.tiff")
            with TiffReader(sibling) as other:
                assert np.abs(got - other.read(0, 0, 0, *other.dimensions)).mean() < 14


@pytest.fixture(
    scope="module", params=(*OPENSLIDE_EXACT, "svs-jpeg", "svs-jpeg-rgb", "svs-jpeg2000", "svs-jpeg2000-ycbcr")
)
def beside_openslide(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    compression = request.param.removeprefix("svs-")
    path = write(folder, "svs" if request.param.startswith("svs") else "tiles", compression)
    with TiffReader(path) as reader, openslide.OpenSlide(path) as slide:
        yield reader, slide, 2 if "jpeg2000" in compression else 0


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_openslide_anywhere(beside_openslide, data):
    """Any window of any level; positions between OpenSlide's level-0 pixels cannot be compared."""
    reader, slide, tolerance = beside_openslide
    level = data.draw(st.integers(0, len(reader.levels) - 1))
    factor = FACTORS[level]
    width, height = reader.levels[level].dimensions
    x, y = data.draw(st.integers(-50, width + 10)), data.draw(st.integers(-50, height + 10))
    w, h = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300))
    if level and (reader.levels[level].downsample != factor):
        x = y = 0  # OpenSlide interpolates where a level's downsample is no whole number
    got = reader.read(level, x, y, w, h)
    picture = slide.read_region((x * factor, y * factor), level, (w, h))
    wanted = np.asarray(picture).astype(int)
    colour = np.where(wanted[:, :, 3:] == 0, 255, wanted[:, :, :3])
    assert np.abs(got - colour).max() <= tolerance


@settings(max_examples=60, deadline=None)
@given(x=st.integers(-300, 2300), y=st.integers(-300, 3100), w=st.integers(1, 700), h=st.integers(1, 700))
def test_equals_openslide_on_the_real_slide(real_pair, x, y, w, h):
    reader, slide = real_pair
    wanted = np.asarray(slide.read_region((x, y), 0, (w, h)))
    np.testing.assert_array_equal(reader.read(0, x, y, w, h), np.where(wanted[:, :, 3:] == 0, 255, wanted[:, :, :3]))


@pytest.fixture(scope="module")
def real_pair(cmu_slide):
    with TiffReader(cmu_slide) as reader, openslide.OpenSlide(cmu_slide) as slide:
        yield reader, slide


def test_pyramid_leaves_out_label_macro_and_thumbnail(tmp_path):
    path = write_svs(tmp_path / "a.svs", PICTURE, factors=(1, 2, 4), tile=64)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 6
    with TiffReader(path) as reader:
        assert [level.dimensions for level in reader.levels] == [PICTURE.level_size(f) for f in (1, 2, 4)]
        for i, level in enumerate(reader.levels):
            pixels = reader.read(i, 0, 0, *level.dimensions)
            assert not (pixels == (0, 255, 0)).all(axis=2).any()  # the forbidden pictures are pure green


def test_ome_leaves_out_the_label_and_finds_subifds(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", PICTURE, factors=(1, 2, 4), tile=64, physical_size=250, unit="nm")
    with TiffReader(path) as reader:
        assert len(reader.levels) == 3
        assert reader.mpp == pytest.approx(0.25)
        assert reader.objective_power == 40


@pytest.mark.parametrize(
    ("size", "unit", "mpp"), [(0.5, "µm", 0.5), (5e-4, "mm", 0.5), (5e-5, "cm", 0.5), (1, "pixel", None)]
)
def test_ome_units(tmp_path, size, unit, mpp):
    path = write_ome_tiff(tmp_path / "a.ome.tif", PICTURE, factors=(1,), physical_size=size, unit=unit)
    with TiffReader(path) as reader:
        assert reader.mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize(
    ("unit", "resolution", "mpp"), [("CENTIMETER", 20000, 0.5), ("INCH", 50800, 0.5), ("NONE", 1, None)]
)
def test_resolution_units(tmp_path, unit, resolution, mpp):
    path = tmp_path / "a.tif"
    pixels = PICTURE.window(0, 0, 300, 200)
    tifffile.imwrite(path, pixels, tile=(64, 64), resolution=(resolution, resolution), resolutionunit=unit)
    with TiffReader(path) as reader:
        assert reader.mpp == (None if mpp is None else pytest.approx(mpp))


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "jpeg"])
@pytest.mark.parametrize("predictor", [False, True])
def test_container_variants(tmp_path, bigtiff, byteorder, compression, predictor):
    if predictor and compression not in ("lzw", "deflate"):
        predictor = False
    path = write_tiff(
        tmp_path / "a.tif",
        PICTURE,
        tile=(64, 64),
        compression=compression,
        bigtiff=bigtiff,
        byteorder=byteorder,
        predictor=predictor,
    )
    with TiffReader(path) as reader:
        difference = np.abs(reader.read(0, 0, 0, 611, 437).astype(int) - levels()[0])
        assert difference.mean() < 8 if compression == "jpeg" else difference.max() == 0


@pytest.mark.parametrize("rows", [1, 7, 437])
def test_strips_of_any_height(tmp_path, rows):
    path = write_tiff(tmp_path / "a.tif", PICTURE, tile=None, rows_per_strip=rows, compression="none")
    with TiffReader(path) as reader:
        np.testing.assert_array_equal(reader.read(0, 10, 20, 300, 400), levels()[0][20:420, 10:310])


def test_one_huge_strip_is_read_in_parts(tmp_path):
    picture = ArrayPicture(np.random.default_rng(0).integers(0, 256, (1200, 1500, 3), np.uint8))
    path = write_tiff(tmp_path / "a.tif", picture, tile=None, rows_per_strip=1200, compression="none")
    with TiffReader(path) as reader:
        assert reader.tile_size[1] < 300
        np.testing.assert_array_equal(reader.read(0, 3, 5, 1400, 1190), picture.pixels[5:1195, 3:1403])


def test_left_out_tiles_are_white_and_no_damage(tmp_path):
    path = write_svs(
        tmp_path / "a.svs", PICTURE, tile=128, factors=FACTORS, omitted=lambda level, c, r: (c + r) % 2 == 0
    )
    with TiffReader(path) as reader, openslide.OpenSlide(path) as slide:
        region = reader.read_masked(0, 0, 0, 611, 437)
        assert not region.unreadable
        assert (region.pixels[:128, :128] == 255).all()
        wanted = np.asarray(slide.read_region((0, 0), 0, (611, 437)))
        np.testing.assert_array_equal(region.pixels, np.where(wanted[:, :, 3:] == 0, 255, wanted[:, :, :3]))


@pytest.mark.parametrize("kind", [2, 1])
def test_transparency_is_laid_on_white(tmp_path, kind):
    pixels = PICTURE.window(0, 0, 200, 160).copy()
    alpha = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (160, 1))
    stored = pixels if kind == 2 else (pixels * (alpha[:, :, None] / 255)).round().astype(np.uint8)
    path = tmp_path / "a.tif"
    rgba = np.dstack([stored, alpha])
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=[kind], tile=(64, 64), compression="zlib")
    wanted = pixels * (alpha[:, :, None] / 255) + 255 - alpha[:, :, None].astype(float)
    with TiffReader(path) as reader:
        assert np.abs(reader.read(0, 0, 0, 200, 160) - wanted).max() <= 1.01


def unusual(path: Path, kind: str) -> None:
    grey = np.zeros((100, 120), np.uint8)
    if kind == "grey":
        tifffile.imwrite(path, grey, tile=(64, 64))
    elif kind == "16 bits":
        tifffile.imwrite(path, np.zeros((100, 120, 3), np.uint16), tile=(64, 64), photometric="rgb")
    elif kind == "float mask":
        tifffile.imwrite(path, grey.astype(np.float32), tile=(64, 64))
    elif kind == "five channels":
        tifffile.imwrite(
            path, np.zeros((100, 120, 5), np.uint8), photometric="rgb", planarconfig="contig", tile=(64, 64)
        )
    elif kind == "channels in pages":
        tifffile.imwrite(path, np.zeros((4, 100, 120), np.uint8), photometric="minisblack", tile=(64, 64))
    elif kind == "palette":
        tifffile.imwrite(path, grey, photometric="palette", colormap=np.zeros((3, 256), np.uint16), tile=(64, 64))
    elif kind == "ome fluorescence":
        tifffile.imwrite(
            path, np.zeros((3, 100, 120), np.uint8), ome=True, metadata={"axes": "CYX"}, photometric="minisblack"
        )


@pytest.mark.parametrize(
    "kind",
    ["grey", "16 bits", "float mask", "five channels", "channels in pages", "palette", "ome fluorescence"],
)
def test_refuses_what_is_no_brightfield(tmp_path, kind):
    path = tmp_path / "a.tif"
    unusual(path, kind)
    with pytest.raises(NotBrightfieldError, match="RGB"):
        TiffReader(path)


def test_leaves_other_vendors_and_planes_to_openslide(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 100, 120), np.uint8), photometric="rgb", planarconfig="separate", tile=(64, 64))
    with pytest.raises(UnsupportedSlideError) as caught:
        TiffReader(path)
    assert not isinstance(caught.value, NotBrightfieldError)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 0.999))
def test_a_cut_file_is_refused_at_once(cut_source, share):
    """Wherever it is cut: never a slide that turns out white later."""
    path = cut_source.with_name("cut.svs")
    content = cut_source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    try:
        reader = TiffReader(path)
    except (CorruptSlideError, UnsupportedSlideError):
        return
    with reader:
        # What is missing can only be pixels of the label or macro, which come last.
        assert len(reader.levels) == len(FACTORS)
        whole = reader.read(0, 0, 0, *reader.dimensions)
    with TiffReader(cut_source) as intact:
        np.testing.assert_array_equal(whole, intact.read(0, 0, 0, *intact.dimensions))


@pytest.fixture(scope="module")
def cut_source(tmp_path_factory):
    return write_svs(tmp_path_factory.mktemp("cut") / "a.svs", PICTURE, tile=128, factors=FACTORS)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_as_a_foreign_error(cut_source, data):
    """Random bytes overwritten anywhere: the slide opens with its damage masked, or is refused in our own words."""
    content = cut_source.read_bytes()
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 30))):
        damaged[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = cut_source.with_name("damaged.svs")
    path.write_bytes(damaged)
    try:
        with TiffReader(path) as reader:
            width, height = reader.dimensions
            region = reader.read_masked(0, 0, 0, min(width, 700), min(height, 700))
            assert region.pixels.dtype == np.uint8
    except (CorruptSlideError, UnsupportedSlideError):
        pass

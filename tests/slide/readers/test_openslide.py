"""The OpenSlide backend, on formats OpenSlide knows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest

from pathology.errors import UnsupportedSlideError
from pathology.slide.readers.openslide import OpenSlideReader
from pathology.slide.readers.tiff import TiffReader
from pathology.testing.slide_reader_suite import SlideReaderSuite
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_svs

PICTURE = TissuePicture(640, 448, mpp=1.0, tissue=0.8)
FACTORS = (1, 4)


class TestSynthetic(SlideReaderSuite):
    identifiers = ("nobody",)

    @classmethod
    def open(cls, path):
        return OpenSlideReader(path)

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("slide")
        return write_svs(folder / "a.svs", PICTURE, compression="none", tile=64, factors=FACTORS)

    @pytest.fixture(scope="class")
    @classmethod
    def altered(cls, tmp_path_factory):
        pixels = PICTURE.window(0, 0, PICTURE.width, PICTURE.height).copy()
        pixels[200:232, 300:332] ^= 64
        folder = tmp_path_factory.mktemp("altered")
        return write_svs(folder / "a.svs", ArrayPicture(pixels), compression="none", tile=64, factors=FACTORS)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls):
        return [PICTURE.reduced(factor, 0, 0, *PICTURE.level_size(factor)) for factor in FACTORS]

    def test_metadata(self, reader):
        assert reader.mpp == pytest.approx(0.5)
        assert reader.objective_power == 20
        assert reader.vendor == "aperio"
        assert reader.tile_size == (64, 64)


class TestReal(SlideReaderSuite):
    identifiers = ("b414003d", "CPAPERIOCS")

    @classmethod
    def open(cls, path):
        return OpenSlideReader(path)

    @pytest.fixture(scope="class", params=["CMU-1-Small-Region.svs", "formats/camelyon-multiframe.dcm"])
    @classmethod
    def slide(cls, data_dir, request):
        return data_dir / "slides" / request.param

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, slide):
        with openslide.OpenSlide(slide) as other:
            return [np.asarray(other.read_region((0, 0), 0, other.dimensions).convert("RGB"))]


def test_a_damaged_tile_costs_its_own_place_only(tmp_path):
    """And the handle, which OpenSlide spoils at the first error, is replaced."""
    path = write_svs(tmp_path / "a.svs", PICTURE, tile=64, factors=(1,), compression="jpeg2000")
    with OpenSlideReader(path) as reader:
        wanted = reader.read(0, 0, 0, 640, 448)
    content = bytearray(path.read_bytes())
    with TiffReader(path) as direct:
        place = int(direct._stored[0].offsets[23])  # 10 tiles a row: the fourth of the third row
    content[place : place + 60] = bytes(60)
    path.write_bytes(content)
    with OpenSlideReader(path) as reader:
        region = reader.read_masked(0, 10, 10, 600, 400)
        assert reader.unreadable_tiles == {(0, 3, 2)}
        assert reader.tile_counts.unreadable == 1
        assert [(r.x, r.y, r.width, r.height) for r in region.unreadable] == [(182, 118, 64, 64)]
        bad = np.zeros((400, 600), bool)
        bad[118:182, 182:246] = True
        assert (region.pixels[bad] == 255).all()
        np.testing.assert_array_equal(region.pixels[~bad], wanted[10:410, 10:610][~bad])
        np.testing.assert_array_equal(reader.read(0, 0, 0, 100, 100), wanted[:100, :100])


def test_refuses_what_openslide_does_not_know(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(UnsupportedSlideError):
        OpenSlideReader(path)


def test_closing_under_reading_threads(tmp_path):
    """The file outlives the reads under way: nothing crashes, and what was read is right."""
    path = write_svs(tmp_path / "a.svs", PICTURE, tile=64, factors=(1,))
    for _ in range(5):
        reader = OpenSlideReader(path)
        whole = reader.read(0, 0, 0, 640, 448)

        def work(reader=reader, whole=whole):
            count = 0
            while True:
                try:
                    got = reader.read(0, 0, 0, 640, 448)
                except ValueError:
                    return count
                assert (got == whole).all()
                count += 1

        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(work) for _ in range(3)]
            reader.read(0, 0, 0, 640, 448)
            reader.close()
            assert all(task.result() >= 0 for task in running)

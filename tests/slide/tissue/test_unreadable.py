"""What cannot be read is neither tissue nor glass: it is estimated, said, and above a limit refused."""

import numpy as np
import pytest

from pathology.errors import CorruptSlideError
from pathology.slide.open import open_reader
from pathology.slide.readers.tiff import TiffReader
from pathology.slide.thumbnail import thumbnail
from pathology.slide.tissue.detect import ExclusionReason, Glass, TissueMask, find_tissue
from pathology.slide.tissue.unreadable import check_unreadable, unreadable_warning
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_svs


def zero_tiles(path, chosen):
    """Overwrite the bytes of some tiles of level 0, as a disk does that lost them."""
    with open_reader(path) as reader:
        stored = reader._stored[0]
        places = [(int(stored.offsets[i]), int(stored.lengths[i])) for i in chosen(len(stored.offsets))]
    with path.open("r+b") as file:
        for offset, length in places:
            file.seek(offset)
            file.write(bytes(length))


def found_in(reader):
    overview = thumbnail(reader, reader.mpp, 8.0)
    return find_tissue(overview.pixels, overview.mpp, None, overview.unreadable_mask(reader.dimensions))


@pytest.fixture
def slide(tmp_path):
    picture = TissuePicture(2048, 1536, mpp=0.5, tissue=0.5, seed=4)
    return write_svs(tmp_path / "slide.svs", picture, tile=128, factors=(1,), mpp=0.5)


def test_half_of_the_tiles_lost_is_half_of_the_tissue_lost(slide):
    with open_reader(slide) as reader:
        whole = found_in(reader)
    zero_tiles(slide, lambda n: range(0, n, 2))
    with open_reader(slide) as reader:
        found = found_in(reader)
    assert whole.unreadable_tissue_mm2 == 0
    assert found.counts["unreadable"] >= 0.5 * found.mask.size
    assert not (found.mask & (found.excluded == ExclusionReason.UNREADABLE)).any()
    assert found.unreadable_tissue_mm2 + found.area_mm2 == pytest.approx(whole.area_mm2, rel=0.25)
    assert found.unreadable_tissue_mm2 == pytest.approx(whole.area_mm2 / 2, rel=0.25)


def test_lost_glass_is_no_lost_tissue():
    mask = np.zeros((400, 400), bool)
    mask[:150] = True
    excluded = np.where(mask, ExclusionReason.NOTHING, ExclusionReason.GLASS).astype(np.uint8)
    excluded[350:] = ExclusionReason.UNREADABLE
    glass = Glass((244.0, 243.0, 244.0), seen=False)
    assert TissueMask(mask, excluded, 8.0, glass).unreadable_tissue_mm2 == 0
    excluded[40:60] = ExclusionReason.UNREADABLE
    inside = TissueMask(mask & (excluded == ExclusionReason.NOTHING), excluded, 8.0, glass)
    assert inside.unreadable_tissue_mm2 == pytest.approx(20 * 400 * 64e-6, rel=0.25)


def test_unreadable_pixels_say_nothing_of_the_glass():
    image = np.full((200, 200, 3), 200, np.uint8)
    lost = np.zeros((200, 200), bool)
    lost[:, :100] = True
    image[lost] = 255
    image[:, 100:] = np.random.default_rng(0).integers(90, 200, (200, 100, 3))
    assert find_tissue(image, 8.0, None, lost).glass.colour != (255.0, 255.0, 255.0)


def test_a_slide_of_which_nothing_can_be_decoded_is_damaged_and_not_empty(data_dir):
    with open_reader(data_dir / "cases" / "svs-all-tiles-damaged" / "slide.svs") as reader:
        found = found_in(reader)
        assert found.unreadable_tissue_mm2 > 0
        with pytest.raises(CorruptSlideError, match="stored tiles cannot be decoded"):
            check_unreadable(found.area_mm2, found.unreadable_tissue_mm2, 0.2, where=reader.path)


def test_the_limit_and_the_warning():
    check_unreadable(8.1, 1.9, 0.2, where=None)
    with pytest.raises(CorruptSlideError, match=r"21 % of its tissue .*more than the 20 %"):
        check_unreadable(7.9, 2.1, 0.2, where=None)
    assert unreadable_warning(5.0, 0.0, 0) == ()
    assert "none of them on tissue" in unreadable_warning(5.0, 0.0, 2)[0]
    assert "about 16 % of the tissue (1.00 mm²)" in unreadable_warning(5.25, 1.0, 3)[0]


def test_tiles_left_out_of_a_coarser_level_are_filled_from_the_finer_one(data_dir):
    openslide = pytest.importorskip("openslide")
    path = data_dir / "cases" / "svs-zero-tile-level1" / "slide.svs"
    with open_reader(path) as reader, openslide.OpenSlide(path) as other:
        got = reader.read(1, 0, 0, *reader.levels[1].dimensions)
        expected = np.asarray(other.read_region((0, 0), 1, reader.levels[1].dimensions).convert("RGB"))
        assert reader.tile_encoding(0) is not None
        assert reader.tile_encoding(1) is None
    assert np.abs(got.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("threads", [1, 3])
def test_filling_goes_down_several_levels_and_leaves_empty_places_white(tmp_path, threads):
    pixels = TissuePicture(1000, 700, mpp=1.0, tissue=0.8).window(0, 0, 1000, 700).copy()
    pixels[:128, :128] = 255

    def omitted(level, column, row):
        return (column, row) == (0, 0) if level == 0 else True

    path = write_svs(
        tmp_path / "a.svs", ArrayPicture(pixels), compression="jpeg-rgb", tile=128, factors=(1, 2, 4), omitted=omitted
    )
    whole = write_svs(tmp_path / "b.svs", ArrayPicture(pixels), compression="jpeg-rgb", tile=128, factors=(1, 2, 4))
    with TiffReader(path, threads=threads) as reader, TiffReader(whole) as other:
        for level in (1, 2):
            size = reader.levels[level].dimensions
            difference = reader.read(level, 0, 0, *size).astype(int) - other.read(level, 0, 0, *size)
            assert np.abs(difference).mean() < 5  # of which 3 are JPEG
            small = reader.read_reduced(level, 2, 0, 0, size[0] // 2, size[1] // 2).pixels.astype(int)
            assert np.abs(small - other.read_reduced(level, 2, 0, 0, size[0] // 2, size[1] // 2).pixels).mean() < 5
        assert (reader.read(0, 0, 0, 128, 128) == 255).all()
        assert reader.tile_counts.unreadable == 0

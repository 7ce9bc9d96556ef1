"""Decoding once, caching, damage, threads and closing, whatever the format."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathology.errors import UnreadableTileError, UsageError
from pathology.slide.readers.base import Rect
from pathology.slide.readers.tiff import TiffReader
from pathology.slide.readers.tile_cache import TileCache
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_tiff

PICTURE = TissuePicture(640, 512, mpp=1.0, tissue=0.8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("tiled") / "a.tif", PICTURE, tile=(64, 64))


def damaged(source, target, tiles):
    """Overwrite the beginnings of tiles, given by their index, with zeros."""
    content = bytearray(source.read_bytes())
    with TiffReader(source) as reader:
        for index in tiles:
            place = int(reader._stored[0].offsets[index])
            content[place : place + 50] = bytes(50)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("threads", [1, 4])
def test_a_read_decodes_each_tile_once(slide, threads):
    with TiffReader(slide, threads=threads, cache_bytes=0) as reader:
        reader.read(0, 10, 10, 600, 480)
        assert reader.tile_counts.decoded == 10 * 8


def test_neighbouring_reads_share_their_border(slide):
    """A pass over the slide in unaligned regions decodes every stored tile exactly once."""
    with TiffReader(slide) as reader:
        for y in range(-20, 512, 100):
            for x in range(-30, 640, 100):
                reader.read(0, x, y, 100, 100)
        assert reader.tile_counts.decoded == 10 * 8
        assert reader.tile_counts.reused > 0


def test_whole_tiles_leave_nothing_behind(slide):
    with TiffReader(slide) as reader:
        reader.read(0, 64, 64, 64, 64)
        reader.read(0, 0, 0, 640, 512)
        assert reader._cache.size == 0


def test_the_cache_stays_within_its_limit(slide):
    limit = 5 * 64 * 64 * 3
    with TiffReader(slide, cache_bytes=limit) as reader:
        for x in range(0, 600, 7):
            reader.read(0, x, x % 400, 50, 50)
            assert reader._cache.size <= limit


@settings(max_examples=50)
@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=60))
def test_cache_keeps_the_latest(capacity, puts):
    cache = TileCache(capacity)
    kept: dict[int, int] = {}
    for key, size in puts:
        cache.put(key, np.zeros((size,), np.uint8))
        if size <= capacity:
            kept.pop(key, None)
            kept[key] = size
            while sum(kept.values()) > capacity:
                kept.pop(next(iter(kept)))
    assert cache.size == sum(kept.values()) <= capacity
    for key in range(10):
        tile = cache.get(key)
        assert (None if tile is None else tile.nbytes) == kept.get(key)


def test_cache_gives_up_first_what_was_read_to_its_end():
    cache = TileCache(30)
    for key in "abc":
        cache.put(key, np.zeros(10, np.uint8), left=8)
    cache.get("c", taken=3)
    cache.get("c", taken=5)  # the latest used, and nobody will ask for it again
    cache.put("d", np.zeros(10, np.uint8))
    assert cache.get("c") is None
    assert all(cache.get(key) is not None for key in "abd")


def test_cache_remembers_what_a_tile_lacked_that_had_to_make_room():
    cache = TileCache(20)
    cache.put("a", np.zeros(10, np.uint8), left=6, taken=4)
    cache.put("b", np.zeros(10, np.uint8), left=6)
    cache.put("c", np.zeros(10, np.uint8), left=6)
    assert cache.get("a", taken=6) is None  # the neighbour reads the rest, and decodes it again
    cache.put("a", np.zeros(10, np.uint8), left=4, taken=6)  # nobody will ask for it a third time
    assert cache.get("a") is None
    assert cache.get("b") is not None
    assert cache.get("c") is not None


def test_a_pass_with_a_small_cache_loses_only_what_does_not_fit(slide):
    """Tiles decoded again must not drive out those of the next column, and so on over the whole slide."""
    with TiffReader(slide, cache_bytes=12 * 64 * 64 * 3) as reader:
        for x in range(0, 512, 64):
            for y in range(0, 448, 64):
                reader.read(0, x + 30, y + 30, 64, 64)
        # 9 columns of 8 tiles are touched, and 9 tiles wait for the next column.  Only while the left edge, for which
        # nobody asks again, is in the cache, some of those have to make room.
        assert reader.tile_counts.decoded <= 9 * 8 + 8


def test_cached_tiles_cannot_be_written_to():
    cache = TileCache(100)
    mine = np.zeros(10, np.uint8)
    cache.put("a", mine, copy=True)
    mine[0] = 1
    assert cache.get("a")[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        cache.get("a")[0] = 1


@pytest.mark.parametrize("threads", [1, 3])
def test_damage_is_masked_and_reported(slide, tmp_path, threads):
    path = damaged(slide, tmp_path / "bad.tif", [11, 24])  # (1, 1) and (4, 2) of 10 tiles a row
    with TiffReader(slide) as intact, TiffReader(path, threads=threads) as reader:
        wanted = intact.read(0, 30, 30, 500, 400)
        region = reader.read_masked(0, 30, 30, 500, 400)
        assert region.unreadable == (Rect(34, 34, 64, 64), Rect(226, 98, 64, 64))
        bad = np.zeros((400, 500), bool)
        bad[34:98, 34:98] = bad[98:162, 226:290] = True
        assert (region.pixels[bad] == 255).all()
        np.testing.assert_array_equal(region.pixels[~bad], wanted[~bad])
        assert reader.unreadable_tiles == {(0, 1, 1), (0, 4, 2)}
        assert reader.tile_counts.unreadable == 2
        with pytest.raises(UnreadableTileError, match="2 stored tile"):
            reader.read(0, 30, 30, 500, 400)
        assert reader.tile_counts.unreadable == 2  # distinct tiles
        assert reader.read(0, 300, 300, 50, 50).shape == (50, 50, 3)


def test_a_damaged_whole_tile(slide, tmp_path):
    path = damaged(slide, tmp_path / "bad.tif", [0])
    with TiffReader(path) as reader:
        region = reader.read_masked(0, 0, 0, 64, 64)
        assert region.unreadable == (Rect(0, 0, 64, 64),)
        assert (region.pixels == 255).all()


def test_damage_in_reduced_reads(slide, tmp_path):
    path = damaged(slide, tmp_path / "bad.tif", [11])
    with TiffReader(path) as reader:
        region = reader.read_reduced(0, 4, 10, 10, 60, 60)
        assert region.unreadable == (Rect(6, 6, 16, 16),)
        assert (region.pixels[6:22, 6:22] == 255).all()


def test_a_tile_cut_short_is_damage_although_the_decoder_would_fill_it(tmp_path):
    """libjpeg fills the rest with grey and only warns."""
    path = write_tiff(tmp_path / "a.tif", PICTURE, tile=(64, 64))
    with TiffReader(path) as reader:
        index = int(np.argmax(reader._stored[0].lengths))
        offset, length = int(reader._stored[0].offsets[index]), int(reader._stored[0].lengths[index])
    content = bytearray(path.read_bytes())
    content[offset + length // 2 : offset + length] = bytes(length - length // 2)
    path.write_bytes(content)
    with TiffReader(path) as reader:
        assert len(reader.read_masked(0, 0, 0, 640, 512).unreadable) == 1


def test_a_file_that_shrinks_while_open(slide, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(slide.read_bytes())
    with TiffReader(path) as reader:
        with path.open("r+b") as file:
            file.truncate(1000)
        region = reader.read_masked(0, 0, 0, 640, 512)
        assert len(region.unreadable) > 70
        assert (region.pixels[-64:, -64:] == 255).all()


@settings(max_examples=60, deadline=None)
@given(
    reduction=st.integers(2, 9),
    x=st.integers(-10, 90),
    y=st.integers(-10, 70),
    w=st.integers(1, 120),
    h=st.integers(1, 120),
)
def test_reduced_reads_equal_the_contract(odd_slides, reduction, x, y, w, h):
    """Tile by tile or through the default, on levels that end within a pixel of the result."""
    for path in odd_slides:
        with TiffReader(path) as reader:
            got = reader.read_reduced(0, reduction, x, y, w, h).pixels
            full = reader.read(0, x * reduction, y * reduction, w * reduction, h * reduction)
            mean = full.reshape(h, reduction, w, reduction, 3).mean((1, 3))
            assert np.abs(got - mean).max() <= 0.5 + 1e-6


@pytest.fixture(scope="module")
def odd_slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    picture = ArrayPicture(PICTURE.window(100, 100, 251, 203))
    return [
        write_tiff(folder / "tiles.tif", picture, tile=(48, 80), compression="lzw"),
        write_tiff(folder / "strips.tif", picture, tile=None, rows_per_strip=12, compression="lzw"),
    ]


def test_stored_tiles_are_given_out_byte_for_byte(slide):
    content = slide.read_bytes()
    with TiffReader(slide) as reader:
        data = reader.stored_tile(0, 3, 2)
        assert data.startswith(b"\xff\xd8")
        assert content.count(data) >= 1
        with pytest.raises(UsageError, match="10 x 8 tiles"):
            reader.stored_tile(0, 10, 0)


def test_many_threads_over_a_small_cache(slide):
    """Tiles come and go under the readers' feet."""
    with TiffReader(slide, cache_bytes=3 * 64 * 64 * 3, threads=2) as reader:
        whole = reader.read(0, 0, 0, 640, 512)
        random = np.random.default_rng(0)
        requests = [tuple(int(v) for v in random.integers((560, 430, 1, 1), (600, 460, 40, 40))) for _ in range(300)]

        def right(request):
            x, y, w, h = request
            return (reader.read(0, x, y, w, h) == whole[y : y + h, x : x + w]).all()

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(right, requests))


def test_closing_waits_for_reads_under_way(slide):
    """No read sees a descriptor that was closed, or reused by another file, under its feet."""
    reader = TiffReader(slide, threads=2, cache_bytes=0)
    whole = reader.read(0, 0, 0, 640, 512)
    wrong: list[object] = []
    started = threading.Event()

    def work():
        while True:
            try:
                got = reader.read(0, 0, 0, 640, 512)
            except ValueError as error:
                if "closed" not in str(error):
                    wrong.append(error)
                return
            started.set()
            if not (got == whole).all():
                wrong.append("pixels")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(30)
    time.sleep(0.02)
    reader.close()
    for thread in threads:
        thread.join(30)
    assert not wrong


@pytest.mark.parametrize("option", [{"threads": 0}, {"cache_bytes": -1}])
def test_senseless_options(slide, option):
    with pytest.raises(UsageError):
        TiffReader(slide, **option)

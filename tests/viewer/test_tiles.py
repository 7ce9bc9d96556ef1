"""Tiles: where they lie, that stored ones are handed over exactly, and that every kind of slide has them."""

import cv2
import numpy as np
import pytest

from pathology.errors import UsageError
from pathology.slide.open import open_reader
from pathology.testing.array_reader import ArrayReader
from pathology.testing.synthetic_slides import ArrayPicture, write_svs, write_tiff
from pathology.viewer.tiles import ByteCache, TilePyramid, complete_jpeg


def decoded(data):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def picture(height, width, seed=0):
    """Smooth colours that differ everywhere, and a dark square at (300, 200) of 100 x 80."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([140 + 90 * np.sin(x / 90), 140 + 90 * np.cos(y / 70), 120 + 60 * np.sin((x + y) / 50)], axis=-1)
    rgb[200:280, 300:400] = (0, 0, 0)
    return np.clip(rgb + np.random.default_rng(seed).normal(0, 2, rgb.shape), 0, 255).astype(np.uint8)


def whole_level(pyramid, z):
    """Put a level together from its tiles."""
    width, height = pyramid.level_size(z)
    side = pyramid.tile_size
    canvas = np.zeros((height, width, 3), np.uint8)
    for row in range(-(-height // side)):
        for column in range(-(-width // side)):
            tile = decoded(pyramid.tile(z, column, row))
            y, x = row * side, column * side
            assert tile.shape[:2] == (min(side, height - y), min(side, width - x))
            canvas[y : y + side, x : x + side] = tile
    return canvas


def reduced(pixels, factor):
    """Exact means; what hangs over the edge repeats the last row and column."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge").astype(float)
    return padded.reshape(padded.shape[0] // factor, factor, -1, factor, 3).mean(axis=(1, 3))


@pytest.mark.parametrize(
    ("compression", "factors"),
    [("jpeg", (1, 4)), ("jpeg-rgb", (1, 2, 4)), ("webp", (1,)), ("none", (1, 3)), ("jpeg2000", (1, 4))],
)
def test_every_level_shows_the_slide(tmp_path, compression, factors):
    pixels = picture(1100, 1500)
    path = write_tiff(tmp_path / "a.tiff", ArrayPicture(pixels), compression=compression, factors=factors, quality=92)
    with open_reader(path) as reader:
        pyramid = TilePyramid(reader)
        assert (pyramid.tile_size, pyramid.coarsest) == (256, 3)
        for z in range(pyramid.coarsest + 1):
            shown = whole_level(pyramid, z).astype(float)
            expected = reduced(pixels, 2**z)
            assert shown.shape == expected.shape
            # The last row and column may hang over the edge.
            assert np.abs(shown - expected)[:-1, :-1].mean() < 4


def test_a_square_is_where_it_was_on_every_level(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", ArrayPicture(picture(1100, 1500)), factors=(1, 4), quality=95)
    with open_reader(path) as reader:
        pyramid = TilePyramid(reader)
        for z in range(3):
            dark = whole_level(pyramid, z).astype(int).sum(axis=2) < 90
            rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
            found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * 2**z
            assert found == pytest.approx([300, 200, 400, 280], abs=2**z)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg-422", "jpeg-444", "jpeg-rgb"])
@pytest.mark.parametrize("shared_tables", [False, True])
def test_stored_jpeg_tiles_are_handed_over_in_the_right_colours(tmp_path, compression, shared_tables):
    path = write_tiff(
        tmp_path / "a.tiff", ArrayPicture(picture(768, 768)), compression=compression, shared_tables=shared_tables
    )
    with open_reader(path) as reader:
        pyramid, before = TilePyramid(reader), reader.tile_counts.decoded
        tile = decoded(pyramid.tile(0, 1, 2))
        assert reader.tile_counts.decoded == before  # nothing was decoded
        np.testing.assert_array_equal(tile, reader.read(0, 256, 512, 256, 256))


def test_stored_tiles_of_an_aperio_slide(tmp_path):
    path = write_svs(tmp_path / "a.svs", ArrayPicture(picture(1024, 1200)), factors=(1, 4))
    with open_reader(path) as reader:
        pyramid = TilePyramid(reader)
        assert pyramid.tile_size == reader.tile_size[0]
        tile = decoded(pyramid.tile(0, 0, 0))
        np.testing.assert_array_equal(tile, reader.read(0, 0, 0, pyramid.tile_size, pyramid.tile_size))
        assert reader.tile_counts.decoded == 1  # by this comparison


def test_a_damaged_tile_is_white_and_the_others_are_there(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", ArrayPicture(picture(768, 768)))
    with open_reader(path) as reader:
        data = reader.stored_tile(0, 1, 1)
    content = path.read_bytes()
    path.write_bytes(content.replace(data, b"\xff\xd8" + bytes(len(data) - 2)))
    with open_reader(path) as reader:
        pyramid = TilePyramid(reader)
        assert (decoded(pyramid.tile(0, 1, 1)) > 250).all()
        assert (decoded(pyramid.tile(0, 0, 1)) < 250).any()


def test_a_slide_without_a_pyramid_is_read_once_for_all_coarse_levels():
    pixels = picture(2100, 2500)
    reader = ArrayReader(pixels, tile=256)
    pyramid = TilePyramid(reader)
    assert pyramid.coarsest == 4
    for z in (3, 4):
        width, height = pyramid.level_size(z)
        shown = pyramid.pixels(z, 0, 0, width, height).astype(float)
        # The last row and column hang over the slide's edge.
        assert np.abs(shown - reduced(pixels, 2**z))[:-1, :-1].mean() < 2
    reads = []
    reader._read = lambda *args: reads.append(args)
    pyramid.tile(4, 0, 0)
    assert not reads


def test_what_the_overview_shows_is_not_read_from_the_slide():
    pixels = picture(2100, 2500)
    reader = ArrayReader(pixels, tile=256)
    overview = cv2.resize(pixels, (400, 336), interpolation=cv2.INTER_AREA)
    pyramid = TilePyramid(reader, np.asarray(overview, np.uint8))
    reads, read = [], reader._read
    reader._read = lambda *args: reads.append(args) or read(*args)
    for z in (3, 4):
        width, height = pyramid.level_size(z)
        shown = pyramid.pixels(z, 0, 0, width, height).astype(float)
        assert np.abs(shown - reduced(pixels, 2**z))[:-1, :-1].mean() < 2.5
    assert not reads
    pyramid.pixels(2, 0, 0, 100, 100)
    assert reads


def test_coarse_levels_do_not_drift_to_the_far_corner():
    """A square at the far end of a slide whose size is no multiple of a coarse pixel."""
    pixels = np.full((2100, 2503, 3), 230, np.uint8)
    pixels[1600:2048, 1984:2432] = 20
    pyramid = TilePyramid(ArrayReader(pixels, tile=256))
    for z in (3, 4):
        width, height = pyramid.level_size(z)
        dark = 230 - pyramid.pixels(z, 0, 0, width, height)[..., 0].astype(float)
        rows, columns = dark.sum(axis=1), dark.sum(axis=0)
        centre = [(np.arange(len(v)) + 0.5) @ v / v.sum() * 2**z for v in (columns, rows)]
        assert centre == pytest.approx([2208, 1824], abs=0.15 * 2**z)


@pytest.mark.parametrize("tile", [(4096, 16), (64, 64), (2048, 2048), (256, 128)])
def test_tiles_that_suit_no_browser_are_cut_anew(tile):
    reader = ArrayReader(picture(700, 900))
    reader.levels = tuple(type(level)(level.width, level.height, level.downsample, tile) for level in reader.levels)
    pyramid = TilePyramid(reader)
    assert pyramid.tile_size == 512
    assert np.abs(whole_level(pyramid, 0).astype(float) - reader._pixels[0]).mean() < 4


@pytest.mark.parametrize(("z", "column", "row"), [(-1, 0, 0), (9, 0, 0), (0, -1, 0), (0, 0, 99), (1, 99, 0)])
def test_a_tile_that_does_not_exist_is_refused(z, column, row):
    with pytest.raises(UsageError, match="there is no"):
        TilePyramid(ArrayReader(picture(600, 600))).tile(z, column, row)


def test_a_tiny_slide_is_one_tile():
    pyramid = TilePyramid(ArrayReader(picture(300, 500)[:7, :5]))
    assert pyramid.coarsest == 0
    assert decoded(pyramid.tile(0, 0, 0)).shape == (7, 5, 3)


def test_complete_jpeg_replaces_wrong_markers(tmp_path):
    """A tile that says YCbCr although it is RGB, as some scanners write."""
    import imagecodecs

    from pathology.slide.readers.tile_encoding import TileEncoding

    pixels = picture(400, 512)[:256, 256:]
    right = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB", subsampling=(1, 1))
    wrong = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01" + right[2:].replace(
        b"Adobe\x00\x64\x00\x00\x00\x00\x00", b"Adobe\x00\x64\x00\x00\x00\x00\x01"
    )
    completed = complete_jpeg(wrong, TileEncoding("jpeg", transformed=False))
    assert np.abs(decoded(completed).astype(int) - pixels).mean() < 3
    assert completed.count(b"Adobe") == 1
    # Where the container says nothing, the tile's own markers stay.
    assert complete_jpeg(right, TileEncoding("jpeg")) == right


def test_the_byte_cache_is_bounded():
    cache = ByteCache(100)
    for number in range(10):
        cache.put(number, bytes(30))
        assert cache.size <= 100
    assert cache.get(9) is not None
    assert cache.get(0) is None
    cache.put(9, bytes(10))
    assert cache.size == 70
    cache.put("large", bytes(101))
    assert cache.get("large") is None
    cache.get(7)
    cache.put("new", bytes(60))
    assert cache.get(7) is not None  # used most recently
    assert cache.get(8) is None

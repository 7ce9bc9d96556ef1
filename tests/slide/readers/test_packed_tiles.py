import numpy as np

from pathology.slide.open import open_reader
from pathology.slide.readers.packed_tiles import PackedTiles
from pathology.testing.synthetic_slides import TissuePicture, write_svs


def test_tiles_come_out_as_they_went_in():
    tiles = [b"abc", b"", None, b"defgh"]
    packed = PackedTiles.of(tiles)
    assert packed.lengths.tolist() == [3, 0, -1, 5]
    assert [bytes(packed.tile(i)) for i in range(4)] == [b"abc", b"", b"", b"defgh"]


def test_many_tiles_are_judged_as_each_alone(tmp_path):
    slide = write_svs(tmp_path / "a.svs", TissuePicture(700, 500, mpp=0.5, tissue=0.8), tile=128, factors=(1,))
    with open_reader(slide) as reader:
        encoding = reader.tile_encoding(0)
        whole = [reader.stored_tile(0, column, row) for row in range(4) for column in range(6)]
    random = np.random.default_rng(3)
    tiles = []
    for tile in whole:
        kind = random.integers(5)
        cut = int(random.integers(1, len(tile)))
        spoilt = bytes([0]) + tile[1:]
        tiles.append([tile, tile + bytes(9), tile[:cut], None, spoilt][kind])
    tiles += [b"\xff", b"\xff\xd9", b"", whole[0]]
    widths = np.where(np.arange(len(tiles)) % 5, 128, 60)
    heights = np.where(np.arange(len(tiles)) % 7, 128, 129)
    for first in range(0, len(tiles), 7):
        part = slice(first, first + 7)
        found = encoding.look_whole(PackedTiles.of(tiles[part]), widths[part], heights[part])
        expected = [
            bool(tile) and encoding.looks_whole(tile, int(w), int(h))
            for tile, w, h in zip(tiles[part], widths[part], heights[part], strict=True)
        ]
        assert found.tolist() == expected

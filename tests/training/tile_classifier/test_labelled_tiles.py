"""Tiles and where their patches lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pathology.errors import InputTableError
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles, patch_starts, read_tiles, tissue_shares


@given(side=st.integers(16, 2000), patch=st.integers(1, 300), stride=st.integers(1, 400))
def test_patches_cover_a_tile_from_border_to_border(side, patch, stride):
    if patch > side:
        with pytest.raises(ValueError, match="at most the tile's side"):
            patch_starts(side, patch, stride)
        return
    starts = patch_starts(side, patch, stride)
    assert starts[0] == 0
    assert starts[-1] == side - patch
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= stride).all()


def test_the_tiles_of_1024_px_take_patches_every_200():
    assert patch_starts(1024, 224, 200) == [0, 200, 400, 600, 800]


class TestTissue:
    def test_shares_equal_counting(self):
        rng = np.random.default_rng(0)
        squares = rng.random((12, 10)) < 0.4
        tile = np.where(np.kron(squares, np.ones((8, 8), bool))[..., None], [200, 120, 180], 245).astype(np.uint8)
        shares = tissue_shares(tile, 32, [0, 8, 64], [0, 16, 48])
        for i, top in enumerate((0, 1, 8)):
            for j, left in enumerate((0, 2, 6)):
                assert shares[i, j] == pytest.approx(squares[top : top + 4, left : left + 4].mean())

    def test_one_dark_channel_is_tissue_and_noise_is_not(self):
        rng = np.random.default_rng(1)
        glass = rng.normal(242, 12, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        assert tissue_shares(glass, 64, [0], [0]) == 0
        pale = np.full((64, 64, 3), (240, 210, 235), np.uint8)
        assert tissue_shares(pale, 64, [0], [0]) == 1

    def test_a_patch_that_hangs_over_is_measured_inside(self):
        tile = np.full((64, 64, 3), 100, np.uint8)
        assert tissue_shares(tile, 32, [48], [48]) == 1


class TestReading:
    def write(self, folder, name, shape, value=100):
        Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(folder / name)
        return folder / name

    def test_tiles_come_in_the_order_given(self, tmp_path):
        paths = [self.write(tmp_path, f"{value}.png", (20, 30), value) for value in (7, 3)]
        tiles = read_tiles(paths, [1, 0], ("a", "b"), ["p", "q"], ["p 1", "q 1"])
        assert isinstance(tiles, LabelledTiles)
        assert len(tiles) == 2
        assert tiles.pixels.shape == (2, 20, 30, 3)
        assert tiles.pixels[:, 0, 0, 0].tolist() == [7, 3]
        assert tiles.labels.tolist() == [1, 0]
        assert tiles.names == ("7.png", "3.png")

    def test_equal_pixels_have_equal_digests(self, tmp_path):
        paths = [
            self.write(tmp_path, name, (20, 30), value) for name, value in (("a.png", 1), ("b.png", 1), ("c.png", 2))
        ]
        first, second, third = read_tiles(paths, [0] * 3, ("a",), ["p"] * 3, ["p 1"] * 3).digests()
        assert first == second != third

    def test_two_sizes(self, tmp_path):
        paths = [self.write(tmp_path, "a.png", (20, 30)), self.write(tmp_path, "b.png", (20, 31))]
        with pytest.raises(InputTableError, match=r"b\.png: the tile is 31 x 20 px, the first one 30 x 20"):
            read_tiles(paths, [0, 0], ("a",), ["p", "p"], ["s", "s"])

    def test_no_image(self, tmp_path):
        (tmp_path / "a.png").write_text("hello")
        with pytest.raises(InputTableError, match=r"a\.png: the tile cannot be read"):
            read_tiles([tmp_path / "a.png"], [0], ("a",), ["p"], ["s"])

    def test_none(self):
        with pytest.raises(InputTableError, match="no tiles"):
            read_tiles([], [], (), [], [])

"""Sizes that a file only claims are refused before memory is set aside for them."""

import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile

from pathology.errors import SlideError
from pathology.slide.open import open_reader


def png(width, height):
    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(16_777_216, 8), (8, 16_777_216), (20_000, 20_000)])
def test_pictures(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png(width, height))
    tracemalloc.start()
    with pytest.raises(SlideError, match=r"no slide has|megapixels|too large"):
        open_reader(tmp_path / "a.png")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("tag", ["ImageWidth", "TileWidth"])
def test_tiffs(tmp_path, tag):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.full((256, 256, 3), 200, np.uint8), tile=(128, 128), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        place = tif.pages[0].tags[tag].offset
    data = bytearray(path.read_bytes())
    data[place + 2 : place + 4] = (4).to_bytes(2, "little")  # as a number of 32 bits
    data[place + 8 : place + 12] = (16_777_216).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SlideError):
        open_reader(path, backend="tiff")

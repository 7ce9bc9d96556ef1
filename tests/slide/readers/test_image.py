"""PNG and JPEG pictures as slides."""

import numpy as np
import pytest
from PIL import Image

from pathology.errors import CorruptSlideError, NotBrightfieldError, UnsupportedSlideError
from pathology.slide.readers.image import ImageReader
from pathology.testing.slide_reader_suite import SlideReaderSuite
from pathology.testing.synthetic_slides import TissuePicture

PIXELS = TissuePicture(403, 307, mpp=1.0, tissue=0.8).window(0, 0, 403, 307)


class TestPictures(SlideReaderSuite):
    @classmethod
    def open(cls, path):
        return ImageReader(path)

    @pytest.fixture(scope="class", params=["png", "jpeg", "transparent", "progressive"])
    @classmethod
    def kind(cls, request):
        return request.param

    @staticmethod
    def save(path, pixels, kind):
        picture = Image.fromarray(pixels)
        if kind == "transparent":
            picture.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 403).astype(np.uint8), (307, 1))))
        options = {} if path.suffix == ".png" else {"quality": 85, "progressive": kind == "progressive"}
        picture.save(path, **options)
        return path

    @pytest.fixture(scope="class")
    @classmethod
    def slide(cls, kind, tmp_path_factory):
        suffix = ".png" if kind in ("png", "transparent") else ".jpg"
        return cls.save(tmp_path_factory.mktemp("p") / f"a{suffix}", PIXELS, kind)

    @pytest.fixture(scope="class")
    @classmethod
    def altered(cls, kind, slide, tmp_path_factory):
        pixels = PIXELS.copy()
        pixels[100:120, 100:120] ^= 64
        return cls.save(tmp_path_factory.mktemp("q") / f"a{slide.suffix}", pixels, kind)

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, slide):
        with Image.open(slide) as picture:
            if picture.mode == "RGBA":
                white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
                return [np.asarray(Image.alpha_composite(white, picture).convert("RGB"))]
            return [np.asarray(picture.convert("RGB"))]

    def test_transparency_within_rounding(self, kind, reader, expected):
        if kind == "transparent":
            assert np.abs(reader.read(0, 0, 0, 403, 307).astype(int) - expected[0]).max() <= 1

    def test_decoded_once(self, reader):
        for i in range(5):
            reader.read(0, i, i, 50, 50)
        assert reader.tile_counts.decoded == 1
        assert reader.tile_counts.reused == 4


@pytest.mark.parametrize(("dpi", "mpp"), [(None, None), (72, None), (300, None), (50800, 0.5), (2540, 10.0)])
def test_scale_only_from_a_microscope(tmp_path, dpi, mpp):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path, **({} if dpi is None else {"dpi": (dpi, dpi)}))
    with ImageReader(path) as reader:
        assert reader.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK", "LA"])
def test_refuses_what_is_no_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    pixels = np.zeros((20, 30), np.uint16) if mode == "I;16" else None
    picture = Image.fromarray(pixels) if pixels is not None else Image.fromarray(PIXELS).convert(mode)
    picture.save(path)
    with pytest.raises(NotBrightfieldError, match="RGB"):
        ImageReader(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_refuses_a_cut_picture(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CorruptSlideError, match="truncated"):
        ImageReader(path)


def test_refuses_other_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("no picture")
    with pytest.raises(UnsupportedSlideError):
        ImageReader(path)

"""Decoders of single tiles, and the surgery on JPEG 2000 codestreams."""

import base64
import io

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pathology.slide.readers import codecs
from pathology.slide.readers.codecs import (
    TileDecodeError,
    decode_jpeg,
    decode_jpeg2000,
    decoding_memory,
    jpeg_is_ycbcr,
    over_white,
    reduce_jpeg2000,
    reduced_codestream,
    ycbcr_to_rgb,
)
from pathology.testing.synthetic_slides import TissuePicture, encode_tile

TISSUE = TissuePicture(400, 300, mpp=1.0, tissue=1.0).window(60, 40, 256, 256)

# 16 x 16 pixels whose chroma is stored at half width and at half width and height, reversible; Aperio scanners write
# the former, and no encoder in Python does.
SUBSAMPLED = {
    "4:2:2": (
        "|4;u>051Rl0000G0000G00000000000000G0000G000000000000RdB0S5vB2Lb{AQUDA9000310t5sA0smY83P3<eNKi;fQ"
        "2&qs3IG5A009O70soWFv_KLMF|=GC=msdt7Y5SsQ;*NIC==Dgz6Q0)ozuV1v?KunYusTdR&+zad?P^l13(=ZA{Z_6N#g^4GU"
        "W^}8N$G#zt6+!27&SgfI1i#E4B9qe;T5!UY`lZXv69Tf${`^Iv5w%-}iKX0LBcX3UimhI%EgJgaEVvHlbB4iN`bWVOKyeJ*F"
        ";-5K8eEXN{4hDqfL45FlqnWCjrRMbMSsS22Lc!SjuP_(^~|NFi|VLVvl)4NuoD&7Us%ER!M&;`?tXxMAW!qCT3x!SjrO_)CB"
        "jfFd07HW2%TOaiXpUn$-PGM9CT(Z+LM2ZaoYoJ+s|*#"
    ),
    "4:2:0": (
        "|4;u>051Rl0000G0000G00000000000000G0000G000000000000RdB0S5vC2Lb~BQUDA9000310t5sA0smY83P3<eNKi;fQ"
        "2&qs3IG5A007kh0soWFv_KLMF|=GC=msdt7Y5SsQ;*NI5Cq#%0nfA;3>_-ZWq-hYBS85BKphw&7%lTj;{$#&<qR(w!oZ@x&%"
        "^2jgXaeTA`S^=zYH<m3ZKL31B2%Y03r<n4-6MIe+xgrI%EgJgaEVvHlbB4iN`bWVOKyeJ*F;-5K8eEXN{4hDqfL45FlqnWCj"
        "rRMbMSsS22Lc!SjcJ_(gybfFW)MSss^D0M0HQ4-9?O!SjZJ@&|wt03sR>sx1T>db8lp?5`9F8D0O`"
    ),
}


def gradient():
    """What the subsampled codestreams were made from."""
    across, down = np.meshgrid(np.linspace(20, 230, 16), np.linspace(40, 200, 16))
    return np.stack([across, down, 255 - across], axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("kind", SUBSAMPLED)
def test_subsampled_chroma_of_jpeg2000(kind):
    """Converted once: the decoder does it where components differ in size, we do it where they do not."""
    got = decode_jpeg2000(base64.b85decode(SUBSAMPLED[kind]), transformed=True)
    # Chroma is constant over pairs of pixels; the gradient moves by 14 from pixel to pixel.
    assert np.abs(got.astype(int) - gradient()).max() <= 15
    assert np.abs(got.mean((0, 1)) - gradient().mean((0, 1))).max() < 1


@pytest.mark.parametrize("kind", SUBSAMPLED)
def test_subsampled_chroma_at_half_size(kind):
    got = reduce_jpeg2000(base64.b85decode(SUBSAMPLED[kind]), 2, transformed=True)
    mean = gradient().reshape(8, 2, 8, 2, 3).mean((1, 3))
    # Chroma lags by up to one pixel of the full picture, which moves by 14 levels a pixel here.
    assert np.abs(got - mean).mean() < 14
    assert np.abs(got.mean((0, 1)) - mean.mean((0, 1))).max() < 14


def test_ycbcr_without_subsampling():
    data = encode_tile(TISSUE, "jpeg2000-ycbcr", 100)
    assert np.abs(decode_jpeg2000(data, transformed=True).astype(int) - TISSUE).mean() < 2


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_ycbcr_is_that_of_jpeg(colour):
    """Against the formula of ITU-T T.871, within rounding."""
    y, cb, cr = (float(value) for value in colour)
    wanted = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    got = ycbcr_to_rgb(np.array([[colour]], np.uint8))[0, 0]
    assert np.abs(got - np.clip(wanted, 0, 255)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(17, 32).map(lambda n: 8 * n),  # Pillow does not decode every odd size
    height=st.integers(17, 32).map(lambda n: 8 * n),
    levels=st.integers(1, 2),
    options=st.sampled_from(
        [{"reversible": True}, {"level": 40}, {"level": 30, "mct": False}, {"level": 45, "codecformat": "jp2"}]
    ),
)
def test_lower_resolution_equals_openjpegs_own(width, height, levels, options):
    """Rewriting the headers gives, bit for bit, what OpenJPEG decodes when asked to leave resolutions out."""
    options = {"codecformat": "j2k", **options}
    data = imagecodecs.jpeg2k_encode(TISSUE[:height, :width], resolutions=5, numthreads=1, **options)
    with Image.open(io.BytesIO(data)) as picture:
        picture.reduce = levels
        wanted = np.asarray(picture)
    smaller = reduced_codestream(data, 2**levels)
    np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(smaller), wanted)


@pytest.mark.parametrize("compression", ["jpeg2000", "jpeg2000-lossless", "jpeg2000-ycbcr"])
@pytest.mark.parametrize(("reduction", "bound"), [(2, 5.0), (4, 3.0), (8, 3.0)])
def test_reduced_pictures_are_close_to_means(compression, reduction, bound):
    """Within the bound that read_reduced states, and without the quarter pixel shift of a bare lower resolution."""
    ycbcr = compression == "jpeg2000-ycbcr"
    data = encode_tile(TISSUE, compression)
    full = decode_jpeg2000(data, transformed=ycbcr)
    side = 256 // reduction
    mean = full.reshape(side, reduction, side, reduction, 3).mean((1, 3))
    got = reduce_jpeg2000(data, reduction, transformed=ycbcr)
    assert np.abs(got - mean).mean() <= bound
    bare = imagecodecs.jpeg2k_decode(reduced_codestream(data, reduction))
    bare = ycbcr_to_rgb(bare) if ycbcr else bare
    assert np.abs(got - mean).mean() < 0.7 * np.abs(bare - mean).mean()


@pytest.mark.parametrize("taps", [codecs._SYNTHESIS_9_7, codecs._SYNTHESIS_5_3])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_mean_filter_is_what_synthesis_and_averaging_do(taps, reduction):
    """Against upsampling, filtering and averaging a signal in full."""
    signal = np.random.default_rng(0).normal(size=60)
    fine = signal
    for _ in range(int(np.log2(reduction))):
        spread = np.zeros(2 * len(fine))
        spread[::2] = fine
        fine = np.convolve(spread, taps, mode="same")
    mean = fine.reshape(60, reduction).mean(1)
    filtered = np.correlate(signal, codecs._mean_filter(taps, reduction), mode="same")
    np.testing.assert_allclose(filtered[8:-8], mean[8:-8], atol=1e-9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data, 3),
        (lambda data: data, 64),
        (lambda data: data.replace(b"\xff\x4f\xff\x51", b"\xff\x4f\xff\x50"), 2),
        (lambda data: data.replace(b"\xff\x5c", b"\xff\x5d", 1), 2),
        (lambda data: patched(data, b"\xff\x52", 5, 3), 2),  # ordered by position
        (lambda data: patched(patched(data, b"\xff\x52", 5, 0), b"\xff\x52", 7, 2), 2),  # several layers, LRCP
        (lambda data: patched(data, b"\xff\x51", 17, 1), 2),  # grid with an offset
        (lambda data: data[:60], 2),
        (lambda data: b"", 2),
    ],
)
def test_what_cannot_be_reduced_is_left_alone(change, reason):
    data = imagecodecs.jpeg2k_encode(TISSUE, level=40, codecformat="j2k", resolutions=4, numthreads=1)
    assert reduced_codestream(change(data), reason) is None
    assert reduce_jpeg2000(change(data), reason) is None


def patched(data, marker, offset, value):
    place = data.index(marker) + offset
    return data[:place] + bytes([value]) + data[place + 1 :]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_jpeg_is_refused(share):
    data = encode_tile(TISSUE, "jpeg")
    with pytest.raises(TileDecodeError, match="truncated"):
        decode_jpeg(data[: int(len(data) * share)])
    assert decode_jpeg(data + bytes(10)).shape == (256, 256, 3)


def test_memory_for_the_result_is_used_if_it_fits():
    data = encode_tile(TISSUE, "jpeg")
    fitting, other = np.zeros((256, 256, 3), np.uint8), np.zeros((10, 10, 3), np.uint8)
    assert decode_jpeg(data, out=fitting) is fitting
    got = decode_jpeg(data, out=other)
    assert got is not other
    np.testing.assert_array_equal(got, fitting)


def test_markers_that_state_the_colour():
    assert jpeg_is_ycbcr(encode_tile(TISSUE, "jpeg")) is True  # JFIF
    assert jpeg_is_ycbcr(encode_tile(TISSUE, "jpeg-rgb")) is False  # Adobe
    bare = imagecodecs.jpeg8_encode(TISSUE, colorspace="RGB", outcolorspace="RGB")
    start = bare.index(b"\xff\xee")
    bare = bare[:start] + bare[start + 2 + int.from_bytes(bare[start + 2 : start + 4], "big") :]
    frame = bare.index(b"\xff\xc0")
    numbered = bytearray(bare)
    numbered[frame + 10 : frame + 19 : 3] = b"\1\2\3"
    assert jpeg_is_ycbcr(bytes(numbered)) is None
    assert jpeg_is_ycbcr(b"") is None
    np.testing.assert_array_equal(
        decode_jpeg(bare, transformed=False), decode_jpeg(encode_tile(TISSUE, "jpeg-rgb", 95))
    )


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 4))
def test_over_white(pixel):
    red, green, blue, alpha = pixel
    got = over_white(np.array([[pixel]], np.uint8))[0, 0]
    wanted = [(value * alpha + 255 * (255 - alpha)) / 255 for value in (red, green, blue)]
    assert np.abs(got - wanted).max() <= 0.5


def test_memory_to_decode_into_is_not_streamed_to():
    for shape in ((256, 256, 3), (3, 240, 240, 3), (1,)):
        memory = decoding_memory(*shape)
        assert memory.shape == shape
        assert memory.flags.c_contiguous
        assert memory.ctypes.data % 32 == 16


def test_jpeg_is_the_same_in_memory_of_any_alignment():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = encode_tile(pixels, "jpeg")
    wanted = decode_jpeg(data)
    memory = np.zeros(wanted.size + 64, np.uint8)
    for start in range(33):
        out = memory[start : start + wanted.size].reshape(wanted.shape)
        assert decode_jpeg(data, out=out) is out
        assert np.array_equal(out, wanted)

"""Colour comes out right whatever container, compression, chroma, markers and tags say, as long as one tells the truth.

Each combination stores the same picture of tissue.  Left out are combinations in which nothing tells the truth, such as
YCbCr at full chroma without a marker under an RGB tag: no reader could know.
"""

import itertools
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from pathology.errors import SlideError
from pathology.slide.open import open_reader
from pathology.testing.synthetic_slides import ArrayPicture, TissuePicture, write_dicom

TILE, ACROSS, DOWN = 128, 2, 2
WIDTH, HEIGHT = TILE * ACROSS, TILE * DOWN
PIXELS = TissuePicture(WIDTH, HEIGHT, mpp=1.0, tissue=0.8, seed=3).window(0, 0, WIDTH, HEIGHT)
TILES = [
    np.ascontiguousarray(PIXELS[row * TILE :, column * TILE :][:TILE, :TILE])
    for row in range(DOWN)
    for column in range(ACROSS)
]
TOLERANCE = 3.0
"""Mean difference in levels of 255: what compression at quality 95 and halved chroma cost."""

RGB, YCBCR = 2, 6
CHROMA = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}
JPEG_MARKERS = ("none", "JFIF", "Adobe", "JFIF and Adobe")
JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


def adobe(transform):
    return b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


def ycbcr(pixels):
    red, green, blue = np.moveaxis(pixels.astype(np.float64), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402]
    return np.clip(np.rint(np.stack(planes, axis=2)), 0, 255).astype(np.uint8)


def jpeg(pixels, chroma, markers):
    """Encode a JPEG picture of RGB (chroma ``RGB``) or YCbCr with just these markers."""
    if chroma == "RGB":
        data = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB", subsampling=(1, 1))
    else:
        data = imagecodecs.jpeg8_encode(pixels, level=95, subsampling=CHROMA[chroma])
    kept, position = bytearray(b"\xff\xd8"), 2
    if "JFIF" in markers:
        kept += JFIF
    if "Adobe" in markers:
        kept += adobe(chroma != "RGB")
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        segment = bytearray(data[position:end])
        if segment[1] in (0xC0, 0xC1, 0xC2):
            names = b"RGB" if markers == "names" else b"\1\2\3"
            segment[10::3] = names
        if not 0xE0 <= segment[1] <= 0xEF:
            kept += segment
        position = end
    scan = bytearray(data[position:])
    scan[5:11:2] = b"RGB" if markers == "names" else b"\1\2\3"
    return bytes(kept + scan)


def jpeg2000(pixels, samples, container="j2k"):
    """Encode ``transformed`` (by the codestream), bare ``RGB`` or bare ``YCbCr`` components."""
    return imagecodecs.jpeg2k_encode(
        ycbcr(pixels) if samples == "YCbCr" else pixels,
        reversible=True,
        codecformat=container,
        mct=samples == "transformed",
        numthreads=1,
    )


def units(pixels, across, down):
    """Lay out YCbCr as TIFF does: each unit the Y of its pixels, then their mean Cb and Cr."""
    planes = ycbcr(pixels)
    high, wide = planes.shape[0] // down, planes.shape[1] // across
    parts = planes.reshape(high, down, wide, across, 3).transpose(0, 2, 1, 3, 4).reshape(high, wide, -1, 3)
    chroma = np.rint(parts[..., 1:].mean(axis=2)).astype(np.uint8)
    return np.concatenate([parts[..., 0], chroma], axis=2).tobytes()


COMPRESSED = {
    1: bytes,
    5: imagecodecs.lzw_encode,
    8: imagecodecs.zlib_encode,
    32773: lambda data: imagecodecs.packbits_encode(np.frombuffer(data, np.uint8)),
    50000: imagecodecs.zstd_encode,
}


def write_tiff(path: Path, tiles, compression, photometric, *, subsampling=None, description=b"made", more=()):
    """Write one tiled page whose tags say exactly what they are told to."""
    entries = [
        (256, 4, [WIDTH]),
        (257, 4, [HEIGHT]),
        (258, 3, [8, 8, 8]),
        (259, 3, [compression]),
        (262, 3, [photometric]),
        (270, 2, description + b"\0"),
        (277, 3, [3]),
        (284, 3, [1]),
        (322, 4, [TILE]),
        (323, 4, [TILE]),
        *more,
    ]
    data = bytearray(b"II*\0\0\0\0\0")
    offsets = []
    for tile in tiles:
        offsets.append(len(data))
        data += tile + b"\0" * (len(tile) % 2)
    entries += [(324, 4, offsets), (325, 4, [len(tile) for tile in tiles])]
    if subsampling:
        entries.append((530, 3, list(subsampling)))
    packed = []
    for tag, kind, values in sorted(entries):
        raw = values if kind == 2 else struct.pack(f"<{len(values)}{ {3: 'H', 4: 'I', 5: 'I'}[kind] }", *values)
        count = len(values) // 2 if kind == 5 else len(values)
        if len(raw) > 4:
            place = struct.pack("<I", len(data))
            data += raw + b"\0" * (len(raw) % 2)
        else:
            place = raw.ljust(4, b"\0")
        packed.append(struct.pack("<HHI", tag, kind, count) + place)
    data[4:8] = struct.pack("<I", len(data))
    data += struct.pack("<H", len(packed)) + b"".join(packed) + b"\0\0\0\0"
    path.write_bytes(data)
    return path


def write_frames(folder: Path, frames, syntax, photometric):
    """Write one DICOM level whose header says exactly what it is told to."""
    write_dicom(folder, ArrayPicture(PIXELS), syntax="none", factors=(1,), tile=TILE)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        if data.ImageType[2] != "VOLUME":
            file.unlink()
            continue
        data.file_meta.TransferSyntaxUID = syntax
        data.PhotometricInterpretation = photometric
        data.PixelData = encapsulate(frames) if syntax.is_compressed else b"".join(frames)
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = syntax.is_compressed
        data.save_as(file, enforce_file_format=True)
    return folder


def difference(path):
    with open_reader(path) as reader:
        got = reader.read(0, 0, 0, WIDTH, HEIGHT)
        halved = reader.read_reduced(0, 2, 0, 0, WIDTH // 2, HEIGHT // 2).pixels
    small = PIXELS.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).mean() < 5.5  # colours are right when read smaller, too
    return np.abs(got.astype(int) - PIXELS).mean()


def truthful(samples, markers, says_ycbcr):
    """Whether anything in a JPEG picture or its container tells which samples it holds."""
    if samples == "RGB":
        return markers in ("Adobe", "names") or (markers == "none" and not says_ycbcr)
    return markers != "names" and (markers != "none" or samples != "444" or says_ycbcr)


JPEGS = [*itertools.product(CHROMA, JPEG_MARKERS), *(("RGB", markers) for markers in ("none", "Adobe", "names"))]


IN_TIFF = [(*kind, tag) for kind in JPEGS for tag in (RGB, YCBCR) if truthful(*kind, tag == YCBCR)]
IN_DICOM = [
    (*kind, tag) for kind in JPEGS for tag in ("RGB", "YBR_FULL", "YBR_FULL_422") if truthful(*kind, tag != "RGB")
]


@pytest.mark.parametrize(("samples", "markers", "photometric"), IN_TIFF)
def test_jpeg_in_tiff(tmp_path, samples, markers, photometric):
    tiles = [jpeg(tile, samples, markers) for tile in TILES]
    chroma = CHROMA.get(samples) if photometric == YCBCR else None
    assert difference(write_tiff(tmp_path / "a.tif", tiles, 7, photometric, subsampling=chroma)) <= TOLERANCE


@pytest.mark.parametrize(("samples", "markers", "photometric"), IN_DICOM)
def test_jpeg_in_dicom(tmp_path, samples, markers, photometric):
    frames = [jpeg(tile, samples, markers) for tile in TILES]
    assert difference(write_frames(tmp_path, frames, uid.JPEGBaseline8Bit, photometric)) <= TOLERANCE


APERIO = b"Aperio Image Library v12.0.0 \r\n256x256 [0,0 256x256] (128x128) J2K|AppMag = 20|MPP = 0.5"
JPEGS_2000 = [
    *itertools.product(("transformed",), (33003, 33005, 34712), (RGB, YCBCR), ("other", "Aperio")),
    *itertools.product(("RGB",), (33003, 34712), (RGB,), ("other",)),
    ("RGB", 33005, RGB, "other"),
    ("RGB", 33005, RGB, "Aperio"),
    ("RGB", 34712, RGB, "Aperio"),
    *itertools.product(("YCbCr",), (33003, 34712), (YCBCR,), ("other", "Aperio")),
    ("YCbCr", 33003, RGB, "Aperio"),
]


@pytest.mark.parametrize(("samples", "compression", "photometric", "vendor"), JPEGS_2000)
def test_jpeg_2000_in_tiff(tmp_path, samples, compression, photometric, vendor):
    tiles = [jpeg2000(tile, samples) for tile in TILES]
    description = APERIO if vendor == "Aperio" else b"made"
    path = write_tiff(tmp_path / "a.tif", tiles, compression, photometric, description=description)
    assert difference(path) <= TOLERANCE


@pytest.mark.parametrize("container", ["j2k", "jp2"])
@pytest.mark.parametrize(
    ("samples", "photometric"),
    [
        *itertools.product(("transformed",), ("RGB", "YBR_FULL", "YBR_ICT", "YBR_RCT")),
        *itertools.product(("YCbCr",), ("YBR_FULL", "YBR_ICT", "YBR_RCT")),
        ("RGB", "RGB"),
    ],
)
def test_jpeg_2000_in_dicom(tmp_path, samples, photometric, container):
    frames = [jpeg2000(tile, samples, container) for tile in TILES]
    frames = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    assert difference(write_frames(tmp_path, frames, uid.JPEG2000Lossless, photometric)) <= TOLERANCE


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)], ids=str)
def test_lossless_ycbcr_in_tiff(tmp_path, subsampling, compression):
    tiles = [COMPRESSED[compression](units(tile, *subsampling)) for tile in TILES]
    path = write_tiff(tmp_path / "a.tif", tiles, compression, YCBCR, subsampling=subsampling)
    assert difference(path) <= (1.0 if subsampling == (1, 1) else TOLERANCE)


@pytest.mark.parametrize("compression", COMPRESSED)
def test_lossless_rgb_in_tiff(tmp_path, compression):
    tiles = [COMPRESSED[compression](tile.tobytes()) for tile in TILES]
    assert difference(write_tiff(tmp_path / "a.tif", tiles, compression, RGB)) == 0


def test_the_stated_range_of_ycbcr_is_used(tmp_path):
    video = [15, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1]
    shrunk = []
    for tile in TILES:
        planes = ycbcr(tile).astype(float)
        planes[..., 0] = 15 + planes[..., 0] * 220 / 255
        planes[..., 1:] = 128 + (planes[..., 1:] - 128) * 112 / 127
        shrunk.append(np.rint(planes).astype(np.uint8).tobytes())
    assert difference(write_tiff(tmp_path / "a.tif", shrunk, 1, YCBCR, subsampling=(1, 1), more=[(532, 5, video)])) < 1


def test_ycbcr_in_strips_of_odd_height(tmp_path):
    rows, width = 5, 127
    picture = np.full((rows, width, 3), (200, 120, 160), np.uint8)
    padded = units(np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge"), 2, 2)
    more = [(278, 4, [rows]), (273, 4, [8]), (279, 4, [len(padded)])]
    path = write_tiff(tmp_path / "a.tif", [padded], 1, YCBCR, subsampling=(2, 2), more=more)
    # As a strip: the tile tags are put out of the way by numbers that nobody reads.
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * i
        tag = struct.unpack_from("<H", data, place)[0]
        if tag in (322, 323, 324, 325):
            struct.pack_into("<H", data, place, tag + 60000)
        if tag in (256, 257):
            struct.pack_into("<I", data, place + 8, width if tag == 256 else rows)
    path.write_bytes(data)
    with open_reader(path) as reader:
        assert reader.backend == "tiff"
        assert np.abs(reader.read(0, 0, 0, width, rows).astype(int) - picture).max() <= 2


@pytest.mark.parametrize(
    ("photometric", "encode"),
    [
        ("RGB", lambda tile: tile.tobytes()),
        ("YBR_FULL", lambda tile: ycbcr(tile).tobytes()),
        ("YBR_FULL_422", lambda tile: units(tile, 2, 1)),
    ],
    ids=["RGB", "YBR_FULL", "YBR_FULL_422"],
)
def test_uncompressed_in_dicom(tmp_path, photometric, encode):
    frames = [encode(tile) for tile in TILES]
    assert difference(write_frames(tmp_path, frames, uid.ExplicitVRLittleEndian, photometric)) <= TOLERANCE


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_jpeg_ls_in_dicom(tmp_path, photometric):
    frames = [imagecodecs.jpegls_encode(tile if photometric == "RGB" else ycbcr(tile)) for tile in TILES]
    frames = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    assert difference(write_frames(tmp_path, frames, uid.JPEGLSLossless, photometric)) <= TOLERANCE


@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_420", "YBR_PARTIAL_422", "PALETTE COLOR"])
def test_other_colour_models_are_refused_by_name(tmp_path, photometric):
    frames = [tile.tobytes() for tile in TILES]
    with pytest.raises(SlideError, match=photometric):
        open_reader(write_frames(tmp_path, frames, uid.ExplicitVRLittleEndian, photometric))

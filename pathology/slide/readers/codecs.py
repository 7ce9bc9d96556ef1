"""Decoders of stored tiles: compressed bytes in, ``(h, w, 3)`` uint8 RGB out.

The one file that talks to imagecodecs.  Every decoder releases the interpreter lock while it works, holds no
state and may be called from any number of threads.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import Final

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TileDecodeError",
    "decode_jpeg",
    "decode_jpeg2000",
    "decode_jpegls",
    "decode_png",
    "decode_rle",
    "decode_webp",
    "decoding_memory",
    "jpeg2000_is_transformed",
    "jpeg_is_ycbcr",
    "over_white",
    "premultiplied_over_white",
    "reduce_jpeg2000",
    "reduced_codestream",
    "ycbcr_to_rgb",
]

_J2K_UNSUITED: Final = frozenset({0x53, 0x5D, 0x5E, 0x5F, 0x60})
"""Second bytes of markers with settings for single components or packets: COC, QCC, RGN, POC, PPM."""
_SYNTHESIS_9_7: Final = (
    -0.091271763114,
    -0.057543526228,
    0.591271763114,
    1.115087052457,
    0.591271763114,
    -0.057543526228,
    -0.091271763114,
)
_SYNTHESIS_5_3: Final = (0.5, 1.0, 0.5)
"""Low-pass synthesis filters of JPEG 2000's irreversible and reversible wavelet (ISO/IEC 15444-1, annex F)."""
_J2K_TILE_LENGTHS: Final = 0x55
"""Second byte of TLM, an optional index of tile parts."""
_JPEG_END: Final = b"\xff\xd9"
_JPEG_HEADERS_END: Final = (0xDA, 0xD9)
"""Second bytes of the markers that JFIF and Adobe markers precede: start of scan, end of image."""
_JPEG_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
"""Second bytes of the frame headers: baseline, extended and progressive Huffman coding."""
_ADOBE_TRANSFORM: Final = 11
"""Offset of the transform in the content of an Adobe marker: 0 none, 1 YCbCr."""
_STREAMED_FROM: Final = 32
"""Alignment in bytes from which libjpeg-turbo bypasses the caches."""
_JPEG_END_WITHIN: Final = 64
"""The end marker must be within this many last bytes.  Writers pad tiles to even lengths or to small blocks."""


class TileDecodeError(Exception):
    """Compressed bytes that are not a complete tile.  Never leaves the package: readers count and mask the tile."""


def decoding_memory(*shape: int) -> NDArray[np.uint8]:
    """Return uint8 memory of a shape in which JPEG decodes fast: it begins 16 bytes after a multiple of 32.

    If rows begin at a multiple of 32 bytes, libjpeg-turbo's AVX2 colour conversion bypasses the CPU caches
    (``vmovntdq``).  Pixels that are used soon after must then come back from main memory, and decoding itself takes
    half as long again (measured with 256 px tiles of H&E).
    """
    size = math.prod(shape)
    memory = np.empty(size + 2 * _STREAMED_FROM, np.uint8)
    start = (_STREAMED_FROM // 2 - memory.ctypes.data) % _STREAMED_FROM
    return memory[start : start + size].reshape(shape)


def decode_jpeg(
    data: bytes,
    *,
    tables: bytes | None = None,
    transformed: bool | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode one JPEG image with libjpeg-turbo.

    The decoder's defaults (accurate integer DCT, smooth chroma upsampling) are those of OpenSlide and libtiff, so
    pixels match theirs exactly.

    Parameters
    ----------
    data
        The image, abbreviated where ``tables`` is given.
    tables
        Shared quantisation and Huffman tables (TIFF tag JPEGTables).
    transformed
        Whether the samples are YCbCr (True) or RGB (False), if the container states it; ``None`` follows the markers
        in the image.
    out
        Contiguous memory for the result, used if its size matches the image.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.

    Raises
    ------
    TileDecodeError
        If the image is truncated.  libjpeg itself would silently fill the rest with grey.
    """
    if data.find(_JPEG_END, max(0, len(data) - _JPEG_END_WITHIN)) < 0:
        raise TileDecodeError("the JPEG image is truncated")
    space = None if transformed is None else "YCBCR" if transformed else "RGB"
    pixels: NDArray[np.uint8]
    if out is not None:
        try:
            pixels = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace="RGB", out=out)
        except ValueError:  # the image has a different size
            pass
        else:
            return pixels
    pixels = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace="RGB")
    return pixels


def jpeg_is_ycbcr(data: bytes) -> bool | None:
    """Return whether a JPEG image's samples are YCbCr, judged from the image itself.

    Containers can be wrong: some writers declare RGB tiles as YCbCr, or the reverse.  The markers in the image were
    written by its encoder.

    Parameters
    ----------
    data
        The beginning of the image, at least up to its first scan.

    Returns
    -------
    bool or None
        By the JFIF marker (always YCbCr), the Adobe marker (which states the transform), components named R, G and B,
        or subsampled chroma, which RGB never has; ``None`` if none of these is present and the container decides.
    """
    position, adobe, frame = 2, None, b""
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] not in _JPEG_HEADERS_END:
        marker, end = data[position + 1], position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : end]
        if marker == 0xE0 and content.startswith(b"JFIF\0"):
            return True
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) > _ADOBE_TRANSFORM:
            adobe = content[_ADOBE_TRANSFORM] != 0
        if marker in _JPEG_FRAMES:
            frame = content
        position = end
    if adobe is not None:
        return adobe
    # Precision, height, width and number of components, then an identifier, sampling and table for each.
    identifiers, sampling = frame[6::3], frame[7::3]
    if len(sampling) == 3 and identifiers == b"RGB":
        return False
    return True if len(sampling) == 3 and len(set(sampling)) > 1 else None


def jpeg2000_is_transformed(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream transforms its components itself, so that decoders return RGB.

    The flag is the multiple component transformation of the COD marker (ISO/IEC 15444-1, A.6.1).
    """
    start = data.find(b"\xff\x4f\xff\x51")
    position = start + 2
    while start >= 0 and position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0x90:
        if data[position + 1] == 0x52:
            return data[position + 8] == 1
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def decode_jpeg2000(data: bytes, *, transformed: bool = False) -> NDArray[np.uint8]:
    """Decode one JPEG 2000 image (JP2 file or bare codestream) with OpenJPEG.

    Parameters
    ----------
    data
        The image.
    transformed
        Whether the components are YCbCr if the codestream does not transform them itself, as in Aperio's compression
        33003.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    pixels: NDArray[np.uint8] = imagecodecs.jpeg2k_decode(data, numthreads=1)
    if transformed and not _components_subsampled(data) and not jpeg2000_is_transformed(data):
        # OpenJPEG has already upsampled and converted subsampled components.
        pixels = ycbcr_to_rgb(pixels)
    return pixels


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """Decode one 8-bit RGB or RGBA PNG image; transparency is blended with white.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    pixels: NDArray[np.uint8] = imagecodecs.png_decode(data)
    return over_white(pixels) if pixels.shape[2] == 4 else pixels


def decode_jpegls(data: bytes) -> NDArray[np.uint8]:
    """Decode one JPEG-LS image.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    pixels: NDArray[np.uint8] = imagecodecs.jpegls_decode(data)
    return pixels


def decode_rle(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decode one DICOM RLE frame of three 8-bit segments (PS3.5 annex G).

    Returns
    -------
    numpy.ndarray
        ``(height, width, 3)`` uint8, in the frame's own colour space.
    """
    planes: NDArray[np.uint8] = np.frombuffer(imagecodecs.dicomrle_decode(data, "u1"), np.uint8)
    return np.ascontiguousarray(planes.reshape(3, height, width).transpose(1, 2, 0))


def decode_webp(data: bytes) -> NDArray[np.uint8]:
    """Decode one WebP image; transparency is blended with white.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    pixels: NDArray[np.uint8] = imagecodecs.webp_decode(data)
    return over_white(pixels) if pixels.shape[2] == 4 else pixels


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert full-range ITU-R BT.601 YCbCr (as used by JFIF) to RGB.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8, Y, Cb, Cr.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    return np.asarray(cv2.cvtColor(pixels[:, :, [0, 2, 1]], cv2.COLOR_YCrCb2RGB), np.uint8)


def over_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend pixels with straight alpha over white.

    Parameters
    ----------
    pixels
        ``(h, w, 4)`` uint8 RGBA, colour not multiplied by alpha.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    alpha = pixels[:, :, 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[:, :, :3])
    colour = pixels[:, :, :3].astype(np.uint16)
    weight = alpha[:, :, None].astype(np.uint16)
    # Rounded division by 255; the largest term, 255 * 255 + 127, fits in 16 bits.
    return ((colour * weight + (255 - weight) * 255 + 127) // 255).astype(np.uint8)


def premultiplied_over_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend pixels with premultiplied alpha over white.

    Parameters
    ----------
    pixels
        ``(h, w, 4)`` uint8 RGBA.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` uint8 RGB.
    """
    colour = pixels[:, :, :3].astype(np.uint16) + (255 - pixels[:, :, 3:].astype(np.uint16))
    return np.asarray(np.minimum(colour, 255), np.uint8)


def reduce_jpeg2000(data: bytes, reduction: int, *, transformed: bool = False) -> NDArray[np.uint8] | None:
    """Decode a JPEG 2000 image at a lower stored resolution, filtered to approximate area averages of the full image.

    A stored lower resolution is not an area average: its samples lie on every second pixel, not between two, and its
    filter is sharper.  A filter of a few taps turns it into what the averages would be if the finer wavelet bands were
    empty.  For reductions of 4 and more, the next finer resolution is decoded and halved by averaging, since the next
    finer bands matter most.

    Parameters
    ----------
    data, transformed
        As for :func:`decode_jpeg2000`.
    reduction
        Pixels per pixel of the result along each axis.

    Returns
    -------
    numpy.ndarray or None
        ``(ceil(h / reduction), ceil(w / reduction), 3)`` uint8 RGB; ``None`` if the resolution cannot be extracted
        from the image.
    """
    if reduction < 2 or reduction & (reduction - 1):
        return None
    decoded = max(2, reduction // 2)
    smaller = reduced_codestream(data, decoded)
    if smaller is None:
        return None
    pixels = decode_jpeg2000(smaller, transformed=transformed)
    reversible = smaller[smaller.index(b"\xff\x52") + 13] == 1
    taps = _mean_filter(_SYNTHESIS_5_3 if reversible else _SYNTHESIS_9_7, decoded)
    # The standard mirrors the image at its border, without repeating the outermost sample.  With so few taps, one 2-D
    # filter takes half the time of two 1-D ones.
    means = cv2.filter2D(pixels, -1, np.outer(taps, taps), borderType=cv2.BORDER_REFLECT_101)
    if reduction > decoded:
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            return None
        means = cv2.resize(means, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.uint8)


@lru_cache(maxsize=32)
def _mean_filter(synthesis: tuple[float, ...], reduction: int) -> NDArray[np.float64]:
    """Return taps that turn wavelet low-pass samples into means of the image synthesised from them alone.

    Parameters
    ----------
    synthesis
        Low-pass synthesis filter, odd and symmetric, with sum 2.
    reduction
        Pixels per sample, a power of two.

    Returns
    -------
    numpy.ndarray
        An odd number of taps with sum 1, centred on the sample itself, for use as a correlation.
    """
    response, centre = np.ones(1), 0
    for _ in range(reduction.bit_length() - 1):
        spread = np.zeros(2 * len(response) - 1)
        spread[::2] = response
        response = np.convolve(spread, synthesis)
        centre = 2 * centre + len(synthesis) // 2
    reach = -(-len(response) // reduction)
    padded = np.pad(response, 2 * reduction * reach)
    origin = centre + 2 * reduction * reach
    # A mean's weight for the sample k positions away is the mean response to that sample over the mean's pixels.
    taps = np.array(
        [padded[origin - reduction * k : origin - reduction * k + reduction].mean() for k in range(-reach, reach + 1)]
    )
    used = max(abs(int(k) - reach) for k in np.flatnonzero(np.abs(taps) > 1e-9))
    return taps[reach - used : reach + used + 1]


def reduced_codestream(data: bytes, reduction: int) -> bytes | None:
    """Rewrite a JPEG 2000 codestream's headers so that it decodes to its image at a lower resolution.

    A codestream holds the image's wavelet decomposition, coarse to fine.  Declaring fewer decomposition levels and a
    smaller image turns the beginning of the same data into a complete codestream of the lower resolution; decoders
    ignore the rest.  (ISO/IEC 15444-1, annex A for the markers, E.1 for the quantisation of subbands.)

    Parameters
    ----------
    data
        A JP2 file or bare codestream.
    reduction
        Pixels per pixel of the lower resolution along each axis, a power of two.

    Returns
    -------
    bytes or None
        A bare codestream; ``None`` if the data are not ordered by resolution, have too few levels, or use parts of the
        standard that refer to single components or packets.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    levels = reduction.bit_length() - 1
    if start < 0 or reduction != 1 << levels:
        return None
    head = bytearray(b"\xff\x4f")
    position = start + 2
    while data[position : position + 2] != b"\xff\x90":
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = bytearray(data[position : position + 2 + length])
        position += 2 + length
        if len(segment) < 2 + length or data[position - 2 - length] != 0xFF or marker in _J2K_UNSUITED:
            return None
        if marker == 0x51 and not _shrink_size(segment, reduction):
            return None
        if marker == 0x52 and not _drop_levels(segment, levels):
            return None
        if marker == 0x5C and segment[4] & 31 != 1:
            # One entry per subband, coarse to fine, of 1 byte (reversible) or 2; derived ones (1) need no change.
            entry = 1 if segment[4] & 31 == 0 else 2
            del segment[len(segment) - 3 * levels * entry :]
        segment[2:4] = (len(segment) - 2).to_bytes(2, "big")
        if marker != _J2K_TILE_LENGTHS:
            head += segment
    return bytes(head) + data[position:]


def _shrink_size(siz: bytearray, reduction: int) -> bool:
    """Divide image and tile size in a SIZ segment; false if its grid has an offset or tiles do not divide evenly."""
    width, height, x, y, tile_width, tile_height, tile_x, tile_y = struct.unpack(">8I", siz[6:38])
    if x or y or tile_x or tile_y:
        return False
    if (tile_width < width and tile_width % reduction) or (tile_height < height and tile_height % reduction):
        return False
    smaller = [-(-side // reduction) for side in (width, height)]
    tiles = [-(-side // reduction) for side in (tile_width, tile_height)]
    siz[6:38] = struct.pack(">8I", *smaller, 0, 0, *tiles, 0, 0)
    return True


def _drop_levels(cod: bytearray, levels: int) -> bool:
    """Lower the number of decompositions in a COD segment; false if the order of the data does not allow it."""
    progression, layers, decompositions = cod[5], int.from_bytes(cod[6:8], "big"), cod[9]
    by_resolution = progression in (1, 2) or (progression == 0 and layers == 1)
    if not by_resolution or decompositions < levels:
        return False
    cod[9] = decompositions - levels
    if cod[4] & 1:
        del cod[len(cod) - levels :]  # precinct sizes, one per resolution
    return True


def _components_subsampled(data: bytes) -> bool:
    """Whether a JPEG 2000 codestream's components differ in sampling (SIZ marker, ISO/IEC 15444-1 A.5.1)."""
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return False
    siz = start + 4
    count = int.from_bytes(data[siz + 36 : siz + 38], "big")
    steps = {data[siz + 38 + 3 * i + 1 : siz + 38 + 3 * i + 3] for i in range(count)}
    return len(steps) > 1

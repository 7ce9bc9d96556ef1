"""YCbCr stored without JPEG in TIFF files: uncompressed, LZW, deflate and the like, with full or subsampled chroma.

Layout and conversion follow TIFF 6.0, section 21, as implemented by libtiff.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from pathology.errors import UnsupportedSlideError

__all__ = ["YcbcrLayout"]

_SUBSAMPLINGS: Final = (1, 2, 4)
_FULL_RANGE: Final = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
"""Reference black and white of Y, Cb and Cr if the file states none; libtiff's defaults."""
_BT_601: Final = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class YcbcrLayout:
    """Layout and meaning of the YCbCr samples of a page's tiles or strips.

    Attributes
    ----------
    width
        Pixels in a row of a tile or strip.
    step
        Pixels horizontally and vertically that share one Cb and one Cr.
    unpack
        Decompresses the bytes.
    differenced
        Whether neighbouring pixels were differenced before compression.
    weights
        Weights of red, green and blue in Y.
    black_white
        Codes of black and white for Y, and of zero and full chroma for Cb and Cr.
    """

    width: int
    step: tuple[int, int]
    unpack: Callable[[bytes], Any]
    differenced: bool
    weights: tuple[float, float, float]
    black_white: tuple[float, ...]

    @classmethod
    def of(cls, page: tifffile.TiffPage, tile: tuple[int, int], path: Path) -> YcbcrLayout:
        """Read the layout of a page.

        Raises
        ------
        UnsupportedSlideError
            If the layout is not supported.
        """
        across, down = (int(n) for n in page.subsampling or (2, 2))  # the standard's default
        differenced = int(page.predictor) == 2
        if (
            across not in _SUBSAMPLINGS
            or down not in _SUBSAMPLINGS
            or int(page.samplesperpixel) != 3
            or (differenced and (across, down) != (1, 1))
        ):
            raise UnsupportedSlideError(
                f"YCbCr with {page.samplesperpixel} channels, {across} x {down} chroma subsampling and predictor "
                f"{int(page.predictor)} is not supported",
                where=path,
            )
        # Without compression there is nothing to unpack.
        unpack = bytes if page.compression == 1 else tifffile.TIFF.DECOMPRESSORS[page.compression]
        weights = _numbers(page, "YCbCrCoefficients", 3) or _BT_601
        limits = tuple(_numbers(page, "ReferenceBlackWhite", 6) or _FULL_RANGE)
        if weights[1] <= 0 or any(low == high for low, high in zip(limits[::2], limits[1::2], strict=True)):
            raise UnsupportedSlideError("invalid YCbCr coefficients or reference black and white", where=path)
        return cls(
            tile[0],
            (across, down),
            unpack,
            differenced,
            (weights[0], weights[1], weights[2]),
            limits,
        )

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return ``(h, width, 3)`` uint8 RGB; ``h`` is rounded up to whole chroma blocks."""
        across, down = self.step
        flat = np.frombuffer(self.unpack(data), np.uint8)
        columns = -(-self.width // across)
        unit = across * down + 2
        rows = len(flat) // (columns * unit)
        units = flat[: rows * columns * unit].reshape(rows, columns, unit)
        if self.differenced:
            units = np.cumsum(units, axis=1, dtype=np.uint8)
        blocks = units[:, :, :-2].reshape(rows, columns, down, across).transpose(0, 2, 1, 3)
        luma = blocks.reshape(rows * down, columns * across)
        # Chroma is repeated, not interpolated, as in libtiff and OpenSlide.
        chroma = units[:, :, -2:].repeat(down, axis=0).repeat(across, axis=1)
        return self._rgb(luma, chroma)[:, : self.width]

    def _rgb(self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8]) -> NDArray[np.uint8]:
        red_share, green_share, blue_share = self.weights
        black, white, *ends = self.black_white
        y = (luma.astype(np.float32) - black) * np.float32(255 / (white - black))
        cb, cr = (
            (chroma[:, :, i].astype(np.float32) - none) * np.float32(127 / (most - none))
            for i, (none, most) in enumerate((ends[:2], ends[2:]))
        )
        red = y + np.float32(2 - 2 * red_share) * cr
        blue = y + np.float32(2 - 2 * blue_share) * cb
        green = (y - np.float32(red_share) * red - np.float32(blue_share) * blue) / np.float32(green_share)
        pixels = np.stack([red, green, blue], axis=2)
        return np.asarray(np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels), np.uint8)


def _numbers(page: tifffile.TiffPage, name: str, count: int) -> Sequence[float] | None:
    """Return a tag of ``count`` rational numbers."""
    tag = page.tags.get(name)
    if tag is None or len(tag.value) not in (count, 2 * count):
        return None
    if len(tag.value) == count:
        return [float(value) for value in tag.value]
    return [above / below if below else 0.0 for above, below in zip(tag.value[::2], tag.value[1::2], strict=True)]

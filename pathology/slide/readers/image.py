"""PNG and JPEG images (a field of view, a crop, a tile) as slides of one level and one tile."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from pathology.errors import CorruptSlideError, NotBrightfieldError, UnsupportedSlideError
from pathology.slide.readers.base import Level
from pathology.slide.readers.bounds import require_plausible_size
from pathology.slide.readers.codecs import decode_jpeg, decode_png
from pathology.slide.readers.tiled import DEFAULT_CACHE_BYTES, StoredLevel, TileDecoder, TiledReader

__all__ = ["ImageReader"]

_LEAST_DPI: Final = 1270.0
"""Resolutions below this, in dots per inch (20 µm per pixel), describe a screen or a printout, not a microscope."""
_MODES: Final = {
    "1": "black and white",
    "L": "grey",
    "P": "palette",
    "LA": "grey",
    "I;16": "16-bit grey",
    "CMYK": "CMYK",
}


class ImageReader(TiledReader):
    """A PNG or JPEG image.

    Its scale is known only if the file states a resolution that is plausible for a microscope; the usual 72 or 96 dots
    per inch refer to screens and printers.

    Parameters
    ----------
    path
        The file.
    threads
        Ignored: there is only one tile to decode.
    cache_bytes
        Size of the cache in bytes; raised if needed to hold this image.

    Raises
    ------
    CorruptSlideError
        If the file is damaged or truncated.
    NotBrightfieldError
        If the image is greyscale, palette-based or 16-bit.
    UnsupportedSlideError
        If the file is not a PNG or JPEG, or is larger than 150 megapixels.
    """

    backend: ClassVar[str] = "image"

    def __init__(self, path: Path, *, threads: int = 1, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        try:
            # Pillow warns of sizes that are usual here; what is too large is refused below.
            with (
                warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
                Image.open(path, formats=("PNG", "JPEG")) as picture,
            ):
                width, height = picture.size
                mode, kind = picture.mode, str(picture.format)
                dpi = picture.info.get("dpi")
                self.icc_profile = picture.info.get("icc_profile")
        except UnidentifiedImageError:
            raise UnsupportedSlideError("not a PNG or JPEG image", where=path) from None
        except Image.DecompressionBombError as error:
            raise UnsupportedSlideError(f"the image is too large: {error}", where=path) from error
        except (OSError, SyntaxError, ValueError) as error:
            raise CorruptSlideError(f"the image is damaged: {error}", where=path) from error
        if mode not in ("RGB", "RGBA"):
            raise NotBrightfieldError(
                f"the image is stored as {_MODES.get(mode, mode)}, not as 8-bit RGB",
                where=path,
                remedy="Only 8-bit RGB brightfield images can be scored",
            )
        require_plausible_size(path, width, height, (width, height))
        size = path.stat().st_size
        _require_end(path, size, b"\xff\xd9" if kind == "JPEG" else b"IEND")
        decode = decode_jpeg if kind == "JPEG" else decode_png
        self.mpp = _scale(dpi)
        self.objective_power = None
        self.vendor = kind.lower()
        self.properties = MappingProxyType({"compression": kind})
        level = Level(width, height, 1.0, (width, height))
        stored = StoredLevel(
            level, np.zeros(1, np.int64), np.array([size], np.int64), kind, TileDecoder(lambda data, *_: decode(data))
        )
        super().__init__(path, [path], [stored], threads=threads, cache_bytes=max(cache_bytes, width * height * 3))


def _require_end(path: Path, size: int, mark: bytes) -> None:
    """Refuse an image without its end marker, which may be followed by a little padding."""
    with path.open("rb") as file:
        file.seek(max(0, size - 64))
        if mark not in file.read():
            raise CorruptSlideError("the image is truncated", where=path, remedy="Copy it again from its source")


def _scale(dpi: tuple[float, float] | None) -> float | None:
    """Return µm per pixel, mean of both axes, if the resolution is plausible for a microscope."""
    if dpi is None or min(dpi) < _LEAST_DPI:
        return None
    return float((25_400 / dpi[0] + 25_400 / dpi[1]) / 2)

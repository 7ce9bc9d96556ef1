"""Patch compression in stores of mode ``decoded``.  The only module that uses numcodecs.

Lossless compression shrinks H&E pixels only 1.2 to 1.4-fold, whatever the method, so the fastest is used: LZ4 is
close to Zstandard in size and reads and writes five to ten times as fast (table in ``docs/performance.md``, made with
``python -m benchmarks compression``).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

__all__ = ["compress", "decompress", "zarr_codec"]

_COMPRESSOR: Final = "lz4"
_LEVEL: Final = 5


def zarr_codec() -> BloscCodec:
    """Return the codec in zarr's own terms."""
    return BloscCodec(typesize=1, cname=_COMPRESSOR, clevel=_LEVEL, shuffle="noshuffle")


def compress(patch: NDArray[np.uint8]) -> bytes:
    """Compress one patch, outside the interpreter lock."""
    data: bytes = blosc.compress(np.ascontiguousarray(patch), _COMPRESSOR.encode(), _LEVEL, blosc.NOSHUFFLE)
    return data


def decompress(data: bytes, out: NDArray[np.uint8]) -> None:
    """Decompress one patch into contiguous memory of its size.

    Raises
    ------
    ValueError, RuntimeError
        If the bytes are not a compressed patch of that size.
    """
    # Bytes 4 to 7 of Blosc's header: the size before compression.
    if len(data) < 16 or int.from_bytes(data[4:8], "little") != out.nbytes:
        raise ValueError(f"the compressed patch does not contain {out.nbytes} bytes")
    blosc.decompress(data, out)

"""The zarr codec of stores in mode ``encoded``: a chunk is a slide's stored tile, byte for byte.

Registered through zarr's entry point ``zarr.codecs``, so that plain zarr opens such a store wherever this package is
installed.  Its form in the array metadata::

    {
        "name": "pathology.stored_tile",
        "configuration": {"compression": "jpeg", "transformed": true, "tables": "<base64>"},
    }

``compression`` is ``jpeg``, ``jpeg2000``, ``jpeg-ls`` or ``webp``; ``transformed`` is ``true`` if samples are YCbCr,
``false`` if they are RGB, and ``null`` if the image's own markers decide; ``tables`` are the quantisation and Huffman
tables that all JPEG tiles of the slide share, in base64, or empty if each tile has its own.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec

from pathology.errors import StoreError
from pathology.slide.readers.base import BACKGROUND
from pathology.slide.readers.tile_encoding import TileEncoding

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

__all__ = ["CODEC_NAME", "StoredTileCodec", "fitted"]

CODEC_NAME: Final = "pathology.stored_tile"


@dataclass(frozen=True)
class StoredTileCodec(ArrayBytesCodec):
    """Decodes a slide's stored tiles into chunks of shape ``(1, P, P, 3)``, uint8 RGB.

    An image smaller than the chunk (a tile clipped at the slide's edge) is padded with white, a larger one is cropped.

    Attributes
    ----------
    encoding
        How the tiles are compressed.
    """

    encoding: TileEncoding
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read the codec's metadata.

        Raises
        ------
        ValueError
            If a field is missing or invalid.
        """
        try:
            configuration = data["configuration"]
            tables = base64.b64decode(configuration["tables"], validate=True)
            return cls(TileEncoding(configuration["compression"], configuration["transformed"], tables))
        except (KeyError, TypeError, binascii.Error) as error:
            raise ValueError(f"the configuration of codec {CODEC_NAME} is incomplete or damaged: {error!r}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's metadata."""
        return {
            "name": CODEC_NAME,
            "configuration": {
                "compression": self.encoding.compression,
                "transformed": self.encoding.transformed,
                "tables": base64.b64encode(self.encoding.tables).decode("ascii"),
            },
        }

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        # Threads could decode several tiles at once, but starting one costs as much as decoding a tile.
        tile = self.encoding.decode(chunk_bytes.to_bytes())
        pixels: Any = fitted(tile, *chunk_spec.shape[1:3]).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(pixels)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        del chunk_array, chunk_spec
        raise StoreError(
            "this array contains a slide's compressed tiles and cannot be written to",
            remedy="Create a store of mode decoded",
        )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown: the size of a compressed tile depends on its content.

        This error is zarr's convention for unknown sizes; its own compressors raise it too.
        """
        raise NotImplementedError("the size of a compressed tile depends on its content")


def fitted(tile: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Crop a decoded tile to a size, or pad it with white at the right and bottom.

    Returns
    -------
    numpy.ndarray
        ``(height, width, 3)`` uint8; the tile itself if it has that size.
    """
    if tile.shape == (height, width, 3):
        return tile
    result = np.full((height, width, 3), BACKGROUND, np.uint8)
    part = tile[:height, :width]
    result[: part.shape[0], : part.shape[1]] = part
    return result

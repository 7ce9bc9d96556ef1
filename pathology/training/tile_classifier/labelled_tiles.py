"""Labelled tiles in memory, and the grid of patches within a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pathology.errors import InputTableError
from pathology.stats.splits import content_digest

__all__ = ["LabelledTiles", "patch_starts", "read_tiles", "tissue_shares"]

GLASS: Final = 220
"""Pixels with every channel at least this bright (0 to 255) are glass: bare glass is about 244 at a scanner's
white balance, the palest stroma about 200 in green."""

SQUARE: Final = 8
"""Side in pixels of the squares over which brightness is averaged, so that noise does not count as tissue."""


@dataclass(frozen=True, eq=False)
class LabelledTiles:
    """Tiles of equal size with class, patient and slide.

    Attributes
    ----------
    pixels : numpy.ndarray
        ``(N, H, W, 3)`` uint8 RGB.
    labels : numpy.ndarray
        ``(N,)`` int64 class indices.
    classes : tuple of str
        Class names.
    patients : tuple of str
        Patient (case) of each tile.
    slides : tuple of str
        Slide of each tile; the name includes the patient, so patients never share one.
    names : tuple of str
        File name of each tile, for the record.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    slides: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.labels)

    def digests(self) -> list[str]:
        """Return a hash of the pixels of each tile, for the leakage audit."""
        return [content_digest(tile) for tile in self.pixels]


def read_tiles(
    paths: Sequence[Path],
    labels: Sequence[int],
    classes: Sequence[str],
    patients: Sequence[str],
    slides: Sequence[str],
) -> LabelledTiles:
    """Read tiles of equal size into memory.

    Parameters
    ----------
    paths
        Image files (JPEG, PNG), one per tile.
    labels, patients, slides
        Class index, patient and slide of each tile.
    classes
        Class names.

    Raises
    ------
    InputTableError
        If there are no tiles, a file is not an image, or sizes differ.
    """
    if not paths:
        raise InputTableError("no tiles to read")
    arrays: list[npt.NDArray[np.uint8]] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                arrays.append(np.asarray(image.convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise InputTableError("the tile cannot be read", where=path, remedy="Copy it again") from error
        if arrays[-1].shape != arrays[0].shape:
            height, width = arrays[-1].shape[:2]
            raise InputTableError(
                f"the tile is {width} x {height} px, the first one {arrays[0].shape[1]} x {arrays[0].shape[0]}",
                where=path,
                remedy="Use tiles of equal size",
            )
    return LabelledTiles(
        pixels=np.stack(arrays),
        labels=np.asarray(labels, np.int64),
        classes=tuple(classes),
        patients=tuple(patients),
        slides=tuple(slides),
        names=tuple(path.name for path in paths),
    )


def patch_starts(side: int, patch: int, stride: int) -> list[int]:
    """Return the start positions of patches along one side of a tile; the last one ends at its border.

    Parameters
    ----------
    side, patch
        Sides of tile and patch in pixels.
    stride
        Maximum stride in pixels; patches are spread evenly.

    Raises
    ------
    ValueError
        If the patch is larger than the tile.
    """
    if patch > side:
        raise ValueError(f"patch: expected at most the tile's side of {side} px, got {patch}")
    steps = -(-(side - patch) // stride)
    if steps == 0:
        return [0]
    return [round(i * (side - patch) / steps) for i in range(steps + 1)]


def tissue_shares(
    pixels: npt.NDArray[np.uint8], patch: int, tops: Sequence[int], lefts: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Compute the tissue fraction of each patch of a tile.

    Parameters
    ----------
    pixels
        The tile, ``(H, W, 3)`` uint8 RGB.
    patch
        Side of a patch in pixels.
    tops, lefts
        Start positions of the patches in pixels; rounded to 8 px.

    Returns
    -------
    numpy.ndarray
        ``(len(tops), len(lefts))`` float64, 0 to 1.
    """
    rows, columns = pixels.shape[0] // SQUARE, pixels.shape[1] // SQUARE
    squares = pixels[: rows * SQUARE, : columns * SQUARE].reshape(rows, SQUARE, columns, SQUARE, 3)
    tissue = squares.mean(axis=(1, 3)).min(axis=2) < GLASS
    # Summed-area table: the tissue in any rectangle needs four look-ups.
    total = np.zeros((rows + 1, columns + 1))
    total[1:, 1:] = tissue.cumsum(axis=0).cumsum(axis=1)
    top = np.minimum(np.round(np.asarray(tops) / SQUARE).astype(int), rows - 1)[:, None]
    left = np.minimum(np.round(np.asarray(lefts) / SQUARE).astype(int), columns - 1)[None, :]
    side = max(1, round(patch / SQUARE))
    bottom, right = np.minimum(top + side, rows), np.minimum(left + side, columns)
    inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    share: npt.NDArray[np.float64] = inside / ((bottom - top) * (right - left))
    return share

"""Heatmaps as pyramidal OME-TIFF: one channel per class, one pixel per cell, with the slide's origin.

QuPath reads no position on a slide from OME-TIFF, only a pixel size.  The image therefore starts at the slide's origin
and its pixels are cells: cell ``(row, column)`` covers level-0 pixels ``[column * stride, (column + 1) * stride)``
horizontally, exactly, because the grid of patches starts at the slide's origin.  The pixel size is ``stride * mpp``;
two images with the same origin and correct pixel sizes are aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import tifffile
from numpy.typing import NDArray

from pathology.atomic_files import replacing
from pathology.errors import UsageError
from pathology.formatting import RESEARCH_USE_ONLY
from pathology.outputs.export.pyramid import halved_means, pyramid_sizes
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.figures.palette import hex_to_rgb

__all__ = ["on_slide", "write_ome_tiff"]

_TILE: Final = 256
"""Side length of a stored tile in pixels, and the largest side of the coarsest level."""


def on_slide(heatmap: Heatmap, dimensions: tuple[int, int]) -> NDArray[np.float32]:
    """Return the map extended to the whole slide.

    Parameters
    ----------
    heatmap
        Of the slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.

    Returns
    -------
    numpy.ndarray
        ``(C, rows, columns)`` float32, NaN where nothing was scored; the cells cover the slide (the last ones may
        extend beyond the slide boundary).
    """
    row, column = heatmap.first_cell
    rows, columns = heatmap.shape
    # Rounding of the scale must not add a row that starts a millionth of a pixel before the edge.
    across, down = (int(np.ceil(side / heatmap.stride - 1e-6)) for side in dimensions)
    whole = np.full((len(heatmap.classes), max(down, row + rows), max(across, column + columns)), np.nan, np.float32)
    whole[:, row : row + rows, column : column + columns] = heatmap.values
    return whole


def write_ome_tiff(
    path: Path,
    heatmap: Heatmap,
    dimensions: tuple[int, int],
    *,
    mpp: float,
    name: str,
    colours: Sequence[str],
    warnings: Sequence[str] = (),
) -> None:
    """Write a heatmap, completely or not at all.

    Parameters
    ----------
    path
        The file, ending in ``.ome.tif`` by convention.
    heatmap
        Of one slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    mpp
        Micrometres per level-0 pixel of the slide.
    name
        Of the image.
    colours
        ``#rrggbb`` per class.

    Raises
    ------
    UsageError
        If the number of colours differs from the number of classes.
    OutputError
        If it cannot be written.
    """
    if len(colours) != len(heatmap.classes):
        raise UsageError(f"colours: expected {len(heatmap.classes)}, one per class, got {len(colours)}")
    values = on_slide(heatmap, dimensions)
    sizes = list(pyramid_sizes(values.shape[1:], _TILE))
    options: dict[str, Any] = {
        "photometric": "minisblack",
        "tile": (_TILE, _TILE),
        "compression": "zlib",
        "predictor": 3,  # for floating point: a third smaller
    }
    size = heatmap.stride * mpp
    metadata = {
        "axes": "CYX",
        "Name": name,
        "Description": " ".join(
            [
                f"Class probabilities, 0 to 1; not a number where no tissue was scored. {RESEARCH_USE_ONLY}",
                *(f"Warning: {warning}" for warning in warnings),
            ]
        ),
        "PhysicalSizeX": size,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": size,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": list(heatmap.classes), "Color": [_ome_colour(colour) for colour in colours]},
    }
    resolution = 1e4 / size  # pixels per cm
    options |= {"resolutionunit": "CENTIMETER"}
    with replacing(path) as aside, tifffile.TiffWriter(aside, ome=True, bigtiff=values.nbytes > 2**31) as tif:
        tif.write(values, subifds=len(sizes) - 1, metadata=metadata, resolution=(resolution, resolution), **options)
        for number in range(1, len(sizes)):
            values = halved_means(values)
            coarser = resolution / 2**number
            tif.write(values, subfiletype=1, resolution=(coarser, coarser), **options)


def _ome_colour(colour: str) -> int:
    """Return a colour in OME's format: red, green, blue and alpha in one signed 32-bit integer."""
    red, green, blue = hex_to_rgb(colour)
    packed = red << 24 | green << 16 | blue << 8 | 255
    return packed - 2**32 if packed >= 2**31 else packed

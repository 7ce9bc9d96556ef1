"""Heatmaps as OME-Zarr 0.5: class probabilities in physical coordinates, and the predicted class as a label image.

Physical coordinates are in µm.  As in viewers that open the slide itself, the *centre* of level-0 pixel ``(0, 0)`` is
``(0, 0)`` µm, so the map is aligned with the slide if both are opened together.  ``translation`` gives the centre of
the first cell; it is not a multiple of the cell size, since a cell is much larger than a pixel.

The files are written with zarr only; the tests validate their metadata with ome-zarr-models and open them with
ome-zarr.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from pathology._version import __version__
from pathology.atomic_files import replacing
from pathology.errors import UsageError
from pathology.formatting import RESEARCH_USE_ONLY
from pathology.outputs.export.pyramid import halved_labels, halved_means, pyramid_sizes
from pathology.outputs.figures.heatmap import Heatmap

__all__ = ["LEADING", "write_ome_zarr"]

LEADING: Final = "predicted_class"
"""Name of the label image: 0 where nothing was scored, else 1 + the index of the class."""

_VERSION: Final = "0.5"
_SMALLEST: Final = 64
"""The last level is the first with both sides at most this many cells."""
_CHUNK: Final = 512
"""Side length of a chunk in cells: 1 MiB of float32."""


def write_ome_zarr(
    path: Path, heatmap: Heatmap, *, mpp: float, name: str, colours: Sequence[str], warnings: Sequence[str] = ()
) -> None:
    """Write a heatmap, completely or not at all; an older one at ``path`` is replaced.

    Parameters
    ----------
    path
        The folder, ending in ``.ome.zarr`` by convention.
    heatmap
        Of one slide, with at least one cell.
    mpp
        Micrometres per level-0 pixel of the slide.
    name
        Of the image.
    colours
        ``#rrggbb`` per class.
    warnings
        Of the slide; the attribute ``warnings`` of the group.

    Raises
    ------
    UsageError
        If the map is empty, or the number of colours differs from the number of classes.
    OutputError
        If it cannot be written.
    """
    if len(colours) != len(heatmap.classes):
        raise UsageError(f"colours: expected {len(heatmap.classes)}, one per class, got {len(colours)}")
    if not all(heatmap.shape):
        raise UsageError("the map has no cells: no patch was scored")
    levels = [heatmap.values]
    labels = [(heatmap.predicted() + 1).astype(np.uint16)]
    for _ in list(pyramid_sizes(heatmap.shape, _SMALLEST))[1:]:
        levels.append(halved_means(levels[-1]))
        labels.append(halved_labels(labels[-1]))
    with replacing(path) as aside:
        root = zarr.open_group(aside, mode="w", zarr_format=3)
        _write_levels(root, levels, ("c", "y", "x"))
        if warnings:
            root.attrs["warnings"] = list(warnings)
        root.attrs["ome"] = {
            "version": _VERSION,
            "multiscales": [_multiscale(name, heatmap, mpp, len(levels), channels=True)],
            "omero": {
                "channels": [
                    {
                        "label": label,
                        "color": colour.removeprefix("#").upper(),
                        "window": {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0},
                        "active": True,
                    }
                    for label, colour in zip(heatmap.classes, colours, strict=True)
                ]
            },
        }
        root.create_group("labels").attrs["ome"] = {"version": _VERSION, "labels": [LEADING]}
        group = root.create_group(f"labels/{LEADING}")
        _write_levels(group, labels, ("y", "x"))
        group.attrs["ome"] = {
            "version": _VERSION,
            "multiscales": [_multiscale(LEADING, heatmap, mpp, len(labels), channels=False)],
            "image-label": {
                "colors": [
                    {"label-value": index, "rgba": [*bytes.fromhex(colour.removeprefix("#")), 255]}
                    for index, colour in enumerate(colours, 1)
                ],
                "properties": [{"label-value": index, "class": c} for index, c in enumerate(heatmap.classes, 1)],
                "source": {"image": "../../"},
            },
        }


def _write_levels(group: zarr.Group, levels: Sequence[NDArray[Any]], axes: tuple[str, ...]) -> None:
    for number, values in enumerate(levels):
        chunks = (*(1 for _ in axes[:-2]), *(min(_CHUNK, side) for side in values.shape[-2:]))
        array = group.create_array(
            str(number),
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            dimension_names=axes,
            fill_value=np.nan if values.dtype.kind == "f" else 0,
        )
        array[...] = values


def _multiscale(name: str, heatmap: Heatmap, mpp: float, levels: int, *, channels: bool) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    if channels:
        axes.insert(0, {"name": "c", "type": "channel"})
    datasets = []
    for number in range(levels):
        cell = heatmap.stride * 2**number
        scale = [cell * mpp] * 2
        # From the centre of the slide's first pixel to the centre of the first cell.
        translation = [(heatmap.origin[axis] + (cell - 1) / 2) * mpp for axis in (1, 0)]
        if channels:
            scale.insert(0, 1.0)
            translation.insert(0, 0.0)
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": translation},
                ],
            }
        )
    return {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "mean" if channels else "majority",
        "metadata": {"made_by": f"pathology {__version__}", "note": RESEARCH_USE_ONLY},
    }

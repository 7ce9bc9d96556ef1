"""Montages of slices with contours, and checkerboards for inspecting a registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.radiology.io.geometry import check_same_geometry
from pathology.radiology.io.volume import Mask, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_montage", "draw_registration"]

# Colour-blind-safe palette (Okabe and Ito 2008), visible on grey and on black.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7")
_WINDOWS = {"HU": (-160.0, 240.0), "SUV": (0.0, 10.0)}


def draw_montage(volume: Volume, masks: Mapping[str, Mask], *, slices: int = 9, title: str = "") -> Figure:
    """Draw evenly spaced slices through the segmented region, with the contour of each mask.

    Radiological convention: patient right on the left, anterior up; the scale bar is 5 cm.

    Parameters
    ----------
    volume
        Image, approximately axial.
    masks
        Masks by name, on the image grid; may be empty.
    slices
        Maximum number of slices.
    title
        Figure title.

    Raises
    ------
    GeometryError
        If a mask lies on another grid.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    for name, mask in masks.items():
        check_same_geometry(volume.geometry, mask.geometry, names=(volume.name or "the image", f"mask '{name}'"))
    chosen = _slices(volume, masks, slices)
    low, high = _grey_range(volume)
    columns = min(3 if len(chosen) > 2 else len(chosen), 5)
    rows = -(-len(chosen) // columns)
    spacing = volume.geometry.spacing
    height, width = volume.array.shape[1] * spacing[1], volume.array.shape[2] * spacing[0]
    figure = Figure(figsize=(3.1 * columns, 3.1 * rows * height / width + 0.7), layout="constrained", facecolor="white")
    flip = _flips(volume)
    for number, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, number + 1)
        # Pixel centres of the first and last voxel lie half a voxel within the extent.
        extent = (0.0, width, height, 0.0)
        axes.imshow(
            _turn(volume.array[index], flip), cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest"
        )
        for colour, mask in zip(_COLOURS, masks.values(), strict=False):
            _outline(axes, _turn(mask.array[index], flip), extent, colour)
        z = volume.geometry.to_patient(np.asarray([[0, 0, index]]))[0, 2]
        axes.text(0.02, 0.98, f"z {z:.0f} mm", transform=axes.transAxes, color="white", fontsize=8, va="top")
        axes.axis("off")
        if number == 0:
            axes.plot([width * 0.96 - 50, width * 0.96], [height * 0.95] * 2, color="white", linewidth=2.5)
            axes.text(width * 0.96 - 25, height * 0.93, "5 cm", color="white", fontsize=8, ha="center", va="bottom")
            axes.text(0.01, 0.5, "R", transform=axes.transAxes, color="white", fontsize=9, va="center")
    handles = [Line2D([], [], color=c, linewidth=2, label=n) for c, n in zip(_COLOURS, masks, strict=False)]
    figure.suptitle(title or volume.name, fontsize=11)
    handles.append(Line2D([], [], linewidth=0, label="research use only"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def draw_registration(fixed: Volume, before: Volume, after: Volume, *, slices: int = 3, title: str = "") -> Figure:
    """Draw a checkerboard of two images before and after registration, for visual inspection.

    Structures that continue across field borders indicate a good alignment.

    Parameters
    ----------
    fixed
        Fixed image.
    before, after
        Moving image on the same grid, before and after registration.
    """
    from matplotlib.figure import Figure

    for name, moved in (("before", before), ("after", after)):
        check_same_geometry(fixed.geometry, moved.geometry, names=(fixed.name or "the fixed image", name))
    count = fixed.array.shape[0]
    if slices < 1:
        raise UsageError(f"slices: expected at least 1, got {slices}")
    chosen = np.unique(np.linspace(0, count - 1, slices + 2).round().astype(int)[1:-1])
    figure = Figure(figsize=(9.6, 3.3 * len(chosen) + 0.6), layout="constrained")
    flip = _flips(fixed)
    aspect = fixed.geometry.spacing[1] / fixed.geometry.spacing[0]
    still = _scaled(fixed)
    boards = {"fixed image": still, "before": _scaled(before), "after": _scaled(after)}
    for row, index in enumerate(chosen):
        for column, (name, other) in enumerate(boards.items()):
            axes = figure.add_subplot(len(chosen), 3, row * 3 + column + 1)
            picture = _checkerboard(still[index], other[index]) if column else still[index]
            axes.imshow(_turn(picture, flip), cmap="gray", vmin=0, vmax=1, aspect=aspect)
            axes.axis("off")
            if row == 0:
                axes.set_title(name, fontsize=10)
    figure.suptitle(title or f"{fixed.name} and {after.name}", fontsize=11)
    return figure


def _slices(volume: Volume, masks: Mapping[str, Mask], count: int) -> NDArray[np.int64]:
    marked = np.zeros(volume.array.shape[0], bool)
    for mask in masks.values():
        marked |= mask.array.any(axis=(1, 2))
    where = np.flatnonzero(marked) if marked.any() else np.arange(len(marked))
    return np.unique(where[np.linspace(0, len(where) - 1, min(count, len(where))).round().astype(int)])


def _grey_range(volume: Volume) -> tuple[float, float]:
    if volume.unit in _WINDOWS:
        return _WINDOWS[volume.unit]
    low, high = (float(v) for v in np.percentile(volume.array, [1, 99.5]))
    return low, high if high > low else low + 1


def _scaled(volume: Volume) -> NDArray[np.float32]:
    low, high = _grey_range(volume)
    scaled: NDArray[np.float32] = np.clip((volume.array - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def _checkerboard(first: NDArray[np.float32], second: NDArray[np.float32], fields: int = 8) -> NDArray[np.float32]:
    y, x = np.indices(first.shape)
    odd = ((y * fields // first.shape[0]) + (x * fields // first.shape[1])) % 2 == 1
    return np.where(odd, second, first)


def _flips(volume: Volume) -> tuple[bool, bool]:
    """Whether rows and columns must be flipped for the radiological convention."""
    letters = volume.geometry.orientation
    return letters[1] == "A", letters[0] == "R"


def _turn(array: NDArray[Any], flip: tuple[bool, bool]) -> NDArray[Any]:
    rows = array[::-1] if flip[0] else array
    return rows[:, ::-1] if flip[1] else rows


def _outline(axes: Any, mask: NDArray[np.bool_], extent: tuple[float, ...], colour: str) -> None:  # noqa: ANN401
    if not mask.any():
        return
    height, width = mask.shape
    padded = np.pad(mask, 1).astype(float)
    step_x, step_y = extent[1] / width, extent[2] / height
    x = (np.arange(width + 2) - 0.5) * step_x
    y = (np.arange(height + 2) - 0.5) * step_y
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=1.1)

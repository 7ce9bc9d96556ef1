"""A network run over a volume window by window, in memory that does not grow with the volume's depth.

Predictions of overlapping windows are averaged with a weight that falls off towards the window's edge.  Only the
slab of slices that windows still to come can touch is held; finished slices go to the output at once, which may be a
memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WindowSettings", "predict_volume", "window"]


class WindowSettings(Record):
    """The window a network sees."""

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """Voxels along z, y, x.  A planar network has 1 along z."""
    neighbours: Annotated[int, Field(ge=0)] = 0
    """Slices on either side that a planar network sees as further channels (2.5D); at the ends the last slice
    repeats."""
    planar: bool = False
    """Whether the network takes ``(B, C, H, W)`` rather than ``(B, C, D, H, W)``."""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a window that the next one covers again."""
    batch: Annotated[int, Field(ge=1)] = 4
    """Windows computed at once."""
    gaussian: bool = True
    """Whether a window's middle counts more than its edge (Gaussian, sigma one eighth of the side, as in nnU-Net and
    MONAI); otherwise all voxels count alike."""


def window(image: NDArray[np.float32], start: Sequence[int], settings: WindowSettings) -> NDArray[np.float32]:
    """Cut one window as the network takes it, without batch axis.

    Parameters
    ----------
    image
        ``(C, Z, Y, X)``; what lies outside it is 0.
    start
        First voxel (z, y, x); may be negative.
    settings
        The window.

    Returns
    -------
    numpy.ndarray
        ``(C, d, h, w)``, or for planar networks ``(C * (2 neighbours + 1), h, w)`` with the channels of the lowest
        slice first.
    """
    depth, height, width = settings.size
    channels, nz, ny, nx = image.shape
    if settings.planar:
        slices = [
            min(max(start[0] + offset, 0), nz - 1) for offset in range(-settings.neighbours, settings.neighbours + 1)
        ]
    else:
        slices = [z for z in range(start[0], start[0] + depth) if 0 <= z < nz]
    y0, y1, x0, x1 = max(start[1], 0), min(start[1] + height, ny), max(start[2], 0), min(start[2] + width, nx)
    count = len(slices) if settings.planar else depth
    cut = np.zeros((count, channels, height, width), np.float32)
    if y1 > y0 and x1 > x0:
        for position, z in enumerate(slices):
            place = position if settings.planar else z - start[0]
            cut[place, :, y0 - start[1] : y1 - start[1], x0 - start[2] : x1 - start[2]] = image[:, z, y0:y1, x0:x1]
    if settings.planar:
        return cut.reshape(count * channels, height, width)
    return np.ascontiguousarray(cut.transpose(1, 0, 2, 3))


def predict_volume(
    network: nn.Module,
    image: NDArray[np.float32],
    settings: WindowSettings,
    *,
    out: NDArray[np.float32] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Predict a probability for every voxel.

    Parameters
    ----------
    network
        Gives one logit a voxel.
    image
        ``(C, Z, Y, X)`` float32, normalised; may be a memory map.
    settings
        The window.
    out
        ``(Z, Y, X)`` float32 to write to; ``None`` makes one.
    device
        Where the network runs.
    progress
        Called with windows done and windows in all.

    Returns
    -------
    numpy.ndarray
        ``out``: probabilities 0 to 1.

    Raises
    ------
    UsageError
        If a planar window is deeper than one slice or neighbours are asked of one that is not planar.
    """
    import torch

    if settings.planar and settings.size[0] != 1:
        raise UsageError(f"size: a planar window is 1 slice deep, got {settings.size[0]}")
    if settings.neighbours and not settings.planar:
        raise UsageError("neighbours: only planar windows have neighbouring slices as channels")
    shape = image.shape[1:]
    result = np.zeros(shape, np.float32) if out is None else out
    starts = [_starts(n, w, settings.overlap) for n, w in zip(shape, settings.size, strict=True)]
    weight = _weight(settings)
    total, done = len(starts[0]) * len(starts[1]) * len(starts[2]), 0
    # Slices from slab_start on, as many as a window is deep.
    slab = np.zeros((settings.size[0], *shape[1:]), np.float32)
    counted = np.zeros_like(slab)
    network = network.to(device).eval()
    with torch.inference_mode():
        for number, z in enumerate(starts[0]):
            places = [(z, y, x) for y in starts[1] for x in starts[2]]
            for group in _batches(places, settings.batch):
                windows = torch.from_numpy(np.stack([window(image, place, settings) for place in group])).to(device)
                predicted = torch.sigmoid(network(windows).float())[:, 0].cpu().numpy().reshape(-1, *settings.size)
                for (_, y, x), values in zip(group, predicted, strict=True):
                    here, inside = _clip((y, x), settings.size[1:], shape[1:])
                    slab[(slice(None), *here)] += (values * weight)[(slice(None), *inside)]
                    counted[(slice(None), *here)] += weight[(slice(None), *inside)]
                done += len(group)
                if progress is not None:
                    progress(done, total)
            # What lies before the next window's first slice cannot change any more.
            following = starts[0][number + 1] if number + 1 < len(starts[0]) else z + settings.size[0]
            finished = min(following - z, settings.size[0])
            rows = slice(max(z, 0), min(z + finished, shape[0]))
            kept = slice(rows.start - z, rows.stop - z)
            result[rows] = slab[kept] / counted[kept]
            slab = np.concatenate([slab[finished:], np.zeros((finished, *shape[1:]), np.float32)])
            counted = np.concatenate([counted[finished:], np.zeros((finished, *shape[1:]), np.float32)])
    return result


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """First voxels of windows along one axis: even steps, the last window ending with the volume."""
    if length <= size:
        return [-((size - length) // 2)]
    step = max(1, int(size * (1 - overlap)))
    return [*range(0, length - size, step), length - size]


def _weight(settings: WindowSettings) -> NDArray[np.float32]:
    if not settings.gaussian:
        return np.ones(settings.size, np.float32)
    weight = np.ones(settings.size, np.float64)
    for axis, size in enumerate(settings.size):
        sigma = max(size / 8, 0.5)
        profile = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
        weight *= profile.reshape([-1 if a == axis else 1 for a in range(3)])
    # A voxel seen only by a window's corner must not be divided by almost nothing.
    return np.maximum(weight, 1e-3).astype(np.float32)


def _clip(
    start: tuple[int, int], size: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    here, inside = [], []
    for s, w, n in zip(start, size, shape, strict=True):
        low, high = max(s, 0), min(s + w, n)
        here.append(slice(low, high))
        inside.append(slice(low - s, high - s))
    return (here[0], here[1]), (inside[0], inside[1])


def _batches(items: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

"""Resolution pyramids of maps with missing values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["halved_labels", "halved_means", "pyramid_sizes"]


def pyramid_sizes(shape: tuple[int, int], smallest: int) -> Iterator[tuple[int, int]]:
    """Yield the ``(rows, columns)`` of each level: the full size, then halves (rounded up) while a side is larger.

    Parameters
    ----------
    shape
        ``(rows, columns)`` of the finest level.
    smallest
        Halving ends once both sides are at most this.
    """
    rows, columns = shape
    yield rows, columns
    while max(rows, columns) > smallest:
        rows, columns = -(-rows // 2), -(-columns // 2)
        yield rows, columns


def _quarters(values: NDArray[Any], fill: float) -> NDArray[Any]:
    """Return ``(..., rows, columns, 4)``: the four cells under each cell at half the resolution."""
    rows, columns = values.shape[-2:]
    padding = [(0, 0)] * (values.ndim - 2) + [(0, rows % 2), (0, columns % 2)]
    padded = np.pad(values, padding, constant_values=fill)
    corners = (padded[..., y::2, x::2] for y in (0, 1) for x in (0, 1))
    return np.stack(list(corners), axis=-1)


def halved_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``(..., ceil(rows / 2), ceil(columns / 2))``: the mean of the known cells of each four, NaN if none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        means = np.nanmean(_quarters(values, np.nan), axis=-1, dtype=np.float64)
    return np.asarray(means, np.float32)


def halved_labels(labels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return ``(ceil(rows / 2), ceil(columns / 2))``: the most frequent label of each four.

    Any label takes precedence over 0 (none); ties are resolved by the smallest label.
    """
    four = np.sort(_quarters(labels, 0), axis=-1)
    votes = (four[..., :, None] == four[..., None, :]).sum(axis=-1)
    votes = np.where(four == 0, 0, votes)
    best = votes.argmax(axis=-1)
    result: NDArray[np.uint16] = np.take_along_axis(four, best[..., None], axis=-1)[..., 0].astype(np.uint16)
    return result

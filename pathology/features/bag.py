"""One pass over the patches of one or several slides: their mean, and a sample spread evenly over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.features.slide_features import SlideFeatures

__all__ = ["LEVELS", "Bag", "deciles", "read_bag"]

LEVELS = tuple((np.arange(10) + 0.5) / 10)
"""Quantiles that :func:`deciles` returns: the middles of the ten tenths."""


@dataclass(frozen=True, eq=False)
class Bag:
    """Patches of one slide, or of all slides of a patient.

    Attributes
    ----------
    count
        Number of patches.
    mean
        ``(D,)`` float32 mean of all patches.
    sample
        ``(n, D)`` float32: all patches, or as many as asked for, evenly spread.
    """

    count: int
    mean: NDArray[np.float32]
    sample: NDArray[np.float32]

    def thinned(self, most: int) -> NDArray[np.float32]:
        """Return at most so many patches of the sample, evenly spread."""
        size = len(self.sample)
        return self.sample[np.linspace(0, size - 1, min(size, most)).round().astype(np.int64)]


def read_bag(slides: Sequence[SlideFeatures], most: int) -> Bag:
    """Read the patches of slides, a few thousand at a time.

    Parameters
    ----------
    slides
        One slide, or several that count as one.
    most
        Largest sample.

    Raises
    ------
    StoreError
        If features cannot be read.

    Examples
    --------
    >>> import torch
    >>> from pathology.features import open_features
    >>> torch.save(torch.arange(12.0).reshape(6, 2), folder / "slide.pt")
    >>> bag = read_bag([open_features(folder / "slide.pt")], most=3)
    >>> bag.count, bag.mean.tolist(), bag.sample[:, 0].tolist()
    (6, [5.0, 6.0], [0.0, 4.0, 10.0])
    """
    count = sum(slide.count for slide in slides)
    wanted = np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
    total = np.zeros(slides[0].vector)
    parts, start = [], 0
    for chunk in (chunk for slide in slides for chunk in slide.chunks()):
        total += chunk.sum(axis=0, dtype=np.float64)
        first, last = np.searchsorted(wanted, (start, start + len(chunk)))
        parts.append(chunk[wanted[first:last] - start])
        start += len(chunk)
    return Bag(count, (total / count).astype(np.float32), np.concatenate(parts))


def deciles(patches: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the distribution of every feature over the patches as ten numbers, ``(10 * D,)``: SAMPLER's vector.

    Parameters
    ----------
    patches
        ``(N, D)``.

    Notes
    -----
    Mukashyaka et al. 2024, eBioMedicine (PMC10733087).  Linear interpolation at :data:`LEVELS`.

    Examples
    --------
    >>> deciles(np.arange(11.0)[:, None]).tolist()
    [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5]
    """
    ordered = np.sort(np.ascontiguousarray(patches.T), axis=1)  # rows contiguous: several times faster
    place = np.asarray(LEVELS) * (ordered.shape[1] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    result = ordered[:, below] + (ordered[:, above] - ordered[:, below]) * (place - below)
    flat: NDArray[np.float32] = result.T.reshape(-1).astype(np.float32)
    return flat

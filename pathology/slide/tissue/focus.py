"""Detection of out-of-focus areas.

Defocus removes fine detail before coarse detail, whatever the tissue and however strongly it is stained.  So focus is
measured as a ratio: the energy of detail of about 2 to 6 µm over that of 6 to 12 µm, in optical density, pooled over
squares of 64 µm and their neighbours (out-of-focus areas are larger than that).  Far out of focus, both vanish, and the
next octave decides.  Tissue without any detail, such as homogeneous cartilage, has neither and is not called blurred.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathology.settings import QualitySettings
from pathology.slide.readers.base import SlideReader
from pathology.slide.thumbnail import Reduction
from pathology.slide.tissue.detect import TissueMask

__all__ = ["COARSEST_MPP", "FocusMap", "find_focus"]

COARSEST_MPP = 3.0
"""Coarsest scale in µm/px at which focus can be judged: beyond it nuclei are not resolved, sharp or not."""
_CELL_UM = 64.0
_STRONG = 0.25
"""Below this ratio of coarse to broad detail an area is far out of focus, so that fine detail is only noise: in 45
sharp fields the minimum is 0.28; blurred by a Gaussian of 6 µm, 0.11 to 0.22."""
_HALO = 20
"""Context rows around a band that its filters need: just over four standard deviations of the coarser Gaussian."""
_CELL_ROWS = 8
_CELL_COLUMNS = 64
"""Cells processed at once: about 2 MB of floats at 2 µm/px."""


def _gaussian(sigma: float) -> NDArray[np.float32]:
    """Return the weights of a Gaussian over four standard deviations to either side."""
    reach = round(4 * sigma)
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    return np.asarray(weights / weights.sum(), np.float32)


_GAUSSIANS = tuple(_gaussian(sigma) for sigma in (1.0, 2.0, 4.0))
"""With these, OpenCV filters in a fifth of SciPy's time; the ratios differ in the sixth digit."""


@dataclass(frozen=True, slots=True)
class FocusMap:
    """Focus over a slide, in squares of about 64 µm.

    Attributes
    ----------
    ratio
        ``(h, w)`` float32, fine over coarse detail; NaN where there is no tissue or no detail.
        Covers the whole slide evenly.
    blurred
        ``(h, w)`` bool: out of focus.
    mpp
        Micrometres per pixel at which focus was judged, or ``None`` if the slide is too coarse: then nothing is
        marked as blurred.
    """

    ratio: NDArray[np.float32]
    blurred: NDArray[np.bool_]
    mpp: float | None


def find_focus(
    reader: SlideReader, mpp_of_level0: float, tissue: TissueMask, settings: QualitySettings | None = None
) -> FocusMap:
    """Judge focus across the tissue.

    Parameters
    ----------
    reader
        The slide.
    mpp_of_level0
        Its scale in µm/px.
    tissue
        Its tissue; areas without tissue are not read.
    settings
        Scale and threshold.

    Returns
    -------
    FocusMap
        Focus of each square.

    Raises
    ------
    UsageError
        If the scale is not positive.
    """
    settings = settings or QualitySettings()
    reduction = Reduction(reader, mpp_of_level0, settings.focus_mpp, within=tissue.mask)
    if reduction.mpp > COARSEST_MPP:
        nothing = np.zeros((1, 1), bool)
        return FocusMap(np.full((1, 1), np.nan, np.float32), nothing, None)
    height, width = reduction.shape
    # The grid of cells divides the image evenly, so that it covers the slide exactly.
    rows, columns = (max(1, round(n * reduction.mpp / _CELL_UM)) for n in (height, width))
    edges_y, edges_x = (np.arange(n + 1) * size // n for n, size in ((rows, height), (columns, width)))
    energy = np.zeros((3, rows, columns))
    share = _share(tissue.mask, (rows, columns))
    glass = np.float32(tissue.glass.colour[1])

    pending = np.zeros((0, width), np.uint8)
    first = 0  # image row of pending[0]
    done = 0  # finished rows of cells
    bands = reduction.bands()
    while done < rows:
        until = min(rows, done + _CELL_ROWS)
        parts = [pending]
        have = first + len(pending)
        while have < min(height, edges_y[until] + _HALO):
            # Only green: it carries most of the contrast of H&E and of JPEG's luminance.
            parts.append(next(bands)[..., 1].copy())
            have += len(parts[-1])
        pending = np.concatenate(parts)
        del parts
        window = pending[: edges_y[until] + _HALO - first]
        for left in range(0, columns, _CELL_COLUMNS):
            right = min(columns, left + _CELL_COLUMNS)
            # Cells without tissue are neither judged nor counted in their neighbours.
            if share[done:until, left:right].any():
                cells = edges_y[done : until + 1] - first, edges_x[left : right + 1]
                energy[:, done:until, left:right] = _energy(window, glass, *cells)
        done = until
        keep_from = max(first, int(edges_y[done]) - _HALO)
        pending = pending[keep_from - first :]
        first = keep_from

    return _judge(energy, share >= 0.5, settings, reduction.mpp)


def _energy(
    green: NDArray[np.uint8], glass: np.float32, edges_y: NDArray[np.intp], edges_x: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return ``(3, rows, columns)``: the mean energy of fine, coarse and broad detail in cells with these edges."""
    around = tuple(slice(max(0, int(edges[0]) - _HALO), int(edges[-1]) + _HALO) for edges in (edges_y, edges_x))
    y, x = edges_y - around[0].start, edges_x - around[1].start
    density = np.log10(glass + 1) - np.log10(np.arange(256, dtype=np.float32) + 1)[green[around]]
    wanted = np.s_[y[0] : y[-1], x[0] : x[-1]]
    sums, sharper = [], density
    for weights in _GAUSSIANS:
        smoother = cv2.sepFilter2D(density, cv2.CV_32F, weights, weights, borderType=cv2.BORDER_REPLICATE)
        detail = np.square(sharper - smoother)[wanted]
        sums.append(np.add.reduceat(np.add.reduceat(detail, y[:-1] - y[0], axis=0), x[:-1] - x[0], axis=1))
        sharper = smoother
    return np.asarray(np.stack(sums) / np.outer(np.diff(y), np.diff(x)), np.float64)


def _share(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the fraction of each grid cell that is true, sampled at 8 x 8 points per cell."""
    points = [
        ((np.arange(n * 8) + 0.5) * size / (n * 8)).astype(np.intp) for n, size in zip(shape, mask.shape, strict=True)
    ]
    sampled = mask[np.ix_(*points)].reshape(shape[0], 8, shape[1], 8)
    return np.asarray(sampled.mean(axis=(1, 3), dtype=np.float32))


def _judge(energy: NDArray[np.float64], tissue: NDArray[np.bool_], settings: QualitySettings, mpp: float) -> FocusMap:
    def judge(energy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        # Quantisation noise (rounding to integer grey levels), averaged over the stored pixels, is not detail.
        fine, coarse, broad = np.maximum(energy - np.array([3e-7, 0.5e-7, 0.2e-7])[:, None, None], 0)
        judged = tissue & (broad > 2e-6)
        ratio = np.where(judged, fine / np.maximum(coarse, 1e-9), np.nan)
        strong = np.where(judged, coarse / np.maximum(broad, 1e-9), np.nan)
        return ratio, (np.nan_to_num(ratio, nan=np.inf) < settings.focus_ratio) | (strong < _STRONG)

    pooled = np.stack([ndimage.uniform_filter(e * tissue, 3, mode="constant") for e in energy])
    pooled /= np.maximum(ndimage.uniform_filter(tissue.astype(float), 3, mode="constant"), 1e-9)
    ratio, certain = judge(pooled)
    # A square at the rim of a blurred area includes its sharp neighbours' detail; there only its own counts.
    _, alone = judge(energy)
    blurred = certain | (ndimage.binary_dilation(certain, np.ones((3, 3), bool)) & alone)
    return FocusMap(ratio.astype(np.float32), blurred & np.isfinite(ratio), mpp)

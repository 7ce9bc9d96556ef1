"""Folds, air bubbles and dirt on a slide, detected by what they add to the surrounding tissue.

All three are dark, and so are nuclei.  They differ in the *change* relative to the local tissue, the median optical
density within about 500 µm:

* A fold is a double layer of the same tissue: the density is multiplied, the hue is unchanged.
* Dirt and the rim of a bubble absorb all colours equally: they add a grey density.  Crowded nuclei instead shift the
  hue towards haematoxylin, which absorbs blue least.
* A bubble's rim is a thin ring, or most of one; dirt is a blot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathology.memory import give_back_freed_memory
from pathology.settings import QualitySettings
from pathology.slide.tissue.channels import largest_channel, mean_of_channels, smallest_channel, sum_of_channels
from pathology.slide.tissue.detect import ExclusionReason, TissueMask, optical_density
from pathology.slide.tissue.masks import band_rows, close_gaps, dilate, keep_components, number_pieces

__all__ = ["Artefacts", "find_artefacts"]

_STEP = 16
"""Spacing of the points at which the local median is computed, in pixels of the mask."""
_WINDOW = 64
"""Side of the median's window, in pixels: 512 µm at 8 µm/px, several times the width of a fold."""


@dataclass(frozen=True, slots=True)
class Artefacts:
    """Artefacts at the scale of the tissue mask; each ``(H, W)`` bool over the whole slide."""

    fold: NDArray[np.bool_]
    bubble: NDArray[np.bool_]
    dark: NDArray[np.bool_]


def find_artefacts(
    thumbnail: NDArray[np.uint8], tissue: TissueMask, settings: QualitySettings | None = None
) -> Artefacts:
    """Find folds, air bubbles and dark dirt.

    Parameters
    ----------
    thumbnail
        ``(H, W, 3)`` uint8 RGB, the image the tissue was detected in.
    tissue
        The detected tissue.
    settings
        Thresholds.

    Returns
    -------
    Artefacts
        The three masks, without pen marks.
    """
    settings = settings or QualitySettings()
    pixel_mm2 = tissue.mpp**2 * 1e-6
    signs = _compare(thumbnail, tissue, settings)
    give_back_freed_memory()  # freed floats fragment the heap
    bubble = _bubbles((signs & _GREY) > 0, tissue.mpp)
    dark = keep_components(((signs & _DARK) > 0) & ~bubble, smallest=0.0005 / pixel_mm2)
    signs[bubble | dark] &= ~_AROUND
    seeds = keep_components((signs & (_FOLD | _AROUND)) == (_FOLD | _AROUND), smallest=0.005 / pixel_mm2)
    grown = dilate(seeds, 3)
    grown &= (signs & _AROUND) > 0
    del signs, seeds
    fold = keep_components(grown, smallest=0.02 / pixel_mm2)
    return Artefacts(fold, bubble, dark)


_FOLD, _AROUND, _GREY, _DARK = (np.uint8(1 << i) for i in range(4))
"""Evidence of an artefact at a pixel, as bits of one byte to save memory: tissue seems doubled, half of that,
something grey was added, much of it.  NumPy integers: other types make 64-bit copies."""


def _compare(thumbnail: NDArray[np.uint8], tissue: TissueMask, settings: QualitySettings) -> NDArray[np.uint8]:
    """Return ``(H, W)`` uint8: the evidence bits; none on pen marks."""
    height, width = tissue.mask.shape
    local = _local_median(thumbnail, tissue)
    signs = np.zeros((height, width), np.uint8)
    high = band_rows(width)
    for top in range(0, height, high):
        first, last = max(0, top - 8), min(height, top + high + 8)
        rows = slice(first, last)
        density = optical_density(thumbnail[rows], tissue.glass, rows, (height, width))
        usual = _interpolated(local, rows, width)
        usual[~tissue.mask[rows]] = 0
        # Smooth over 16 µm: single nuclei and fibres are not folds.
        smooth = ndimage.gaussian_filter(density, (2, 2, 0), mode="nearest")
        norm = np.sqrt(sum_of_channels(usual * usual))
        amount = sum_of_channels(smooth * usual) / np.maximum(norm * norm, 1e-6)
        off_hue = np.sqrt(sum_of_channels(np.square(smooth - amount[..., None] * usual)))
        length = np.sqrt(sum_of_channels(smooth * smooth))
        # Pale tissue naturally varies more than twofold: doubling is only meaningful for clear stain.
        same_hue = (norm > 0.12) & (off_hue < 0.10 * length)
        added = density - usual
        least, most = smallest_channel(added), largest_channel(added)
        neutral = (least > 0.06) & (most - least < 0.35 * most)
        inner = slice(top - first, top - first + min(high, height - top))
        band = (
            np.where(same_hue & (amount > settings.fold_density), _FOLD, np.uint8(0))
            # Smoothing blurs its edges into the surroundings: they count where half of the excess remains.
            | np.where(same_hue & (amount > (1 + settings.fold_density) / 2), _AROUND, np.uint8(0))
            | np.where(neutral, _GREY, np.uint8(0))
            | np.where(neutral & (least > settings.dark_density), _DARK, np.uint8(0))
        )
        band[tissue.excluded[rows] == ExclusionReason.PEN] = 0
        signs[top : top + high] = band[inner]
    return signs


def _local_median(thumbnail: NDArray[np.uint8], tissue: TissueMask) -> NDArray[np.float32]:
    """Return ``(h, w, 3)``: the median density of the tissue around every 16th pixel of every 16th row."""
    height, width = tissue.mask.shape
    every = 4  # 256 points are enough for a median
    density = np.empty((-(-height // every), -(-width // every), 3), np.float32)
    high = band_rows(width)
    for top in range(0, height, high):
        rows = slice(top, min(height, top + high))
        band = optical_density(thumbnail[rows], tissue.glass, rows, (height, width))
        density[top // every : top // every + -(-(rows.stop - top) // every)] = band[::every, ::every]
    # Fat vacuoles and small gaps belong to the tissue mask, but a fold does not double them.
    density[~tissue.mask[::every, ::every] | (mean_of_channels(density) < 0.03)] = np.inf
    side, step = _WINDOW // every, _STEP // every
    pad = side // 2
    padded = np.pad(density, ((pad, pad), (pad, pad), (0, 0)), constant_values=np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side, 3))[::step, ::step, 0]
    medians = np.zeros((*windows.shape[:2], 3), np.float32)
    count = np.zeros(windows.shape[:2], np.intp)
    for row, line in enumerate(windows):
        ordered = np.sort(line.reshape(line.shape[0], -1, 3), axis=1)
        count[row] = np.isfinite(ordered[:, :, 0]).sum(axis=1)
        middle = np.maximum(count[row] - 1, 0) // 2
        medians[row] = ordered[np.arange(len(middle)), middle]
    few = count < 8
    medians[few] = 0
    if few.any() and not few.all():
        nearest = ndimage.distance_transform_edt(few, return_distances=False, return_indices=True)
        medians = medians[tuple(nearest)]
    return medians


def _interpolated(coarse: NDArray[np.float32], rows: slice, width: int) -> NDArray[np.float32]:
    """Return ``(rows, width, 3)`` by linear interpolation between the points of the coarse grid."""

    def weights(positions: NDArray[np.intp], n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        exact = np.minimum(positions / _STEP, n - 1)
        low = exact.astype(np.intp)
        return low, np.minimum(low + 1, n - 1), (exact - low).astype(np.float32)

    y0, y1, fy = weights(np.arange(rows.start, rows.stop), coarse.shape[0])
    x0, x1, fx = weights(np.arange(width), coarse.shape[1])
    lines = coarse[y0] * (1 - fy)[:, None, None] + coarse[y1] * fy[:, None, None]
    result = lines[:, x0] * (1 - fx)[:, None] + lines[:, x1] * fx[:, None]
    return result.astype(np.float32, copy=False)


_EIGHT = np.ones((3, 3), bool)


def _bubbles(grey: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Return the discs inside grey rings, rims included."""
    result = np.zeros_like(grey)
    height, width = grey.shape
    labels, _ = number_pieces(close_gaps(grey, 1), _EIGHT)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        extent = max(s.stop - s.start for s in box)
        if extent * mpp < 80:
            continue
        piece = labels[box] == label
        circle = _circle(piece, mpp)
        if circle is not None:
            y, x, radius = circle[0] + box[0].start, circle[1] + box[1].start, circle[2]
            reach = math.ceil(radius) + 1
            top, left = max(0, math.floor(y) - reach), max(0, math.floor(x) - reach)
            place = np.s_[top : min(height, math.floor(y) + reach + 1), left : min(width, math.floor(x) + reach + 1)]
            grid_y, grid_x = np.ogrid[place]
            result[place] |= np.hypot(grid_y - y, grid_x - x) <= radius
            continue
        # A deformed bubble: a closed thin rim around an area much larger than itself.
        filled = ndimage.binary_fill_holes(piece)
        enclosed = np.count_nonzero(filled) - np.count_nonzero(piece)
        if enclosed > 2 * np.count_nonzero(piece) and enclosed * mpp * mpp > 20_000:
            result[box] |= filled
    return result


def _circle(piece: NDArray[np.bool_], mpp: float) -> tuple[float, float, float] | None:
    """Fit a circle to a component; return its centre and outer radius if it is a thin ring or most of one."""
    y, x = (v.astype(float) for v in np.nonzero(piece))
    # Kasa's algebraic fit: x² + y² = 2 a x + 2 b y + c, linear in a, b, c.
    (a, b, c), *_ = np.linalg.lstsq(np.stack([2 * x, 2 * y, np.ones_like(x)], axis=1), x * x + y * y, rcond=None)
    radius = math.sqrt(max(0.0, c + a * a + b * b))
    if not 40 <= radius * mpp <= 5000:
        return None
    distance = np.hypot(x - a, y - b)
    if np.sqrt(np.mean(np.square(distance - radius))) > max(1.5, 0.1 * radius):
        return None
    sectors = np.unique(np.floor((np.arctan2(y - b, x - a) + np.pi) / (2 * np.pi) * 36).astype(int) % 36)
    if len(sectors) < 22 or np.count_nonzero(distance < 0.6 * radius) > 0.1 * x.size:
        return None
    return float(b), float(a), float(np.quantile(distance, 0.95))

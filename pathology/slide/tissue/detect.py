"""Tissue detection, with the reason for every excluded pixel (glass, pen, edge and others).

Plain Otsu thresholding fails on exactly the slides that matter: a field that is all tissue is split in two, pale
fat and mucin fall below the threshold, and a pen mark is darker than any tissue.  Here every criterion is absolute,
on the *optical density relative to the glass of this slide*:

* The glass colour is the brightest smooth, nearly neutral peak of the colour histogram, with a quadratic surface
  fitted to it for uneven illumination.  A field without glass has no such peak; white is assumed.
* H&E absorbs green most.  The *stain signal* ``G - (R + B) / 2`` (in optical density) is positive for any
  mixture of haematoxylin and eosin, however pale, and zero for glass, shadow, dust and coverslip edges, however
  dark, once the tint of the glass is divided out.
* Inks differ in hue: blue, green and black ink absorb red at least as much as green, which no tissue does.  Red ink
  overlaps with eosin in colour, but is a single dye: the *ratio* of its densities is spatially nearly constant
  (Beer-Lambert), whereas in tissue it varies everywhere, due to nuclei and unevenly bound eosin.

Thresholds were set on 45 H&E fields of osteosarcoma and one skin section at 8 µm/px; each is documented with its data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathology.errors import UsageError
from pathology.formatting import area, scale
from pathology.memory import give_back_freed_memory
from pathology.settings import TissueSettings
from pathology.slide.tissue.channels import largest_channel, mean_of_channels, smallest_channel
from pathology.slide.tissue.masks import (
    band_rows,
    choose_components,
    close_gaps,
    dilate,
    fill_holes,
    keep_components,
    remove_thin,
)

__all__ = ["ExclusionReason", "Glass", "TissueMask", "estimate_glass", "find_tissue", "mask_mpp", "optical_density"]

NOMINAL_GLASS = (244.0, 243.0, 244.0)
"""Glass colour assumed if a field shows none: the median of the white pixels of 45 scanner-corrected fields."""

_NEARBY_UM = 1000.0
"""Radius, in µm, of the readable surroundings used to estimate the tissue in an unreadable area."""
_MARGIN = 10
"""Rows and columns around a pixel that its classification depends on."""


class ExclusionReason(IntEnum):
    """Why a pixel of the mask is not tissue."""

    NOTHING = 0
    """Not excluded: tissue."""
    GLASS = 1
    """Empty glass, or a shadow or stain too weak to be tissue."""
    PEN = 2
    """A pen mark or tissue-marking ink."""
    EDGE = 3
    """Edge of the slide or the coverslip, an unscanned part, or grey dirt."""
    FRAGMENT = 4
    """Stained, but smaller than the smallest piece kept."""
    UNREADABLE = 5
    """Stored tiles that cannot be decoded; they may contain tissue."""


@dataclass(frozen=True, slots=True)
class Glass:
    """Colour of empty glass over a slide.

    Attributes
    ----------
    colour
        Typical RGB, 0 to 255.
    seen
        Whether glass was found; otherwise ``colour`` is :data:`NOMINAL_GLASS`.
    surface
        ``(6, 3)`` coefficients of the natural logarithm of the glass intensity as
        ``1, x, y, x², xy, y²`` with x and y running from -1 to 1 over the image, or ``None`` if it is even.
    spread
        Limits ``(2, 3)`` that the surface is clipped to.
    """

    colour: tuple[float, float, float]
    seen: bool
    surface: NDArray[np.float64] | None = None
    spread: NDArray[np.float64] | None = None

    def log_intensity(self, rows: slice, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return the natural logarithm of the glass intensity + 1: ``(rows, columns, 3)``, or ``(3,)`` if even."""
        if self.surface is None or self.spread is None:
            return np.log(np.asarray(self.colour, np.float32) + 1)
        height, width = shape
        y = np.linspace(-1, 1, height, dtype=np.float32)[rows, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        terms = (np.ones_like(x * y), x + 0 * y, y + 0 * x, x * x + 0 * y, x * y, y * y + 0 * x)
        result = np.zeros((*terms[0].shape, 3), np.float32)
        for term, coefficients in zip(terms, self.surface.astype(np.float32), strict=True):
            result += term[..., None] * coefficients
        return np.clip(result, self.spread[0].astype(np.float32), self.spread[1].astype(np.float32), out=result)


@dataclass(frozen=True, slots=True)
class TissueMask:
    """Tissue of one slide.

    Attributes
    ----------
    mask
        ``(H, W)`` bool, true where there is tissue; covers the whole slide.
    excluded
        ``(H, W)`` uint8 of :class:`ExclusionReason`: why each other pixel was excluded.
    mpp
        Micrometres per pixel of the mask.
    glass
        The glass colour.
    """

    mask: NDArray[np.bool_]
    excluded: NDArray[np.uint8]
    mpp: float
    glass: Glass

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"TissueMask({area(self.area_mm2)} of tissue, {width} x {height} px at {scale(self.mpp)})"

    @property
    def area_mm2(self) -> float:
        """Area of tissue in mm²."""
        return float(np.count_nonzero(self.mask)) * self.mpp**2 * 1e-6

    @property
    def counts(self) -> dict[str, int]:
        """Pixels of the mask by reason: ``tissue``, ``glass``, ``pen``, ``edge``, ``fragment``, ``unreadable``."""
        return {
            "tissue" if reason is ExclusionReason.NOTHING else reason.name.lower(): int(
                np.count_nonzero(self.excluded == reason)
            )
            for reason in ExclusionReason
        }

    @property
    def unreadable_mm2(self) -> float:
        """Area in mm² that cannot be read, with or without tissue."""
        return float(np.count_nonzero(self.excluded == ExclusionReason.UNREADABLE)) * self.mpp**2 * 1e-6

    @property
    def unreadable_tissue_mm2(self) -> float:
        """Estimated area of tissue in mm² that cannot be read.

        The tissue fraction of each unreadable area is taken from the readable area within 1 mm of it or, if there is
        none, from the whole slide; if nothing can be read, everything counts as tissue.
        """
        lost = self.excluded == ExclusionReason.UNREADABLE
        if not lost.any():
            return 0.0
        known = np.float32(1) - lost
        total = float(known.sum())
        everywhere = np.count_nonzero(self.mask) / total if total else 1.0
        side = 2 * max(1, round(_NEARBY_UM / self.mpp)) + 1
        readable = ndimage.uniform_filter(known, side, mode="constant")[lost]
        tissue = ndimage.uniform_filter(self.mask.astype(np.float32), side, mode="constant")[lost]
        nearby = readable > 0.5 / side**2
        share = np.where(nearby, tissue / np.maximum(readable, np.float32(1e-9)), everywhere)
        share[share < 1e-3] = 0  # rounding error of the filter
        return float(np.clip(share, 0, 1).sum()) * self.mpp**2 * 1e-6


def optical_density(
    pixels: NDArray[np.uint8], glass: Glass, rows: slice | None = None, shape: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Return optical density relative to glass.

    Beer-Lambert: ``-log10((I + 1) / (I_glass + 1))``; the 1 keeps black finite.

    Parameters
    ----------
    pixels
        ``(h, w, 3)`` uint8 RGB.
    glass
        The slide's glass.
    rows, shape
        If ``pixels`` are some rows of a larger image: which rows, and the ``(H, W)`` of the image.

    Returns
    -------
    numpy.ndarray
        ``(h, w, 3)`` float32, slightly negative where a pixel is brighter than glass.
    """
    whole = pixels.shape[:2] if shape is None else shape
    level = glass.log_intensity(rows or slice(None), (whole[0], whole[1]))
    density = _LOG[pixels]
    np.subtract(level, density, out=density)
    density *= np.float32(1 / math.log(10))
    return density


_LOG = np.log(np.arange(256, dtype=np.float32) + 1)


def estimate_glass(thumbnail: NDArray[np.uint8], unreadable: NDArray[np.bool_] | None = None) -> Glass:
    """Find the colour of empty glass.

    Parameters
    ----------
    thumbnail
        ``(H, W, 3)`` uint8 RGB at about 8 µm/px, where glass is smooth and tissue is not.
    unreadable
        ``(H, W)`` bool: pixels that could not be read.

    Returns
    -------
    Glass
        ``seen`` is false if no part of the image is bright, smooth and nearly neutral.
    """
    sample, places = _smooth_pixels(thumbnail)
    # H&E absorbs green: a bright smooth area that lacks it is mucin or pale cartilage, not glass.  6 levels allow for
    # the usual yellow, blue and grey casts; pinker glass counts if it is too smooth for tissue.
    deficit = (sample[:, 0] + sample[:, 2]) / 2 - sample[:, 1]
    bright = sample.min(axis=1) >= 150
    if unreadable is not None:
        bright &= ~unreadable[places.y, places.x]
    # Areas omitted by the scanner are filled with 255, brighter than the adjacent glass.
    scanned = sample.min(axis=1) < 254
    neutral = bright & (deficit <= 6)
    for chosen in (neutral & scanned, neutral, bright & scanned & (deficit <= 15)):
        if np.count_nonzero(chosen) < max(12, 0.005 * thumbnail.shape[0] * thumbnail.shape[1] / places.stride**2):
            continue
        colour = _brightest_peak(sample[chosen])
        near = chosen & (np.abs(sample - colour).max(axis=1) <= 30)
        return _with_surface(colour, sample[near], places.normalised(near))
    return Glass(NOMINAL_GLASS, seen=False)


@dataclass(frozen=True, slots=True)
class _Places:
    """Positions of sampled pixels."""

    y: NDArray[np.intp]
    x: NDArray[np.intp]
    shape: tuple[int, int]
    stride: int

    def normalised(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return x and y of the chosen pixels from -1 to 1."""
        height, width = self.shape
        x = 2.0 * self.x[chosen] / max(1, width - 1) - 1
        y = 2.0 * self.y[chosen] / max(1, height - 1) - 1
        return x, y


def _smooth_pixels(thumbnail: NDArray[np.uint8]) -> tuple[NDArray[np.float32], _Places]:
    """Return the pixels in textureless surroundings, at most about 400,000."""
    height, width = thumbnail.shape[:2]
    stride = max(1, math.ceil(math.sqrt(height * width / 4e5)))
    ys, xs, values = [], [], []
    high = band_rows(width)
    for top in range(0, height, high):
        first, last = max(0, top - _MARGIN), min(height, top + high + _MARGIN)
        green = thumbnail[first:last, :, 1].astype(np.float32)
        # Glass after averaging to 8 µm/px: range below 4 levels in a 3 x 3 window; tissue: above 10 nearly everywhere.
        span = ndimage.maximum_filter(green, 3, mode="nearest") - ndimage.minimum_filter(green, 3, mode="nearest")
        rows = np.arange(-(-top // stride) * stride, min(height, top + high), stride)
        if rows.size == 0:
            continue
        y, x = np.nonzero(span[rows - first][:, ::stride] <= 4)
        ys.append(rows[y])
        xs.append(x * stride)
        values.append(thumbnail[rows[y], x * stride].astype(np.float32))
    return np.concatenate(values), _Places(np.concatenate(ys), np.concatenate(xs), (height, width), stride)


def _brightest_peak(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colour of the brightest well-populated peak of the green histogram."""
    histogram = ndimage.gaussian_filter1d(np.bincount(sample[:, 1].astype(np.intp), minlength=256).astype(float), 1.5)
    # Tissue is never brighter than glass, so of several peaks (glass, mucin, the slide beside the coverslip) the
    # brightest is glass, unless it is only a highlight.
    populated = np.flatnonzero((histogram >= np.roll(histogram, 1)) & (histogram >= np.roll(histogram, -1)))
    populated = populated[histogram[populated] >= 0.1 * histogram.max()]
    peak = populated[-1]
    around = sample[np.abs(sample[:, 1] - peak) <= 2.5]
    colour: NDArray[np.float32] = np.median(around, axis=0)
    return colour


def _with_surface(
    colour: NDArray[np.float32], sample: NDArray[np.float32], at: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> Glass:
    """Fit uneven illumination to the glass, if there is enough of it."""
    typical = (float(colour[0]), float(colour[1]), float(colour[2]))
    x, y = at
    spread_out = min(np.ptp(x), np.ptp(y)) > 1.0 if x.size else False
    logs = np.log(sample.astype(np.float64) + 1)
    limits = np.quantile(logs, [0.01, 0.99], axis=0) if x.size else np.zeros((2, 3))
    if x.size < 500 or not spread_out or np.ptp(limits, axis=0).max() < 0.01:
        return Glass(typical, seen=True)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    kept = np.ones(x.size, bool)
    surface = np.zeros((6, 3))
    for _ in range(5):
        surface = np.linalg.lstsq(terms[kept], logs[kept], rcond=None)[0]
        residual = np.abs(logs - terms @ surface).max(axis=1)
        # Shadows and faint stain deviate from the surface of most of the glass.
        now = residual <= max(0.006, 3 * float(np.median(residual[kept])))
        if np.array_equal(now, kept) or np.count_nonzero(now) < 500:
            break
        kept = now
    return Glass(typical, seen=True, surface=surface, spread=np.quantile(logs[kept], [0.005, 0.995], axis=0))


class _Kind(IntEnum):
    """Class of a single pixel, before its surroundings are considered."""

    GLASS = 0
    FAINT = 1  # stain signal just above the glass
    STAINED = 2
    INK_FAINT = 3
    INK = 4
    EVEN_FAINT = 5  # the hue of tissue, but uniform in its neighbourhood
    EVEN = 6
    GREY = 7  # absorbs all colours equally
    BLACK = 8


def mask_mpp(dimensions: tuple[int, int], mpp_of_level0: float, settings: TissueSettings) -> float:
    """Return the micrometres per pixel of a slide's tissue mask: the setting, or coarser for very large slides.

    Parameters
    ----------
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    mpp_of_level0
        Its micrometres per level-0 pixel.
    settings
        Settings of tissue detection.
    """
    width, height = dimensions
    return max(settings.mpp, mpp_of_level0 * math.sqrt(width * height / settings.most_pixels))


def find_tissue(
    thumbnail: NDArray[np.uint8],
    mpp: float,
    settings: TissueSettings | None = None,
    unreadable: NDArray[np.bool_] | None = None,
) -> TissueMask:
    """Separate tissue from glass, pen marks, slide edges and dirt.

    Parameters
    ----------
    thumbnail
        ``(H, W, 3)`` uint8 RGB of the whole slide, area-averaged; see :func:`pathology.slide.thumbnail.thumbnail`.
    mpp
        Its scale in µm/px, ideally about 8; the method's lengths hold from 4 to 20.
    settings
        Smallest piece kept and largest hole filled.
    unreadable
        ``(H, W)`` bool: pixels that could not be read; they are neither tissue nor glass.

    Returns
    -------
    TissueMask
        The mask and the reason for every excluded pixel.

    Raises
    ------
    UsageError
        If the array is not an RGB image or the scale is not positive.

    Examples
    --------
    >>> from pathology import open_slide
    >>> with open_slide(slide_path) as slide:
    ...     found = find_tissue(slide.thumbnail(mpp=8), 8.0)
    >>> found
    TissueMask(0.12 mm² of tissue, 64 x 48 px at 8 µm/px)
    >>> found.counts["glass"] > 0
    True
    """
    settings = settings or TissueSettings()
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or 0 in thumbnail.shape:
        raise UsageError(f"thumbnail must be an (H, W, 3) uint8 image, not {thumbnail.shape} {thumbnail.dtype}")
    if not mpp > 0:
        raise UsageError(f"mpp must be positive, not {mpp} µm/px")
    glass = estimate_glass(thumbnail, unreadable)
    kind = _classify(thumbnail, glass)
    give_back_freed_memory()  # freed floats fragment the heap
    pixel_mm2 = mpp * mpp * 1e-6

    pen = _pen_marks(kind, mpp)
    stained = _stained(kind)
    seed = (kind == _Kind.STAINED) | (kind == _Kind.EVEN) | (kind == _Kind.EVEN_FAINT)
    tissue = keep_components(stained & ~pen, seed=seed, share=0.05)
    del stained, seed
    line = _thin_lines(tissue, mpp)
    tissue &= ~line
    # Bridges 120 µm: walls between fat cells, up to that size, are thinner than a pixel and appear broken.
    tissue = close_gaps(tissue, max(1, round(60 / mpp))) & ~pen
    tissue = fill_holes(tissue, settings.max_hole_mm2 / pixel_mm2, barrier=pen)
    # A field smaller than the smallest piece must not come out empty: a piece never has to fill more than 2 % of it.
    smallest = min(settings.min_area_mm2 / pixel_mm2, 0.02 * tissue.size)
    pieces = tissue
    tissue = keep_components(pieces, smallest=smallest)

    excluded = np.full(tissue.shape, ExclusionReason.GLASS, np.uint8)
    excluded[(kind >= _Kind.GREY) | line] = ExclusionReason.EDGE
    excluded[pieces] = ExclusionReason.FRAGMENT
    excluded[pen] = ExclusionReason.PEN
    if unreadable is not None:
        tissue &= ~unreadable
        excluded[unreadable] = ExclusionReason.UNREADABLE
    excluded[tissue] = ExclusionReason.NOTHING
    return TissueMask(tissue, excluded, mpp, glass)


def _stained(kind: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where there is stain, faint or not, and no definite ink."""
    found: NDArray[np.bool_] = kind == _Kind.STAINED
    for other in (_Kind.FAINT, _Kind.EVEN_FAINT, _Kind.EVEN):
        found |= kind == other
    return found


def _pen_marks(kind: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Return ``(H, W)`` bool: ink, including the rims of its strokes."""
    pixel_mm2 = mpp * mpp * 1e-6
    ink = (kind == _Kind.INK) | (kind == _Kind.INK_FAINT)
    pen = keep_components(ink, seed=kind == _Kind.INK, smallest=0.01 / pixel_mm2, share=0.25)
    # Black ink is wider than 40 µm, unlike a coverslip's edge, and covers over 0.1 mm², unlike dirt.
    black = remove_thin(kind == _Kind.BLACK, max(1, round(16 / mpp)))
    pen |= keep_components(black, smallest=0.1 / pixel_mm2)
    even = (kind == _Kind.EVEN_FAINT) | (kind == _Kind.EVEN)
    like_eosin = keep_components(even, seed=kind == _Kind.EVEN, smallest=0.005 / pixel_mm2, share=0.25)
    if like_eosin.any():
        pen |= _on_glass(close_gaps(like_eosin, max(1, round(40 / mpp))), kind == _Kind.GLASS, pixel_mm2)
    del ink, black, even, like_eosin
    if pen.any():
        # A stroke that crosses tissue loses its hue there; a circle around tissue contains glass and is not filled.
        pen = fill_holes(close_gaps(pen, 3), 0.5 / pixel_mm2, barrier=kind == _Kind.GLASS)
        # The rim of a stroke is ink averaged with glass, and JPEG smears its colour: always 2 pixels, plus stained
        # pieces that lie almost entirely within 6 pixels of it.
        rest = _stained(kind) & ~dilate(pen, 2)
        pen = dilate(pen, 2) | keep_components(rest, seed=dilate(pen, 6), share=0.7)
    return pen


def _classify(thumbnail: NDArray[np.uint8], glass: Glass) -> NDArray[np.uint8]:
    """Return ``(H, W)`` uint8 of :class:`_Kind`, computed in bands of rows."""
    height, width = thumbnail.shape[:2]
    kind = np.empty((height, width), np.uint8)
    high = band_rows(width)
    for top in range(0, height, high):
        first, last = max(0, top - _MARGIN), min(height, top + high + _MARGIN)
        rows = slice(first, last)
        density = optical_density(thumbnail[rows], glass, rows, (height, width))
        band = _classify_band(density)
        # Filled by the scanner: exactly flat black or white.
        black = largest_channel(thumbnail[rows]) <= 2
        band[ndimage.minimum_filter(black, 5, mode="nearest")] = _Kind.GREY
        kind[top : top + high] = band[top - first : top - first + min(high, height - top)]
    return kind


def _classify_band(density: NDArray[np.float32]) -> NDArray[np.uint8]:
    red, green, blue = density[..., 0], density[..., 1], density[..., 2]
    mean = mean_of_channels(density)
    peak, least = largest_channel(density), smallest_channel(density)
    spread = peak - least
    stain = ndimage.gaussian_filter(green - (red + blue) / 2, 0.7, mode="nearest")
    safe: NDArray[np.float32] = np.maximum(green, np.float32(0.02))
    red_ratio: NDArray[np.float32] = red / safe
    blue_ratio: NDArray[np.float32] = blue / safe

    kind = np.zeros(mean.shape, np.uint8)
    # Glass stays within 0.003 of zero; averaged fat lies at 0.004 to 0.015, pale myxoid stroma at 0.01 to 0.03.
    # Averaging separates such weak signals from noise; over faint pixels only, since clear stain would add a halo.
    faint = (stain < 0.016).astype(np.float32)
    weight = np.maximum(ndimage.gaussian_filter(faint, 2.0, mode="nearest"), 1e-3)
    broad_stain, broad_mean = (ndimage.gaussian_filter(v * faint, 2.0, mode="nearest") / weight for v in (stain, mean))
    kind[(broad_stain > 0.0045) & (broad_mean > 0.0045) & (stain > 0)] = _Kind.FAINT
    kind[(stain > 0.008) & (mean > 0.012)] = _Kind.FAINT
    kind[(stain > 0.016) & (mean > 0.02)] = _Kind.STAINED

    # Grey: almost no hue.  Above 0.15, tissue has red/green below 0.83 (99th percentile of the worst field).
    grey = (mean > 0.035) & (stain < 0.10 * mean) & (spread < 0.25 * peak)
    kind[grey] = _Kind.GREY
    # Black ink over tissue keeps some of its hue but absorbs every colour; the darkest tissue keeps 0.39.
    kind[(grey & (mean > 0.30)) | ((least > 0.5) & (stain < 0.28 * mean))] = _Kind.BLACK

    # Blue, green, violet and cyan ink absorb red more than green.
    cold = (red > 0.04) & (red_ratio > 0.95) & ~grey
    kind[cold] = _Kind.INK_FAINT
    kind[cold & (red > 0.12) & (red_ratio > 1.05) & (spread > 0.10)] = _Kind.INK

    # Red and orange ink absorb blue like green.  Bone, the reddest tissue, stays below 0.87; clotted blood below 1.07.
    # No lower limit: on some scanners eosin's ratio goes down to 0.25.
    warm = (green > 0.06) & (red_ratio < 0.5)
    kind[warm & (blue_ratio > 1.0)] = _Kind.INK_FAINT
    kind[warm & (green > 0.15) & (blue_ratio > 1.12)] = _Kind.INK
    # Red ink with the hue of eosin is a single dye; its surroundings decide.  (Violet ink with the hue of haematoxylin
    # counts as tissue: basophilic cartilage is as even, and losing tissue is worse than keeping ink.)
    variation = _ratio_variation(red_ratio, blue_ratio, green > 0.06)
    undecided = (kind == _Kind.FAINT) | (kind == _Kind.STAINED)
    even = undecided & warm & (green > 0.12) & (variation < 0.020)
    kind[even] = _Kind.EVEN_FAINT
    kind[even & (green > 0.2) & (variation < 0.010)] = _Kind.EVEN
    # Yellow: absorbs only blue.
    yellow = (blue > 0.10) & (blue > 1.6 * np.maximum(green, red))
    kind[yellow] = _Kind.INK_FAINT
    kind[yellow & (blue > 0.2)] = _Kind.INK
    return kind


def _ratio_variation(
    red_ratio: NDArray[np.float32], blue_ratio: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the standard deviation of both density ratios over the valid pixels of a 5 x 5 window.

    One dye keeps its ratios whatever its amount.  Measured at 8 µm/px: bone 0.014 to 0.035 (5th percentile to
    median), other stroma above 0.02, ink one third of that.
    """
    weight = valid.astype(np.float32)
    share = ndimage.uniform_filter(weight, 5, mode="nearest")
    variance = np.zeros_like(weight)
    for ratio in (red_ratio, blue_ratio):
        values = np.where(valid, np.clip(ratio, 0, 3), 0).astype(np.float32)
        mean = ndimage.uniform_filter(values, 5, mode="nearest") / np.maximum(share, 1e-3)
        square = ndimage.uniform_filter(values * values, 5, mode="nearest") / np.maximum(share, 1e-3)
        variance += np.maximum(square - mean * mean, 0)
    # Fewer than 10 of 25 pixels are too few to estimate variation.
    return np.where(share >= 0.4, np.sqrt(variance), 1).astype(np.float32)


def _on_glass(mask: NDArray[np.bool_], glass: NDArray[np.bool_], pixel_mm2: float) -> NDArray[np.bool_]:
    """Keep components over 0.05 mm² whose surroundings, 4 to 8 pixels away, are at least a quarter glass."""

    def stands_alone(inside: NDArray[np.bool_], place: tuple[slice, slice]) -> bool:
        ring = dilate(inside, 8) & ~dilate(inside, 4) & ~mask[place]
        return bool(np.count_nonzero(ring & glass[place]) >= max(1.0, 0.25 * np.count_nonzero(ring)))

    return choose_components(mask, stands_alone, smallest=0.05 / pixel_mm2, margin=8)


def _thin_lines(mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Return the components that are straight lines: over 1.5 mm long, within 40 µm (RMS) of their axis."""

    def straight(inside: NDArray[np.bool_], place: tuple[slice, slice]) -> bool:
        height, width = (s.stop - s.start for s in place)
        # Thick pieces can be skipped: a line within 40 µm RMS of its axis is at most 140 µm wide.
        if np.hypot(height, width) * mpp < 1500 or np.count_nonzero(inside) > np.hypot(height, width) * 140 / mpp:
            return False
        across, along = np.linalg.eigvalsh(np.cov(np.nonzero(inside)))
        # A line of length L has variance L² / 12 along itself.
        return bool(math.sqrt(12 * along) * mpp > 1500 and math.sqrt(max(0, across)) * mpp < 40)

    return choose_components(mask, straight, smallest=1500 / mpp, margin=0)

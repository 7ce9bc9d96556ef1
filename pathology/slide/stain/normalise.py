"""Stain normalisation: match a slide's colours to a reference, for models that were trained that way.

A slide's *stain profile* is estimated once, from pixels sampled across its tissue (:func:`sample_tissue`,
:func:`fit_stain`).  A :class:`StainNormaliser` maps it to a target profile and transforms pixels of any block, in any
thread, in the same way.  Both are plain data and are stored as JSON in a store's metadata.

With one stain matrix and one scale per slide, separating stains, scaling their amounts and recombining them is a single
linear map of optical density: a table, a 3 x 3 matrix and an exponential per pixel.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pathology.errors import NoTissueError, UsageError
from pathology.settings import Record
from pathology.slide.readers.base import SlideReader
from pathology.slide.stain.vectors import density_of, macenko_vectors, stained_pixels, vahadane_vectors
from pathology.slide.tissue.detect import TissueMask

__all__ = ["REFERENCE_PROFILES", "StainMethod", "StainNormaliser", "StainProfile", "fit_stain", "sample_tissue"]

StainMethod = Literal["macenko", "reinhard", "vahadane"]
"""``macenko``: ISBI 2009; ``reinhard``: IEEE CG&A 21 (2001); ``vahadane``: structure-preserving colour normalisation,
IEEE TMI 35 (2016)."""

_Vector = tuple[float, float, float]


class StainProfile(Record):
    """The stain colours of a slide, as described by one method."""

    method: StainMethod
    """Method the profile belongs to."""
    source: str = ""
    """Source: a slide's fingerprint, or a publication."""
    matrix: tuple[_Vector, _Vector] | None = None
    """Macenko and Vahadane: optical density of haematoxylin (first) and eosin in red, green and blue, unit length."""
    strongest: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Macenko and Vahadane: 99th percentile of the amount of each stain, in natural-logarithm optical density."""
    mean: _Vector | None = None
    """Reinhard: mean of CIELAB L (0 to 100), a and b over stained tissue."""
    spread: (
        tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None
    ) = None
    """Reinhard: standard deviation of the same."""

    @model_validator(mode="after")
    def _complete(self) -> StainProfile:
        needed = ("mean", "spread") if self.method == "reinhard" else ("matrix", "strongest")
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.method} profile needs {' and '.join(missing)}")
        return self


_MACENKO_MATRIX = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
_MACENKO_STRONGEST = (1.9705, 1.0308)
_MACENKO_SOURCE = "reference stain matrix and maximum amounts of Macenko et al., ISBI 2009, as in the authors' code"

REFERENCE_PROFILES: dict[StainMethod, StainProfile] = {
    "macenko": StainProfile(
        method="macenko", source=_MACENKO_SOURCE, matrix=_MACENKO_MATRIX, strongest=_MACENKO_STRONGEST
    ),
    "vahadane": StainProfile(
        method="vahadane", source=_MACENKO_SOURCE, matrix=_MACENKO_MATRIX, strongest=_MACENKO_STRONGEST
    ),
    "reinhard": StainProfile(
        method="reinhard",
        source="stained pixels of 45 H&E fields of osteosarcoma, 3 cases (Leavey et al. 2019, TCIA, CC BY 3.0)",
        mean=(63.68, 30.75, -3.88),
        spread=(14.63, 13.73, 7.75),
    ),
}
"""Target profiles that need no reference image.

The matrix is published.  There is no agreed reference for CIELAB statistics, so they were measured.
"""


def sample_tissue(
    reader: SlideReader,
    mpp_of_level0: float,
    tissue: TissueMask,
    *,
    places: int = 64,
    side: int = 64,
    mpp: float = 1.0,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Sample square fields across the tissue.

    Parameters
    ----------
    reader
        The slide.
    mpp_of_level0
        Its scale in µm/px.
    tissue
        Its tissue.
    places
        Number of squares, drawn evenly over the tissue.
    side
        Their side in pixels of the level read.
    mpp
        Coarsest scale in µm/px to read at; the next finer stored level is used.
    seed
        Random seed; the same seed samples the same squares.

    Returns
    -------
    numpy.ndarray
        ``(N, 3)`` uint8 RGB, N at most ``places * side²``; pixels of unreadable tiles are excluded.

    Raises
    ------
    NoTissueError
        If the mask is empty or nothing in it can be read.
    """
    rows, columns = np.nonzero(tissue.mask)
    if rows.size == 0:
        raise NoTissueError("there is no tissue to estimate stain colours from", where=reader.path)
    index = reader.best_level(max(1.0, mpp / mpp_of_level0))
    level = reader.levels[index]
    rng = np.random.default_rng(seed)
    # Stratified sampling: one draw per equal part of the tissue in raster order; even, but not on a lattice.
    parts = np.linspace(0, rows.size, min(places, rows.size) + 1).astype(np.intp)
    chosen = rng.integers(parts[:-1], parts[1:])
    per_x, per_y = level.width / tissue.mask.shape[1], level.height / tissue.mask.shape[0]
    taken = []
    for row, column in zip(rows[chosen], columns[chosen], strict=True):
        x, y = round((column + 0.5) * per_x - side / 2), round((row + 0.5) * per_y - side / 2)
        x, y = max(0, min(x, level.width - side)), max(0, min(y, level.height - side))
        width, height = min(side, level.width), min(side, level.height)
        region = reader.read_masked(index, x, y, width, height)
        good = np.ones((height, width), bool)
        for bad in region.unreadable:
            good[bad.y : bad.y + bad.height, bad.x : bad.x + bad.width] = False
        taken.append(region.pixels[good])
    pixels = np.concatenate(taken)
    if not len(pixels):
        raise NoTissueError("none of the tissue tiles can be read", where=reader.path)
    return pixels


def fit_stain(pixels: NDArray[np.uint8], method: StainMethod, *, source: str = "") -> StainProfile:
    """Estimate a stain profile.

    The estimates equal those of tiatoolbox's normalisers: stain colours from stained pixels, the 99th
    percentile of the amounts (and Reinhard's statistics) from all pixels.

    Parameters
    ----------
    pixels
        ``(..., 3)`` uint8 RGB: an image, or pixels sampled from a slide's tissue.
    method
        Normalisation method.
    source
        Where the pixels come from; stored in the result.

    Returns
    -------
    StainProfile
        The profile.

    Raises
    ------
    NoTissueError
        If too few pixels are stained, or all are the same colour.
    UsageError
        If the array is not an RGB image.

    Examples
    --------
    >>> from pathology import open_slide
    >>> with open_slide(slide_path) as slide:
    ...     pixels = slide.thumbnail(mpp=2)
    >>> normaliser = StainNormaliser(fit_stain(pixels, "reinhard"))
    >>> normaliser.apply(pixels).shape == pixels.shape
    True
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[-1] != 3:
        raise UsageError(f"pixels must be (..., 3) uint8 RGB, not {pixels.shape} {pixels.dtype}")
    flat = pixels.reshape(-1, 3)
    if method == "reinhard":
        lab = _lab(flat[:, None])[:, 0].astype(np.float64)
        spread = lab.std(axis=0)
        if len(flat) < 2 or not (spread > 0).all():
            raise NoTissueError("all pixels have the same colour, so they cannot be matched to a reference")
        return StainProfile(method=method, source=source, mean=_triple(lab.mean(axis=0)), spread=_triple(spread))
    density = density_of(flat)
    stained = density[stained_pixels(pixels).ravel()]
    matrix = macenko_vectors(stained) if method == "macenko" else vahadane_vectors(stained)
    amounts = density @ np.linalg.pinv(matrix)
    haematoxylin, eosin = (float(v) for v in np.percentile(amounts, 99, axis=0))
    if not (haematoxylin > 0 and eosin > 0):
        raise NoTissueError("only one stain was found, so the colours cannot be separated")
    return StainProfile(
        method=method, source=source, matrix=(_triple(matrix[0]), _triple(matrix[1])), strongest=(haematoxylin, eosin)
    )


def _triple(values: NDArray[np.float64]) -> _Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return CIELAB with L from 0 to 100 and a, b around 0, of ``(h, w, 3)`` uint8."""
    lab: NDArray[np.float32] = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2LAB).astype(np.float32)
    lab -= np.array([0, 128, 128], np.float32)
    lab /= np.array([2.55, 1, 1], np.float32)
    return lab


class StainNormaliser:
    """Transforms pixels from one stain profile to another.

    Parameters
    ----------
    slide
        Profile of the slide.
    target
        Target profile; ``None``: the built-in reference of the same method.
    keep_glass
        Leave glass unchanged.  Otherwise Reinhard's method turns it pink, and on weakly stained slides the other
        methods amplify its faint tint along with the stain.  ``False`` matches the reference implementations.

    Raises
    ------
    UsageError
        If the two profiles belong to different methods.
    """

    def __init__(self, slide: StainProfile, target: StainProfile | None = None, *, keep_glass: bool = True) -> None:
        target = target or REFERENCE_PROFILES[slide.method]
        if slide.method != target.method:
            raise UsageError(f"a {slide.method} profile cannot be mapped to a {target.method} profile")
        self.slide, self.target, self.keep_glass = slide, target, keep_glass
        self._lab_table: NDArray[np.uint8] | None = None
        self._density_map: NDArray[np.float32] | None = None
        if slide.method == "reinhard":
            self._lab_table = _lab_table(slide, target)
        else:
            self._density_map = _density_map(slide, target)

    def apply(self, block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return ``(..., 3)`` uint8 RGB in the target's stain; each output pixel depends only on its input pixel."""
        if block.dtype != np.uint8 or block.ndim < 2 or block.shape[-1] != 3:
            raise UsageError(f"block must be (..., 3) uint8 RGB, not {block.shape} {block.dtype}")
        # One long row: OpenCV processes rows.
        flat = np.ascontiguousarray(block).reshape(1, -1, 3)
        result = np.empty_like(flat)
        for start in range(0, flat.shape[1], _CHUNK):
            pixels, out = flat[:, start : start + _CHUNK], result[:, start : start + _CHUNK]
            if self._density_map is not None:
                light = cv2.exp(cv2.transform(cv2.LUT(pixels, _DENSITY_TABLE), self._density_map))
                # Truncated, as in the reference implementations.
                np.copyto(out, np.minimum(light, 255, out=light), casting="unsafe")
            if self._lab_table is not None:
                lab = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB), self._lab_table)
                out[...] = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
            if self.keep_glass:
                _restore_glass(pixels, out)
        return result.reshape(block.shape)

    def record(self) -> dict[str, Any]:
        """Return everything needed to restore it, as JSON types."""
        return {
            "slide": self.slide.model_dump(mode="json"),
            "target": self.target.model_dump(mode="json"),
            "keep_glass": self.keep_glass,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> StainNormaliser:
        """Restore it from :meth:`record`.

        Raises
        ------
        UsageError
            If the record is incomplete or inconsistent.
        """
        try:
            slide, target = StainProfile.model_validate(record["slide"]), StainProfile.model_validate(record["target"])
            return cls(slide, target, keep_glass=bool(record["keep_glass"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a valid record of a stain normalisation ({error})") from error


_CHUNK = 1 << 16
"""Pixels processed at once: their floats fit in the CPU cache."""


_DENSITY_TABLE = density_of(np.arange(256, dtype=np.uint8)).astype(np.float32)[None]
# The darkest channel tells stain from glass; between 232 and 212 the change fades in, to avoid visible seams.
_STAIN_WEIGHT = np.clip((232 - np.arange(256, dtype=np.float32)) / 20, 0, 1)[None]


def _restore_glass(pixels: NDArray[np.uint8], changed: NDArray[np.uint8]) -> None:
    """Restore unchanged glass in place; both arrays are ``(1, n, 3)``."""
    red, green, blue = cv2.split(pixels)
    darkest = cv2.min(cv2.min(red, green), blue)
    weight = cv2.LUT(darkest, _STAIN_WEIGHT)
    changed[...] = cv2.blendLinear(np.ascontiguousarray(changed), pixels, weight, 1 - weight)


def _density_map(slide: StainProfile, target: StainProfile) -> NDArray[np.float32]:
    """Return ``(3, 4)``: from density of the slide to the natural logarithm of the light of the target, 0 to 255."""
    if slide.matrix is None or slide.strongest is None or target.matrix is None or target.strongest is None:
        raise UsageError("the profile lacks its stain matrix")
    scale = np.divide(target.strongest, slide.strongest)
    across = np.linalg.pinv(np.asarray(slide.matrix)) @ np.diag(scale) @ np.asarray(target.matrix)
    return np.concatenate([-across.T, np.full((3, 1), math.log(255))], axis=1).astype(np.float32)


def _lab_table(slide: StainProfile, target: StainProfile) -> NDArray[np.uint8]:
    """Return a table ``(1, 256, 3)`` from 8-bit CIELAB to 8-bit CIELAB."""
    if slide.mean is None or slide.spread is None or target.mean is None or target.spread is None:
        raise UsageError("the profile lacks its colour statistics")
    values = np.arange(256, dtype=np.float32)
    table = np.empty((1, 256, 3), np.uint8)
    for channel, (low, step) in enumerate(((0, 2.55), (128, 1), (128, 1))):
        lab = (values - np.float32(low)) / np.float32(step)
        moved = (lab - slide.mean[channel]) * (target.spread[channel] / slide.spread[channel]) + target.mean[channel]
        table[0, :, channel] = np.clip(moved * step + low, 0, 255).astype(np.uint8)
    return table

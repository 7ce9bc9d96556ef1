"""Stain normalisation: give a slide the colours of another, for models that were trained so.

A slide's *look* is estimated once, from pixels sampled all over its tissue (:func:`sample_tissue`, :func:`fit_look`).
A :class:`StainNormaliser` joins it to a target look and changes pixels, any block alone, in any thread, always the
same way.  Both are plain data: they go into a store's metadata as JSON and come back.

With one stain matrix and one scale per slide, separating stains, scaling their amounts and putting colours together
again is a single linear map of optical density: a table, a 3 x 3 matrix and an exponential per pixel.
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

__all__ = ["REFERENCE_LOOKS", "StainLook", "StainMethod", "StainNormaliser", "fit_look", "sample_tissue"]

StainMethod = Literal["macenko", "reinhard", "vahadane"]
"""``macenko``: ISBI 2009; ``reinhard``: IEEE CG&A 21 (2001); ``vahadane``: structure-preserving colour normalisation,
IEEE TMI 35 (2016)."""

_Vector = tuple[float, float, float]


class StainLook(Record):
    """How stained tissue looks on a slide, as far as one method describes it."""

    method: StainMethod
    """Method that the description belongs to."""
    source: str = ""
    """Where it comes from: a slide's fingerprint, or a publication."""
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
    def _complete(self) -> StainLook:
        needed = ("mean", "spread") if self.method == "reinhard" else ("matrix", "strongest")
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a look for {self.method} needs {' and '.join(missing)}")
        return self


_MACENKO_MATRIX = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
_MACENKO_STRONGEST = (1.9705, 1.0308)
_MACENKO_SOURCE = "reference stain matrix and maximum amounts of Macenko et al., ISBI 2009, as in the authors' code"

REFERENCE_LOOKS: dict[StainMethod, StainLook] = {
    "macenko": StainLook(
        method="macenko", source=_MACENKO_SOURCE, matrix=_MACENKO_MATRIX, strongest=_MACENKO_STRONGEST
    ),
    "vahadane": StainLook(
        method="vahadane", source=_MACENKO_SOURCE, matrix=_MACENKO_MATRIX, strongest=_MACENKO_STRONGEST
    ),
    "reinhard": StainLook(
        method="reinhard",
        source="stained pixels of 45 H&E fields of osteosarcoma, 3 cases (Leavey et al. 2019, TCIA, CC BY 3.0)",
        mean=(63.68, 30.75, -3.88),
        spread=(14.63, 13.73, 7.75),
    ),
}
"""Target looks that need no reference image.

The matrix is a published one.  For CIELAB statistics there is no agreed reference, so they were measured.
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
    """Read squares spread over the tissue.

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
        Coarsest scale in µm/px to read at; the next finer stored level is taken.
    seed
        Which squares: the same seed reads the same ones.

    Returns
    -------
    numpy.ndarray
        ``(N, 3)`` uint8 RGB, N at most ``places * side²``; pixels of unreadable tiles are left out.

    Raises
    ------
    NoTissueError
        If the mask is empty or nothing in it can be read.
    """
    rows, columns = np.nonzero(tissue.mask)
    if rows.size == 0:
        raise NoTissueError("there is no tissue to take stain colours from", where=reader.path)
    index = reader.best_level(max(1.0, mpp / mpp_of_level0))
    level = reader.levels[index]
    rng = np.random.default_rng(seed)
    # One draw from each of as many equal parts of the tissue in reading order: even, yet not on a lattice.
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
        raise NoTissueError("no tile with tissue can be read", where=reader.path)
    return pixels


def fit_look(pixels: NDArray[np.uint8], method: StainMethod, *, source: str = "") -> StainLook:
    """Describe how tissue looks.

    The same estimates as tiatoolbox's normalisers make of an image: stain colours from stained pixels, the 99th
    percentile of the amounts (and Reinhard's statistics) from all.

    Parameters
    ----------
    pixels
        ``(..., 3)`` uint8 RGB: an image, or pixels sampled from a slide's tissue.
    method
        Which description.
    source
        Where the pixels come from; kept with the result.

    Returns
    -------
    StainLook
        The description.

    Raises
    ------
    NoTissueError
        If too few pixels are stained, or all alike.
    UsageError
        If the array is no RGB image.

    Examples
    --------
    >>> from pathology import open_slide
    >>> with open_slide(slide_path) as slide:
    ...     pixels = slide.thumbnail(mpp=2)
    >>> normaliser = StainNormaliser(fit_look(pixels, "reinhard"))
    >>> normaliser.apply(pixels).shape == pixels.shape
    True
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[-1] != 3:
        raise UsageError(f"stain colours are fitted to (..., 3) uint8 RGB; this is {pixels.shape} {pixels.dtype}")
    flat = pixels.reshape(-1, 3)
    if method == "reinhard":
        lab = _lab(flat[:, None])[:, 0].astype(np.float64)
        spread = lab.std(axis=0)
        if len(flat) < 2 or not (spread > 0).all():
            raise NoTissueError("all pixels are alike, so their colours cannot be matched to a reference")
        return StainLook(method=method, source=source, mean=_triple(lab.mean(axis=0)), spread=_triple(spread))
    density = density_of(flat)
    stained = density[stained_pixels(pixels).ravel()]
    matrix = macenko_vectors(stained) if method == "macenko" else vahadane_vectors(stained)
    amounts = density @ np.linalg.pinv(matrix)
    haematoxylin, eosin = (float(v) for v in np.percentile(amounts, 99, axis=0))
    if not (haematoxylin > 0 and eosin > 0):
        raise NoTissueError("only one stain was found, so the colours cannot be separated")
    return StainLook(
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
    """Gives pixels of one look another.

    Parameters
    ----------
    slide
        Look of the slide.
    target
        Look wanted; the built-in one of the same method where ``None``.
    keep_glass
        Leave glass as it is.  Otherwise Reinhard's method turns it pink, and where a slide is stained weakly the
        others amplify its faint tint along with the stain.  ``False`` gives what reference implementations give.

    Raises
    ------
    UsageError
        If the two looks belong to different methods.
    """

    def __init__(self, slide: StainLook, target: StainLook | None = None, *, keep_glass: bool = True) -> None:
        target = target or REFERENCE_LOOKS[slide.method]
        if slide.method != target.method:
            raise UsageError(f"a look for {slide.method} cannot be turned into one for {target.method}")
        self.slide, self.target, self.keep_glass = slide, target, keep_glass
        self._lab_table: NDArray[np.uint8] | None = None
        self._density_map: NDArray[np.float32] | None = None
        if slide.method == "reinhard":
            self._lab_table = _lab_table(slide, target)
        else:
            self._density_map = _density_map(slide, target)

    def apply(self, block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return ``(..., 3)`` uint8 RGB in the target's look; every pixel depends on itself alone."""
        if block.dtype != np.uint8 or block.ndim < 2 or block.shape[-1] != 3:
            raise UsageError(f"stains are normalised in (..., 3) uint8 RGB; this is {block.shape} {block.dtype}")
        # One long row: OpenCV works by rows.
        flat = np.ascontiguousarray(block).reshape(1, -1, 3)
        result = np.empty_like(flat)
        for start in range(0, flat.shape[1], _CHUNK):
            pixels, out = flat[:, start : start + _CHUNK], result[:, start : start + _CHUNK]
            if self._density_map is not None:
                light = cv2.exp(cv2.transform(cv2.LUT(pixels, _DENSITY_TABLE), self._density_map))
                # Rounded down, as the reference implementations do.
                np.copyto(out, np.minimum(light, 255, out=light), casting="unsafe")
            if self._lab_table is not None:
                lab = cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB), self._lab_table)
                out[...] = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
            if self.keep_glass:
                _restore_glass(pixels, out)
        return result.reshape(block.shape)

    def record(self) -> dict[str, Any]:
        """Return everything needed to make it again, as JSON types."""
        return {
            "slide": self.slide.model_dump(mode="json"),
            "target": self.target.model_dump(mode="json"),
            "keep_glass": self.keep_glass,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> StainNormaliser:
        """Make it again from :meth:`record`.

        Raises
        ------
        UsageError
            If the record is incomplete or inconsistent.
        """
        try:
            slide, target = StainLook.model_validate(record["slide"]), StainLook.model_validate(record["target"])
            return cls(slide, target, keep_glass=bool(record["keep_glass"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"this is no record of a stain normalisation ({error})") from error


_CHUNK = 1 << 16
"""Pixels worked on at once: their floats stay in the processor's cache."""


_DENSITY_TABLE = density_of(np.arange(256, dtype=np.uint8)).astype(np.float32)[None]
# The darkest channel tells stain from glass; between 232 and 212 the change fades in, so that no seam shows.
_STAIN_WEIGHT = np.clip((232 - np.arange(256, dtype=np.float32)) / 20, 0, 1)[None]


def _restore_glass(pixels: NDArray[np.uint8], changed: NDArray[np.uint8]) -> None:
    """Put glass back as it was, in place; ``(1, n, 3)`` both."""
    red, green, blue = cv2.split(pixels)
    darkest = cv2.min(cv2.min(red, green), blue)
    weight = cv2.LUT(darkest, _STAIN_WEIGHT)
    changed[...] = cv2.blendLinear(np.ascontiguousarray(changed), pixels, weight, 1 - weight)


def _density_map(slide: StainLook, target: StainLook) -> NDArray[np.float32]:
    """Return ``(3, 4)``: from density of the slide to the natural logarithm of the light of the target, 0 to 255."""
    if slide.matrix is None or slide.strongest is None or target.matrix is None or target.strongest is None:
        raise UsageError("the look lacks its stain matrix")
    scale = np.divide(target.strongest, slide.strongest)
    across = np.linalg.pinv(np.asarray(slide.matrix)) @ np.diag(scale) @ np.asarray(target.matrix)
    return np.concatenate([-across.T, np.full((3, 1), math.log(255))], axis=1).astype(np.float32)


def _lab_table(slide: StainLook, target: StainLook) -> NDArray[np.uint8]:
    """Return a table ``(1, 256, 3)`` from 8-bit CIELAB to 8-bit CIELAB."""
    if slide.mean is None or slide.spread is None or target.mean is None or target.spread is None:
        raise UsageError("the look lacks its colour statistics")
    values = np.arange(256, dtype=np.float32)
    table = np.empty((1, 256, 3), np.uint8)
    for channel, (low, step) in enumerate(((0, 2.55), (128, 1), (128, 1))):
        lab = (values - np.float32(low)) / np.float32(step)
        moved = (lab - slide.mean[channel]) * (target.spread[channel] / slide.spread[channel]) + target.mean[channel]
        table[0, :, channel] = np.clip(moved * step + low, 0, 255).astype(np.uint8)
    return table

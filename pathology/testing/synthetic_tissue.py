"""Procedural images that resemble H&E-stained tissue, at any size and in any window.

For tests, benchmarks and demonstrations without a real slide.  They contain what algorithms must handle: pink stroma
with spindle nuclei, dense purple cell nests, pale fat, glass, and optionally a pen stroke.  They have no diagnostic
meaning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

__all__ = ["TISSUE_KINDS", "ArrayPicture", "Picture", "TissuePicture", "tissue_tile"]

TISSUE_KINDS: Final = ("spindle cells", "round cells", "fat", "myxoid", "necrosis", "small cells")
"""Kinds of tissue that :func:`tissue_tile` draws."""

_HAEMATOXYLIN: Final = (0.5626, 0.7201, 0.4062)
_EOSIN: Final = (0.2159, 0.8012, 0.5581)
"""Optical density per unit of stain in red, green and blue (reference vectors of Macenko et al., ISBI 2009)."""
_GLASS: Final = np.array([244, 243, 245], np.float32)
_PEN_INK: Final = np.array([28, 62, 150], np.float32)
_TEXTURE: Final = 1024
"""Side of the repeating textures, in pixels."""
_GRAIN: Final = 509
"""Side of the repeating sensor noise, in pixels; prime, so that it does not align with the textures."""


class Picture(ABC):
    """Pixel source of a slide to write: any window of level 0, and exact means for the coarser levels.

    Attributes
    ----------
    width, height
        Size of level 0 in pixels.
    """

    width: int
    height: int

    @abstractmethod
    def window(self, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 RGB of a window inside the image."""

    def level_size(self, factor: int) -> tuple[int, int]:
        """``(width, height)`` of the level reduced by ``factor``; a remainder at the border is dropped."""
        return max(1, self.width // factor), max(1, self.height // factor)

    def reduced(self, factor: int, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return a window of the level reduced by ``factor``: means of ``factor`` x ``factor`` pixels, rounded.

        Parameters
        ----------
        factor
            Level-0 pixels per pixel of the level.
        x, y, w, h
            The window, in pixels of the level; parts outside the level are white.
        """
        width, height = self.level_size(factor)
        pixels = np.full((h, w, 3), 255, np.uint8)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if left >= right or top >= bottom:
            return pixels
        # A few output rows at a time: a window of a coarse level covers very many level-0 pixels.
        rows = max(1, 4_194_304 // ((right - left) * factor * factor))
        for begin in range(top, bottom, rows):
            end = min(begin + rows, bottom)
            fine = self.window(left * factor, begin * factor, (right - left) * factor, (end - begin) * factor)
            if factor > 1:
                sums = fine.reshape(end - begin, factor, right - left, factor, 3).sum(axis=(1, 3), dtype=np.uint32)
                fine = ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)
            pixels[begin - y : end - y, left - x : right - x] = fine
        return pixels


class ArrayPicture(Picture):
    """An image in memory.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def window(self, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 RGB of a window inside the image."""
        return self.pixels[y : y + h, x : x + w]


@dataclass(frozen=True)
class _Layout:
    """Coarse fields that locate each kind of tissue, with ``spacing`` level-0 pixels between their points."""

    spacing: float
    tissue: NDArray[np.float32]
    tumour: NDArray[np.float32]
    fat: NDArray[np.float32]


class TissuePicture(Picture):
    """Procedural tissue; memory does not grow with its size.

    Parameters
    ----------
    width, height
        Size in pixels.
    mpp
        Micrometres per pixel; scales nuclei and fat cells.
    seed
        The same seed gives the same image.
    tissue
        Approximate tissue fraction of the area, 0 to 1; the rest is glass.
    pen
        Whether a blue pen stroke crosses the slide.
    """

    def __init__(
        self, width: int, height: int, *, mpp: float = 0.5, seed: int = 0, tissue: float = 0.5, pen: bool = False
    ) -> None:
        self.width, self.height, self.mpp, self.pen = width, height, mpp, pen
        self._layout = _layout(width, height, tissue, np.random.default_rng(seed))
        self._stroma, self._tumour, self._fat, self._grain = _textures(mpp, seed)
        self._stains = np.array([_HAEMATOXYLIN, _EOSIN], np.float32) * np.float32(-np.log(10))

    def window(self, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 RGB of a window inside the image.

        A pixel's value depends only on its position, not on the requested window.
        """
        rows, columns = np.arange(y, y + h), np.arange(x, x + w)
        tissue = _edge(_at(self._layout.tissue, self._layout.spacing, rows, columns), 0.05)
        pixels = np.empty((h, w, 3), np.float32)
        if tissue.any():
            tumour = _edge(_at(self._layout.tumour, self._layout.spacing, rows, columns), 0.15)
            fat = _edge(_at(self._layout.fat, self._layout.spacing, rows, columns), 0.08)
            place = np.ix_(rows % _TEXTURE, columns % _TEXTURE)
            stain = self._stroma[place]
            stain += tumour[:, :, None] * (self._tumour[place] - stain)
            stain += fat[:, :, None] * (self._fat[place] - stain)
            stain *= tissue[:, :, None]
            np.exp(stain @ self._stains, out=pixels)
            pixels *= _GLASS
        else:
            pixels[:] = _GLASS
        if self.pen:
            ink = self._ink(rows, columns)
            pixels += ink[:, :, None] * (_PEN_INK * (pixels / 255) - pixels)
        pixels += self._grain[np.ix_(rows % _GRAIN, columns % _GRAIN)][:, :, None]
        return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)

    def _ink(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Coverage of a wavy stroke, 1/60 of the image height thick, across its lower third."""
        middle = self.height * (0.78 + 0.06 * np.sin(columns / self.width * 7.0))
        distance = np.abs(rows[:, None] - middle[None, :]) - self.height / 120
        within = (columns > 0.08 * self.width) & (columns < 0.55 * self.width)
        return np.asarray(np.clip(1 - distance / 4, 0, 0.93) * within[None, :], np.float32)


def _at(
    field: NDArray[np.float32], spacing: float, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Interpolate a coarse field linearly at pixel centres."""

    def between(places: NDArray[np.int64], points: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        exact = np.clip((places + 0.5) / spacing, 0, points - 1.001)
        lower = exact.astype(np.int64)
        return lower, (exact - lower).astype(np.float32)

    row, down = between(rows, field.shape[0])
    column, across = between(columns, field.shape[1])
    lines = field[row] * (1 - down)[:, None] + field[row + 1] * down[:, None]
    return np.asarray(lines[:, column] * (1 - across) + lines[:, column + 1] * across, np.float32)


def _edge(field: NDArray[np.float32], softness: float) -> NDArray[np.float32]:
    """Turn a field into coverage: 0 below zero, 1 above ``softness``, smooth between."""
    rise = np.clip(field / np.float32(softness), 0, 1)
    return np.asarray(rise * rise * (3 - 2 * rise), np.float32)


def _layout(width: int, height: int, share: float, random: np.random.Generator) -> _Layout:
    spacing = max(48.0, max(width, height) / 384)
    shape = (int(np.ceil(height / spacing)) + 2, int(np.ceil(width / spacing)) + 2)
    longest = max(shape)

    def noise(scale: float) -> NDArray[np.float32]:
        field = sum(
            ndimage.gaussian_filter(random.normal(size=shape), longest * scale / 2**octave)
            * longest
            * scale
            / 4**octave
            for octave in range(3)
        )
        return np.asarray(field / field.std(), np.float32)

    down, across = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    mound = 2.2 * (1 - np.maximum(np.abs(down), np.abs(across)) ** 3) if share < 1 else 0.0
    outline = noise(0.12) * 0.6 + mound
    level = np.quantile(outline, 1 - share) if share < 1 else outline.min() - 1
    return _Layout(
        spacing,
        np.asarray(outline - level, np.float32),
        noise(0.08) - np.float32(0.3),
        noise(0.07) - np.float32(1.0),
    )


def _fibres(random: np.random.Generator, along: float, across: float) -> NDArray[np.float32]:
    """Return periodic, stretched noise with directions bent by a second noise; mean 0, standard deviation 1."""
    shape = (_TEXTURE, _TEXTURE)
    base = ndimage.gaussian_filter(random.normal(size=shape), (across, along), mode="wrap")
    bend = ndimage.gaussian_filter(random.normal(size=shape), 60, mode="wrap")
    bend *= 30 / bend.std()
    rows, columns = np.meshgrid(np.arange(_TEXTURE), np.arange(_TEXTURE), indexing="ij")
    bent = ndimage.map_coordinates(base, [rows + bend, columns + bend * 0.4], order=1, mode="grid-wrap")
    return np.asarray((bent - bent.mean()) / bent.std(), np.float32)


def _nuclei(
    random: np.random.Generator, mpp: float, spacing: float, axes: tuple[float, float], spread: float
) -> NDArray[np.float32]:
    """Scatter elliptical nuclei over a periodic square; values 0 (outside) to about 1.

    Parameters
    ----------
    random
        Source of randomness.
    mpp
        Micrometres per pixel.
    spacing
        Mean distance of nuclei, µm.
    axes
        Half axes, µm.
    spread
        Standard deviation of their direction, radians.
    """
    count = max(1, round(_TEXTURE * mpp / spacing))
    step = _TEXTURE / count
    density = np.zeros((_TEXTURE, _TEXTURE), np.float32)
    chromatin = ndimage.gaussian_filter(random.normal(size=density.shape), 0.7 / mpp, mode="wrap")
    chromatin = 1 + 0.18 * chromatin / chromatin.std()
    for row in range(count):
        for column in range(count):
            if random.random() < 0.12:
                continue
            y, x = (np.array([row, column]) + 0.5 + random.uniform(-0.36, 0.36, 2)) * step
            long, short = np.array(axes) / mpp * random.uniform(0.8, 1.25, 2)
            angle = random.normal(0, spread)
            reach = int(np.ceil(max(long, short))) + 2
            rows, columns = np.arange(int(y) - reach, int(y) + reach + 1), np.arange(int(x) - reach, int(x) + reach + 1)
            down, across = rows[:, None] - y, columns[None, :] - x
            u = (across * np.cos(angle) + down * np.sin(angle)) / long
            v = (down * np.cos(angle) - across * np.sin(angle)) / short
            inside = np.clip((1 - np.hypot(u, v)) * min(long, short) / 1.5, 0, 1) * random.uniform(0.65, 1.0)
            place = np.ix_(rows % _TEXTURE, columns % _TEXTURE)
            density[place] = np.maximum(density[place], inside)
    return np.asarray(density * chromatin, np.float32)


def _stain(haematoxylin: NDArray[np.float32], eosin: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.maximum(np.stack([haematoxylin, eosin], axis=2), 0), np.float32)


@lru_cache(maxsize=4)
def _textures(mpp: float, seed: int) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng((seed, 1))
    grain = random.normal(0, 1.2, (_GRAIN, _GRAIN)).astype(np.float32)
    return _stroma(mpp, random), _tumour(mpp, random), _fat(mpp, random), grain


def _stroma(mpp: float, random: np.random.Generator) -> NDArray[np.float32]:
    fibre = _fibres(random, 14 / mpp, 0.9 / mpp)
    clefts = np.clip(fibre - 1.2, 0, 1)
    spindles = _nuclei(random, mpp, 26.0, (6.5, 1.7), 0.35)
    return _stain(0.06 + 0.75 * spindles, (0.36 + 0.06 * fibre) * (1 - 0.8 * clefts) * (1 - 0.4 * spindles))


def _tumour(mpp: float, random: np.random.Generator) -> NDArray[np.float32]:
    cytoplasm = _fibres(random, 3 / mpp, 2 / mpp)
    nuclei = _nuclei(random, mpp, 10.5, (4.4, 3.3), 1.6)
    return _stain(0.16 + 0.03 * cytoplasm + 0.72 * nuclei, (0.26 + 0.05 * cytoplasm) * (1 - 0.5 * nuclei))


def _myxoid(mpp: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Pale ground substance with few thin nuclei."""
    ground = _fibres(random, 20 / mpp, 5 / mpp)
    nuclei = _nuclei(random, mpp, 45.0, (6.0, 1.3), 1.6)
    return _stain(0.09 + 0.03 * ground + 0.7 * nuclei, 0.1 + 0.03 * ground)


def _necrosis(mpp: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Eosin without nuclei, with nuclear debris."""
    debris = _nuclei(random, mpp, 30.0, (1.6, 1.4), 1.6)
    ghosts = _fibres(random, 4 / mpp, 3 / mpp)
    return _stain(0.02 + 0.5 * debris, 0.42 + 0.07 * ghosts)


def _small_cells(mpp: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Dense small dark nuclei with hardly any cytoplasm."""
    nuclei = _nuclei(random, mpp, 7.5, (2.9, 2.7), 1.6)
    return _stain(0.08 + 1.0 * nuclei, np.full(nuclei.shape, 0.14, np.float32))


@lru_cache(maxsize=16)
def _texture(kind: str, mpp: float, seed: int) -> NDArray[np.float32]:
    drawn = dict(zip(TISSUE_KINDS, (_stroma, _tumour, _fat, _myxoid, _necrosis, _small_cells), strict=True))
    return drawn[kind](mpp, np.random.default_rng((seed, TISSUE_KINDS.index(kind))))


def tissue_tile(
    kind: str, side: int, *, mpp: float = 1.0, seed: int = 0, stain: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """Draw a square of one kind of tissue.

    Parameters
    ----------
    kind
        One of :data:`TISSUE_KINDS`.
    side
        Side in pixels.
    mpp
        Micrometres per pixel.
    seed
        Random seed.  The texture repeats every 1024 px.
    stain
        Intensity of haematoxylin and eosin, which differs between laboratories.

    Returns
    -------
    numpy.ndarray
        ``(side, side, 3)`` uint8 RGB.

    Examples
    --------
    >>> tissue_tile("spindle cells", 64).shape
    (64, 64, 3)
    """
    random = np.random.default_rng((seed, 2))
    texture = _texture(kind, mpp, seed % 2)
    rows, columns = (np.arange(side) + random.integers(_TEXTURE) for _ in range(2))
    stains = np.array([_HAEMATOXYLIN, _EOSIN], np.float32) * np.float32(-np.log(10)) * np.array([stain], np.float32).T
    exact = np.exp(texture[np.ix_(rows % _TEXTURE, columns % _TEXTURE)] @ stains) * _GLASS
    return np.asarray(np.clip(np.rint(exact + random.normal(0, 1.2, (side, side, 1))), 0, 255), np.uint8)


def _fat(mpp: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Large empty cells with thin pink walls: a periodic Voronoi diagram."""
    count = max(2, round(_TEXTURE * mpp / 60))
    step = _TEXTURE / count
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), axis=2).reshape(-1, 2)
    centres = (grid + 0.5 + random.uniform(-0.33, 0.33, grid.shape)) * step
    shifts = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]) * _TEXTURE
    tree = spatial.cKDTree((centres[None] + shifts[:, None]).reshape(-1, 2))
    pixels = np.stack(np.meshgrid(np.arange(_TEXTURE), np.arange(_TEXTURE), indexing="ij"), axis=2).reshape(-1, 2)
    distance = np.asarray(tree.query(pixels, k=2)[0])
    wall = np.clip(1.6 - (distance[:, 1] - distance[:, 0]) * mpp / 1.6, 0, 1).reshape(_TEXTURE, _TEXTURE)
    nuclei = _nuclei(random, mpp, 60.0, (4.5, 1.6), 1.0) * wall
    return _stain(np.asarray(0.6 * nuclei + 0.01, np.float32), np.asarray(0.02 + 0.3 * wall, np.float32))

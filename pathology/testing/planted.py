"""Synthetic slides with known ground truth: tissue on glass with pen marks, edges and dirt of known extent.

Used to evaluate tissue and artefact detection.  Everything follows the optics of real slides: transmittances multiply
(Beer-Lambert), so ink over tissue darkens it, and glass multiplies everything.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

__all__ = ["PlantedSlide", "average_down", "blob", "synthetic_tissue"]

_HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062])
_EOSIN = np.array([0.2159, 0.8012, 0.5581])
# Optical density vectors of haematoxylin and eosin: reference values of Macenko et al., ISBI 2009.


def synthetic_tissue(
    shape: tuple[int, int], rng: np.random.Generator, *, mpp: float = 4.0, density: float = 1.0
) -> NDArray[np.float64]:
    """Return the transmittance ``(H, W, 3)`` of drawn tissue: eosin stroma with fibres and haematoxylin nuclei.

    Parameters
    ----------
    shape
        ``(H, W)`` in pixels.
    rng
        Source of randomness.
    mpp
        µm per pixel.
    density
        Amount of stain; 0.15 is pale myxoid stroma.
    """
    coarse = ndimage.gaussian_filter(rng.standard_normal(shape), 30 / mpp, mode="wrap")
    fine = ndimage.gaussian_filter(rng.standard_normal(shape), (0.8 / mpp, 8 / mpp), mode="wrap")
    eosin = np.clip(0.28 + 0.04 * coarse / coarse.std() + 0.07 * fine / fine.std(), 0.03, None)
    # About 1,500 nuclei per mm², discs 6 µm wide.
    seeds = (rng.random(shape) < 1500e-6 * mpp * mpp).astype(float)
    reach = int(np.ceil(3 / mpp)) + 1
    away = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    disc = np.clip(3 / mpp - away + 0.5, 0, 1)
    disc *= np.pi * (3 / mpp) ** 2 / disc.sum()
    nuclei = signal.fftconvolve(seeds, disc, mode="same")
    absorbed = eosin[..., None] * _EOSIN + np.clip(nuclei, 0, 1.5)[..., None] * 0.8 * _HAEMATOXYLIN
    return np.asarray(10 ** (-density * absorbed))


def blob(shape: tuple[int, int], rng: np.random.Generator, *, share: float, smoothness: float) -> NDArray[np.bool_]:
    """Return a random shape ``(H, W)`` that covers a fraction of the area; ``smoothness`` in pixels."""
    values = ndimage.gaussian_filter(rng.standard_normal(shape), smoothness, mode="wrap")
    return np.asarray(values > np.quantile(values, 1 - share))


def average_down(image: NDArray[np.uint8] | NDArray[np.bool_], factor: int) -> NDArray[np.float64]:
    """Average blocks of ``factor x factor`` pixels; the sides must be multiples of ``factor``."""
    height, width = image.shape[:2]
    blocks = image.reshape(height // factor, factor, width // factor, factor, *image.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)))


@dataclass
class PlantedSlide:
    """A slide under construction.

    Attributes
    ----------
    transmittance
        ``(H, W, 3)`` fraction of light transmitted, relative to the light source.
    mpp
        µm per pixel.
    truth
        ``(H, W)`` bool for each planted object: ``tissue``, ``pen``, ...
    """

    transmittance: NDArray[np.float64]
    mpp: float
    rng: np.random.Generator
    truth: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @classmethod
    def of_glass(cls, shape: tuple[int, int], mpp: float, seed: int, colour: tuple[int, int, int]) -> PlantedSlide:
        """Create a slide of empty glass with the given colour."""
        transmittance = np.broadcast_to(np.asarray(colour) / 255, (*shape, 3)).copy()
        return cls(transmittance, mpp, np.random.default_rng(seed))

    @property
    def shape(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.transmittance.shape[0], self.transmittance.shape[1]

    def _mark(self, name: str, where: NDArray[np.bool_]) -> None:
        self.truth[name] = self.truth.get(name, np.zeros(self.shape, bool)) | where

    def vignette(self, loss: float) -> None:
        """Darken towards the corners by a fraction of the light."""
        y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in self.shape), indexing="ij")
        self.transmittance *= (1 - loss * (x * x + y * y) / 2)[..., None]

    def tissue(self, where: NDArray[np.bool_], transmittance: NDArray[np.float64]) -> None:
        """Add tissue; its transmittance is relative to glass and tiled by mirroring to fill the slide."""
        height, width = self.shape
        mirrored = np.concatenate([transmittance, transmittance[::-1]], axis=0)
        mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
        rows, columns = np.arange(height) % mirrored.shape[0], np.arange(width) % mirrored.shape[1]
        self.transmittance[where] *= mirrored[np.ix_(rows, columns)][where]
        self._mark("tissue", where)

    def pen(self, colour: tuple[int, int, int], points: NDArray[np.float64], width_mm: float) -> None:
        """Draw a stroke through ``points`` ``(N, 2)`` in mm ``(x, y)`` with an ink whose colour on white is given.

        The amount of ink varies by a quarter along and across the stroke, as with felt-tip pens.
        """
        away = self._distance(points)
        uneven = ndimage.gaussian_filter(self.rng.standard_normal(self.shape), 120 / self.mpp, mode="wrap")
        uneven /= uneven.std()
        radius = width_mm * 500 / self.mpp + 0.6 * uneven
        amount = np.clip(radius - away + 0.5, 0, 1) * np.clip(1 + 0.12 * uneven, 0.6, 1.4)
        absorbed = -np.log10((np.asarray(colour) + 1) / 256)
        self.transmittance *= 10 ** (-amount[..., None] * absorbed)
        self._mark("pen", away <= radius)

    def line(self, first: tuple[float, float], last: tuple[float, float], width_um: float, loss: float) -> None:
        """Draw a straight grey line between two points in mm, such as the edge of a coverslip."""
        y, x = np.meshgrid(*(np.arange(n) * self.mpp / 1000 for n in self.shape), indexing="ij")
        (x0, y0), (x1, y1) = first, last
        away = np.abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / np.hypot(x1 - x0, y1 - y0) * 1000
        self.transmittance *= 1 - loss * np.exp(-((away / width_um) ** 2))[..., None]
        self._mark("edge", away <= width_um)

    def slide_edge(self, width_mm: float, darkest: float) -> None:
        """Darken the left border towards an edge, neutral grey."""
        x = np.arange(self.shape[1]) * self.mpp / 1000
        self.transmittance *= (darkest + (1 - darkest) * np.clip(x / width_mm, 0, 1) ** 0.5)[None, :, None]
        where = np.zeros(self.shape, bool)
        where[:, x <= width_mm] = True
        self._mark("edge", where)

    def dust(self, number: int) -> None:
        """Scatter grey and brown specks of 10 to 40 µm."""
        height, width = self.shape
        away_y, away_x = np.mgrid[-12:13, -12:13]
        for _ in range(number):
            y, x = self.rng.integers(12, height - 12), self.rng.integers(12, width - 12)
            radius = self.rng.uniform(10, 40) / self.mpp / 2
            tint = np.array([1, 1, 1 - 0.3 * self.rng.random()])
            spot = np.clip(radius - np.hypot(away_y, away_x) + 0.5, 0, 1)[..., None]
            self.transmittance[y - 12 : y + 13, x - 12 : x + 13] *= 1 - spot * (1 - 0.3 * tint)

    def fold(self, points: NDArray[np.float64], width_mm: float) -> None:
        """Fold tissue along a line through ``points`` ``(N, 2)`` in mm, where light passes through it twice.

        The second layer is the tissue 0.2 mm to the side.
        """
        near = self._distance(points) <= width_mm * 500 / self.mpp
        where = near & self.truth["tissue"]
        glass = np.median(self.transmittance[~self.truth["tissue"]], axis=0)
        aside = np.roll(
            np.where(self.truth["tissue"][..., None], self.transmittance / glass, 1), round(200 / self.mpp), axis=1
        )
        self.transmittance[where] *= aside[where]
        self._mark("fold", where)

    def bubble(self, centre: tuple[float, float], radius_mm: float, rim_um: float, loss: float) -> None:
        """Add an air bubble: a dark neutral rim around a slightly brighter interior; centre in mm ``(x, y)``."""
        y, x = np.meshgrid(*(np.arange(n) * self.mpp / 1000 for n in self.shape), indexing="ij")
        away = np.hypot(x - centre[0], y - centre[1])
        rim = np.exp(-(((away - radius_mm) * 1000 / (rim_um / 2)) ** 2))
        self.transmittance *= (1 - loss * rim + 0.02 * (away < radius_mm))[..., None]
        self._mark("bubble", away <= radius_mm + rim_um / 2000)

    def dirt(self, centre: tuple[float, float], radius_mm: float) -> None:
        """Add a ragged black blot; centre in mm ``(x, y)``."""
        y, x = np.meshgrid(*(np.arange(n) * self.mpp / 1000 for n in self.shape), indexing="ij")
        angle = np.arctan2(y - centre[1], x - centre[0])
        phases = self.rng.uniform(0, 2 * np.pi, 4)
        ragged = radius_mm * (1 + sum(0.12 * np.sin((k + 2) * angle + p) for k, p in enumerate(phases)))
        where = np.hypot(x - centre[0], y - centre[1]) <= ragged
        self.transmittance[where] *= np.array([0.16, 0.15, 0.15])
        self._mark("dark", where)

    def defocus(self, where: NDArray[np.bool_], sigma_um: float) -> None:
        """Blur a region with a Gaussian."""
        sigma = sigma_um / self.mpp
        blurred = ndimage.gaussian_filter(self.transmittance, (sigma, sigma, 0), mode="nearest")
        self.transmittance[where] = blurred[where]
        self._mark("blur", where)

    def _distance(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of every pixel from a line through points in mm, in pixels."""
        height, width = self.shape
        off = np.ones(self.shape, bool)
        steps = np.concatenate(
            [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) * 1000 / self.mpp)) for a, b in itertools.pairwise(points)]
        )
        pixels = np.floor(steps * 1000 / self.mpp).astype(int)
        inside = (pixels >= 0).all(axis=1) & (pixels < (width, height)).all(axis=1)
        off[pixels[inside, 1], pixels[inside, 0]] = False
        away: NDArray[np.float64] = ndimage.distance_transform_edt(off)
        return away

    def pixels(self, noise: float = 1.5) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB with sensor noise of that many levels."""
        exact = self.transmittance * 255 + self.rng.normal(0, noise, self.transmittance.shape)
        return np.clip(np.rint(exact), 0, 255).astype(np.uint8)

"""The colours of haematoxylin and eosin on a slide, estimated from its pixels.

Both methods work on optical density with natural logarithms, ``-ln(I / 255)``, in which amounts of stain add up
(Beer-Lambert), and both return a *stain matrix*: two unit-length rows, haematoxylin first, with columns red, green,
blue.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.errors import NoTissueError

__all__ = [
    "density_of",
    "macenko_vectors",
    "nonnegative_codes",
    "stained_pixels",
    "vahadane_vectors",
]

_FEWEST = 100
"""Minimum number of stained pixels needed to estimate colours."""

# Intensity 0 is treated as 1, and density is at least 1e-6, as in StainTools and tiatoolbox.
_DENSITY = np.maximum(-np.log(np.maximum(np.arange(256, dtype=np.float64), 1) / 255), 1e-6)


def density_of(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return optical density with natural logarithms: uint8 of any shape to float64 of the same shape."""
    return np.asarray(_DENSITY[pixels])


def stained_pixels(pixels: NDArray[np.uint8], threshold: float = 0.8) -> NDArray[np.bool_]:
    """Separate stained pixels from glass by lightness.

    The rule of StainTools and tiatoolbox: contrast is stretched from the 2nd to the 98th percentile of all values;
    pixels whose CIELAB lightness lies below a fraction of white's are stained.

    Parameters
    ----------
    pixels
        ``(..., 3)`` uint8 RGB.
    threshold
        Fraction of white's lightness, 0 to 1.

    Returns
    -------
    numpy.ndarray
        ``(...)`` bool.
    """
    low, high = np.percentile(pixels, (2, 98))
    if low >= high:
        low, high = float(pixels.min()), float(pixels.max())
    stretched = pixels
    if high > low:
        values = (np.clip(np.arange(256.0), low, high) - low) / (high - low) * 255
        stretched = values.astype(np.uint8)[pixels]
    lightness = cv2.cvtColor(np.ascontiguousarray(stretched).reshape(-1, 1, 3), cv2.COLOR_RGB2LAB)[..., 0]
    return np.asarray(lightness.reshape(pixels.shape[:-1]) / 255.0 < threshold)


def macenko_vectors(density: NDArray[np.float64], percentile: float = 99) -> NDArray[np.float64]:
    """Estimate the stain matrix as the extreme directions in the plane that holds most of the variation.

    Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.

    Parameters
    ----------
    density
        ``(N, 3)`` optical density of stained pixels.
    percentile
        Percentile of the in-plane angle taken as one extreme; 100 minus it is the other.

    Returns
    -------
    numpy.ndarray
        ``(2, 3)`` stain matrix.

    Raises
    ------
    NoTissueError
        If there are fewer than 100 pixels.
    """
    _check_enough(density)
    _, eigenvectors = np.linalg.eigh(np.cov(density, rowvar=False))
    plane = eigenvectors[:, [2, 1]]
    plane = plane * np.where(plane[0] < 0, -1, 1)
    projected = density @ plane
    angle = np.arctan2(projected[:, 1], projected[:, 0])
    extremes = np.percentile(angle, (100 - percentile, percentile))
    vectors = np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T
    # Haematoxylin absorbs more red than eosin.
    if vectors[0, 0] <= vectors[1, 0]:
        vectors = vectors[::-1]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def vahadane_vectors(
    density: NDArray[np.float64], sparsity: float = 0.1, *, most_pixels: int = 50_000, iterations: int = 300
) -> NDArray[np.float64]:
    """Estimate the stain matrix by sparse non-negative matrix factorisation.

    Vahadane et al., "Structure-preserving color normalization and sparse stain separation for histological images",
    IEEE Trans Med Imaging 35 (2016): minimise ``0.5 |density - codes @ matrix|² + sparsity * |codes|_1`` with
    codes and matrix non-negative and the matrix's rows of unit length, alternating between codes (exactly: two unknowns
    per pixel) and matrix (block coordinate descent; Mairal et al., JMLR 11, 2010), starting from Macenko's estimate, so
    that the result is deterministic.

    Parameters
    ----------
    density
        ``(N, 3)`` optical density of stained pixels.
    sparsity
        Weight of the L1 penalty on the amounts of stain; larger values make pixels purer.
    most_pixels
        Maximum number of pixels used; of more, every n-th.
    iterations
        Maximum number of iterations; stops early on convergence.

    Returns
    -------
    numpy.ndarray
        ``(2, 3)`` stain matrix.

    Raises
    ------
    NoTissueError
        If there are fewer than 100 pixels.
    """
    _check_enough(density)
    used = density[:: -(-len(density) // most_pixels)]
    matrix = np.maximum(macenko_vectors(used), 1e-3)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    for _ in range(iterations):
        codes = nonnegative_codes(used, matrix, sparsity)
        gram, cross = codes.T @ codes, codes.T @ used
        updated = matrix.copy()
        for k in range(2):
            if gram[k, k] > 0:
                updated[k] = np.maximum(updated[k] + (cross[k] - gram[k] @ updated) / gram[k, k], 0)
                updated[k] /= max(float(np.linalg.norm(updated[k])), 1e-12)
        change = float(np.abs(updated - matrix).max())
        matrix = updated
        if change < 1e-7:
            break
    return matrix if matrix[0, 0] > matrix[1, 0] else matrix[::-1].copy()


def nonnegative_codes(
    density: NDArray[np.float64], matrix: NDArray[np.float64], sparsity: float
) -> NDArray[np.float64]:
    """Return the ``(N, 2)`` non-negative amounts of two stains that minimise the sparse factorisation's objective."""
    gram = matrix @ matrix.T
    target = density @ matrix.T - sparsity
    both = np.linalg.solve(gram, target.T).T
    # Where the free optimum leaves the quadrant, one amount is 0 and the other its own optimum; the better of the two.
    single = np.maximum(target, 0) / np.diag(gram)
    gain = single * (target - 0.5 * np.diag(gram) * single)
    first = gain[:, :1] >= gain[:, 1:]
    alone = np.where(np.concatenate([first, ~first], axis=1), single, 0)
    return np.where((both >= 0).all(axis=1, keepdims=True), both, alone)


def _check_enough(density: NDArray[np.float64]) -> None:
    if len(density) < _FEWEST:
        raise NoTissueError(
            f"only {len(density)} stained pixels found; estimating stain colours needs at least {_FEWEST}",
            remedy="Score this slide without stain normalisation",
        )

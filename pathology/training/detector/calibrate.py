"""Calibrate detector confidence to the probability that a candidate is a mitosis.

The probability is valid for candidates like those of the fit: the fraction of mitoses among candidates depends on the
tissue as well as on the detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pathology.errors import UsageError
from pathology.evaluation.detector import Image
from pathology.findings.detections import match_by_distance
from pathology.stats.classification import expected_calibration_error

__all__ = ["Candidates", "calibrate", "candidates_of", "fit_platt"]

_LEAST = 1e-6
"""Confidences are clipped this far from 0 and 1, where the logit is undefined."""


@dataclass(frozen=True)
class Candidates:
    """Labelled candidates of several images.

    Attributes
    ----------
    scores
        ``(N,)`` confidences.
    hits
        ``(N,)`` whether each is a mitosis.
    slides
        ``(N,)`` slide of each.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    slides: NDArray[np.str_]

    def brier(self) -> float:
        """Return the Brier score (Brier 1950)."""
        return float(np.mean((self.scores - self.hits) ** 2))

    def calibration_error(self, bins: int = 10) -> float:
        """Return the expected calibration error of the predicted class, in equal-width bins (Guo 2017)."""
        chances = np.stack([1 - self.scores, self.scores], axis=1)
        return expected_calibration_error(self.hits.astype(int), chances, bins=bins)

    def interval(self, measure: str, *, repeats: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % percentile interval over resampled slides of ``brier`` or ``calibration_error``."""
        names, place = np.unique(self.slides, return_inverse=True)
        rows = [np.flatnonzero(place == index) for index in range(len(names))]
        generator = np.random.default_rng(seed)
        values = []
        for _ in range(repeats):
            drawn = np.concatenate([rows[i] for i in generator.integers(0, len(names), len(names))])
            values.append(getattr(Candidates(self.scores[drawn], self.hits[drawn], self.slides[drawn]), measure)())
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)


def candidates_of(images: Sequence[Image], distance: float) -> Candidates:
    """Collect all detections of images, labelled by matching with the mitoses.

    Parameters
    ----------
    images
        Images evaluated at a low score threshold.
    distance
        Maximum distance of centres in pixels.
    """
    scores, hits, slides = [np.empty(0)], [np.empty(0, bool)], [np.empty(0, str)]
    for image in images:
        scores.append(image.detections.scores.astype(np.float64))
        hits.append(match_by_distance(image.detections, image.mitoses, distance).reference_of >= 0)
        slides.append(np.full(len(image.detections), image.slide))
    return Candidates(np.concatenate(scores), np.concatenate(hits), np.concatenate(slides))


def fit_platt(candidates: Candidates) -> tuple[float, float]:
    """Fit slope and intercept on the logit of the confidence by maximum likelihood (Platt 1999).

    Returns
    -------
    tuple of float
        Slope and intercept for :func:`pathology.inference.engines.detector.calibrated`.

    Raises
    ------
    UsageError
        If all candidates are mitoses, or none are.
    """
    if candidates.hits.all() or not candidates.hits.any():
        raise UsageError("calibration requires both mitoses and non-mitoses among the candidates")
    model = LogisticRegression(C=1e12).fit(_logit(candidates.scores)[:, None], candidates.hits)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def calibrate(scores: NDArray[np.floating], calibration: tuple[float, float]) -> NDArray[np.float64]:
    """Return ``sigmoid(slope logit(score) + intercept)``."""
    slope, intercept = calibration
    result: NDArray[np.float64] = 1 / (1 + np.exp(-(slope * _logit(scores) + intercept)))
    return result


def _logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    kept = np.clip(np.asarray(scores, np.float64), _LEAST, 1 - _LEAST)
    result: NDArray[np.float64] = np.log(kept / (1 - kept))
    return result

"""Detector metrics: counts, rates with intervals, and sensitivity against false positives per mm²."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.findings.detections import Detections, match_by_distance
from pathology.stats.intervals import wilson

__all__ = ["Froc", "Image", "Rates", "count_rates", "froc", "intervals_by_slide", "rates", "threshold_of_best_f1"]


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    interval = wilson(successes, trials)
    return interval.low, interval.high


@dataclass(frozen=True, slots=True)
class Rates:
    """Precision, recall and F1 with their 95 % intervals.

    Attributes
    ----------
    true_positives, false_positives, false_negatives
        Counts.
    precision, recall, f1
        NaN if undefined.
    precision_interval, recall_interval, f1_interval
        Wilson intervals; for F1, that of the Jaccard index ``J = TP / (TP + FP + FN)``, a proportion, transformed
        by ``F1 = 2 J / (1 + J)``.  They assume independent objects; for slides with many mitoses see
        :func:`intervals_by_slide`.
    """

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """``TP / (TP + FP)``."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """``TP / (TP + FN)``."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """``2 TP / (2 TP + FP + FN)``."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def precision_interval(self) -> tuple[float, float]:
        """Wilson, 95 %."""
        return _wilson(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """Wilson, 95 %."""
        return _wilson(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1_interval(self) -> tuple[float, float]:
        """Wilson interval of the Jaccard index, as F1, 95 %."""
        low, high = _wilson(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)
        return 2 * low / (1 + low), 2 * high / (1 + high)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def count_rates(true_positives: int, false_positives: int, false_negatives: int) -> Rates:
    """Return the rates computed from counts.

    Raises
    ------
    UsageError
        If a count is negative.
    """
    if min(true_positives, false_positives, false_negatives) < 0:
        raise UsageError("counts cannot be negative")
    return Rates(true_positives, false_positives, false_negatives)


@dataclass(frozen=True, slots=True)
class Image:
    """One evaluated image.

    Attributes
    ----------
    slide
        Slide the image was cropped from; images of one slide are resampled together.
    detections
        Detections at any score.
    mitoses
        ``(M, 2)`` reference centres in the same pixel coordinates.
    area_mm2
        Evaluated area.
    """

    slide: str
    detections: Detections
    mitoses: NDArray[np.floating]
    area_mm2: float


def rates(images: Sequence[Image], threshold: float, distance: float) -> Rates:
    """Return the rates at a score threshold; detections are matched one to one within a distance in pixels.

    Examples
    --------
    >>> from pathology.findings import Detections
    >>> boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    >>> found = Detections(boxes, np.array([0.9, 0.4], np.float32))
    >>> images = [Image("S1", found, np.array([[6.0, 5.0]]), area_mm2=1.0)]
    >>> rates(images, threshold=0.5, distance=8.0).precision
    1.0
    """
    counts = np.zeros(3, int)
    for image in images:
        matches = match_by_distance(image.detections.at_least(threshold), image.mitoses, distance)
        counts += (matches.true_positives, matches.false_positives, matches.false_negatives)
    return count_rates(*(int(c) for c in counts))


def _ranked(images: Sequence[Image], distance: float) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return all scores, whether each is a mitosis, and the number of mitoses.

    Detections are matched in descending score order, so excluding those below a threshold changes no other match.
    """
    scores: list[NDArray[np.float32]] = []
    hits: list[NDArray[np.bool_]] = []
    for image in images:
        scores.append(image.detections.scores)
        hits.append(match_by_distance(image.detections, image.mitoses, distance).reference_of >= 0)
    total = sum(len(image.mitoses) for image in images)
    if not scores:
        return np.empty(0), np.empty(0, bool), total
    return np.concatenate(scores).astype(np.float64), np.concatenate(hits), total


def threshold_of_best_f1(images: Sequence[Image], distance: float) -> tuple[float, float]:
    """Return the score threshold with the highest F1, and that F1; ``(1.0, 0.0)`` without detections."""
    scores, hits, total = _ranked(images, distance)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    if not hits.any():
        return 1.0, 0.0
    found = np.cumsum(hits)
    f1 = 2 * found / (np.arange(1, len(hits) + 1) + total)
    # A threshold cannot separate equal scores.
    last = np.append(scores[1:] != scores[:-1], True)
    best = int(np.where(last, f1, -1).argmax())
    return float(scores[best]), float(f1[best])


@dataclass(frozen=True, slots=True)
class Froc:
    """Free-response operating characteristic.

    Attributes
    ----------
    thresholds
        ``(K,)`` scores in descending order.
    sensitivity
        ``(K,)`` fraction of mitoses detected at or above each threshold.
    false_positives_per_mm2
        ``(K,)`` false positives at or above each threshold, per mm².
    """

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    false_positives_per_mm2: NDArray[np.float64]

    def sensitivity_at(self, false_positives_per_mm2: float) -> float:
        """Return the highest sensitivity with at most that many false positives per mm²; 0 if there is none."""
        usable = self.false_positives_per_mm2 <= false_positives_per_mm2
        return float(self.sensitivity[usable].max(initial=0.0))


def froc(images: Sequence[Image], distance: float) -> Froc:
    """Compute the free-response operating characteristic of a set of images.

    Raises
    ------
    UsageError
        If the images hold no mitosis or no area.

    Examples
    --------
    >>> from pathology.findings import Detections
    >>> boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    >>> found = Detections(boxes, np.array([0.9, 0.4], np.float32))
    >>> curve = froc([Image("S1", found, np.array([[6.0, 5.0]]), area_mm2=1.0)], distance=8.0)
    >>> curve.sensitivity.tolist()
    [1.0, 1.0]
    """
    scores, hits, total = _ranked(images, distance)
    area = sum(image.area_mm2 for image in images)
    if not total or not area > 0:
        raise UsageError("a free-response curve needs at least one mitosis and a positive area")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    return Froc(scores[last], np.cumsum(hits)[last] / total, np.cumsum(~hits)[last] / area)


def intervals_by_slide(
    images: Sequence[Image],
    threshold: float,
    distance: float,
    *,
    repeats: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile intervals of precision, recall and F1 over resampled slides.

    Parameters
    ----------
    images
        Evaluated images; images of one slide are resampled together because they are correlated.
    threshold, distance
        As in :func:`rates`.
    repeats
        Number of resamples.
    level
        Confidence level.
    seed
        Random seed.

    Returns
    -------
    dict
        Lower and upper limits of ``precision``, ``recall`` and ``f1``.

    Raises
    ------
    UsageError
        If there are fewer than two slides.
    """
    by_slide: dict[str, list[Image]] = {}
    for image in images:
        by_slide.setdefault(image.slide, []).append(image)
    if len(by_slide) < 2:
        raise UsageError(f"an interval over slides needs at least two, got {len(by_slide)}")
    each = [rates(by_slide[slide], threshold, distance) for slide in sorted(by_slide)]
    counts = np.array([(r.true_positives, r.false_positives, r.false_negatives) for r in each], np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (repeats, len(counts)))
    found, false, missed = counts[drawn].sum(axis=1).T
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        values = {
            "precision": found / (found + false),
            "recall": found / (found + missed),
            "f1": 2 * found / (2 * found + false + missed),
        }
    # A resample without any detection has no precision.
    limits = {name: np.nanquantile(v, [tail, 1 - tail]) for name, v in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in limits.items()}

"""Boxes on a slide: merged across overlapping windows, and matched with a reference.

A detector runs on overlapping windows, so one mitosis may be detected two or four times.  :func:`suppress` keeps the
box with the highest score for each object, regardless of the window or block it came from and of their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from pathology.errors import UsageError

__all__ = ["MATCH_DISTANCE_UM", "Detections", "Matches", "box_iou", "match_by_distance", "match_by_iou", "suppress"]

MATCH_DISTANCE_UM = 7.5
"""Largest distance between centres, in µm, at which a detection matches a mitosis: the MIDOG challenges' convention
(Aubreville et al. 2023, Med Image Anal 84:102699)."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes with their scores.

    Attributes
    ----------
    boxes
        ``(N, 4)`` float32 ``(left, top, right, bottom)`` in level-0 pixels.
    scores
        ``(N,)`` float32 confidences, 0 to 1.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or self.scores.shape != (len(self.boxes),):
            raise UsageError(
                f"detections: expected (N, 4) boxes and (N,) scores, got {self.boxes.shape}, {self.scores.shape}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centres(self) -> NDArray[np.float64]:
        """``(N, 2)`` centres ``(x, y)`` in level-0 pixels."""
        corners = self.boxes.astype(np.float64)
        result: NDArray[np.float64] = (corners[:, :2] + corners[:, 2:]) / 2
        return result

    def take(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        """Return the selected detections."""
        return Detections(self.boxes[which], self.scores[which])

    def at_least(self, score: float) -> Detections:
        """Return the detections with at least this score."""
        return self.take(self.scores >= score)

    @classmethod
    def none(cls) -> Detections:
        """Return an empty set."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32))

    @classmethod
    def of_patches(cls, outputs: NDArray[np.float32], corners: NDArray[np.integer], scale: float) -> Detections:
        """Return the boxes of many patches in level-0 pixels, before those of overlapping patches are merged.

        Parameters
        ----------
        outputs
            ``(N, K * 5)`` float32: left, top, right, bottom in patch pixels and confidence; rows of zeros are not
            boxes, and patches of NaN could not be read.
        corners
            ``(N, 2)`` level-0 ``(x, y)`` of the patches' top left corners.
        scale
            Level-0 pixels per patch pixel.
        """
        rows = outputs.reshape(len(outputs), -1, 5)
        patch, place = np.nonzero(np.nan_to_num(rows[..., 4]) > 0)
        found = rows[patch, place]
        shift = np.tile(corners[patch].astype(np.float64), 2)
        boxes = found[:, :4].astype(np.float64) * scale + shift
        return cls(boxes.astype(np.float32), found[:, 4])

    @classmethod
    def concatenate(cls, parts: list[Detections]) -> Detections:
        """Concatenate sets of detections."""
        if not parts:
            return cls.none()
        return cls(np.concatenate([p.boxes for p in parts]), np.concatenate([p.scores for p in parts]))


def box_iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of every box of one set with every box of another.

    Parameters
    ----------
    first, second
        ``(N, 4)`` and ``(M, 4)`` as ``(left, top, right, bottom)``.

    Returns
    -------
    numpy.ndarray
        ``(N, M)``; 0 where both areas are 0.
    """
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - overlap
    result: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return result


def suppress(detections: Detections, *, iou: float = 0.4, distance: float = 0.0) -> Detections:
    """Keep the highest-scoring of overlapping boxes (greedy non-maximum suppression).

    Parameters
    ----------
    detections
        From any number of windows, in any order.
    iou
        A box that overlaps a higher-scoring one by more than this is dropped.
    distance
        In level-0 pixels: a box whose centre lies within this distance of a higher-scoring one's is also dropped.  A
        box truncated at the edge of a window overlaps its complete counterpart from the next window too little.

    Returns
    -------
    Detections
        By decreasing score; ties by position, so that the order of the windows has no effect.

    Examples
    --------
    >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    >>> len(suppress(Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32))))
    2
    """
    if not len(detections):
        return detections
    centres = detections.centres
    order = np.lexsort((centres[:, 0], centres[:, 1], -detections.scores))
    boxes, centres = detections.boxes[order].astype(np.float64), centres[order]
    # The centres of overlapping boxes are no further apart than the mean of their sizes.
    reach = max(float((boxes[:, 2:] - boxes[:, :2]).max(initial=0)), distance)
    tree = scipy.spatial.cKDTree(centres)
    dropped = np.zeros(len(order), bool)
    for index in range(len(order)):
        if dropped[index]:
            continue
        near = np.array(tree.query_ball_point(centres[index], reach, p=np.inf), np.intp)
        near = near[(near > index) & ~dropped[near]]
        if not len(near):
            continue
        same = box_iou(boxes[index : index + 1], boxes[near])[0] > iou
        if distance > 0:
            same |= np.hypot(*(centres[near] - centres[index]).T) <= distance
        dropped[near[same]] = True
    return detections.take(order[~dropped])


@dataclass(frozen=True, slots=True)
class Matches:
    """One-to-one assignment of detections to reference objects.

    Attributes
    ----------
    reference_of
        ``(N,)`` index of each detection's reference object, -1 for a false positive.
    found
        ``(M,)`` whether each reference object was detected.
    """

    reference_of: NDArray[np.intp]
    found: NDArray[np.bool_]

    @property
    def true_positives(self) -> int:
        """Number of reference objects detected."""
        return int(self.found.sum())

    @property
    def false_positives(self) -> int:
        """Number of detections without a reference object."""
        return int((self.reference_of < 0).sum())

    @property
    def false_negatives(self) -> int:
        """Number of reference objects missed."""
        return int((~self.found).sum())


def _match(scores: NDArray[np.floating], closeness: NDArray[np.float64], least: float) -> Matches:
    """Assign to each detection, highest score first, the closest reference object not yet assigned."""
    count, references = closeness.shape
    reference_of = np.full(count, -1, np.intp)
    found = np.zeros(references, bool)
    if references:
        for index in np.argsort(-np.asarray(scores), kind="stable"):
            free = np.where(found, -np.inf, closeness[index])
            best = int(free.argmax())
            if free[best] >= least:
                reference_of[index], found[best] = best, True
    return Matches(reference_of, found)


def match_by_distance(detections: Detections, reference: NDArray[np.floating], distance: float) -> Matches:
    """Match detections one to one with reference points, by distance between centres.

    Parameters
    ----------
    detections
        Of one slide or image.
    reference
        ``(M, 2)`` centres ``(x, y)`` in the same pixels.
    distance
        Largest distance in these pixels; :data:`MATCH_DISTANCE_UM` ``/ mpp`` for the MIDOG convention.

    Returns
    -------
    Matches
        Each detection, highest score first, takes the nearest object not yet assigned.

    Examples
    --------
    >>> boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    >>> found = Detections(boxes, np.array([0.9, 0.4], np.float32))
    >>> matches = match_by_distance(found, np.array([[6.0, 5.0]]), distance=8)
    >>> matches.true_positives, matches.false_positives, matches.false_negatives
    (1, 1, 0)
    """
    away = detections.centres[:, None] - np.asarray(reference, np.float64).reshape(-1, 2)[None]
    return _match(detections.scores, -np.hypot(away[..., 0], away[..., 1]), -distance)


def match_by_iou(detections: Detections, reference: NDArray[np.floating], iou: float = 0.5) -> Matches:
    """Match detections one to one with reference boxes, by intersection over union.

    Parameters
    ----------
    detections
        Of one slide or image.
    reference
        ``(M, 4)`` boxes ``(left, top, right, bottom)``.
    iou
        Smallest intersection over union of a match.

    Examples
    --------
    >>> found = Detections(np.array([[0, 0, 10, 10]], np.float32), np.array([0.9], np.float32))
    >>> match_by_iou(found, np.array([[1.0, 0.0, 11.0, 10.0]]), iou=0.5).true_positives
    1
    """
    boxes = np.asarray(reference, np.float64).reshape(-1, 4)
    return _match(detections.scores, box_iou(detections.boxes, boxes), iou)

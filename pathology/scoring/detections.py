"""Detections of a slide from the boxes of its patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathology.findings.detections import Detections, suppress
from pathology.findings.slide_detections import DetectionClass, DetectionHeader, SlideDetections
from pathology.outputs.figures.palette import class_colours
from pathology.scoring.region import within

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.tiling.plan import TilePlan

__all__ = ["DetectorOutputs", "patch_scores", "slide_detections", "split_outputs"]


@dataclass(frozen=True, eq=False)
class DetectorOutputs:
    """A detector's outputs for a slide.

    Attributes
    ----------
    boxes
        ``(N, K * 5)`` float32 boxes of the patches; rows of NaN could not be read.
    domain_scores
        ``(N,)`` out-of-distribution score of each patch, NaN where it could not be read; ``None``: the model has none.
    """

    boxes: NDArray[np.float32]
    domain_scores: NDArray[np.float32] | None = None


def split_outputs(card: Card, outputs: NDArray[np.float32]) -> DetectorOutputs:
    """Split an engine's outputs into boxes and out-of-distribution scores.

    Parameters
    ----------
    card
        A detector.
    outputs
        ``(N, K * 5)`` or, if the card has an out-of-distribution rule, ``(N, K * 5 + 1)`` float32.
    """
    if card.trust is None or card.trust.out_of_domain is None:
        return DetectorOutputs(outputs)
    return DetectorOutputs(np.ascontiguousarray(outputs[:, :-1]), outputs[:, -1])


def patch_scores(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the highest box score of each patch, ``(N, 1)``; NaN where the patch could not be read."""
    result: NDArray[np.float32] = outputs.reshape(len(outputs), outputs.shape[1] // 5, 5)[..., 4].max(
        axis=1, initial=0.0
    )[:, None]
    return result


def slide_detections(
    card: Card,
    plan: TilePlan,
    outputs: NDArray[np.float32],
    *,
    slide_id: str,
    fingerprint: str,
    region: NDArray[np.bool_] | None = None,
) -> SlideDetections:
    """Merge the boxes of all patches of a slide.

    Parameters
    ----------
    card
        The detector's card.
    plan
        The patches.
    outputs
        ``(N, K * 5)`` float32, as returned by a detector's engine.
    slide_id, fingerprint
        Of the slide.
    region
        ``(rows, columns)`` bool over the whole slide: detections elsewhere are discarded.

    Returns
    -------
    SlideDetections
        Each object once, by decreasing score, regardless of the patches and blocks it was detected in.
    """
    assert card.detection is not None
    rules, grid = card.detection, plan.grid
    boxes = Detections.of_patches(outputs, plan.coords, grid.scale)
    found = suppress(boxes, iou=rules.overlap, distance=rules.distance_um / grid.slide_mpp)
    width, height = grid.dimensions
    centres = found.centres
    # Patches at the right and bottom extend beyond the slide boundary.
    found = found.take(np.flatnonzero(((centres >= 0) & (centres < (width, height))).all(axis=1)))
    if region is not None:
        found = found.take(within(found.centres, region, grid.dimensions))
    header = DetectionHeader(
        slide_id=slide_id,
        fingerprint=fingerprint,
        model=f"{card.name} {card.version}",
        model_sha256=card.weights_sha256,
        classes=tuple(
            DetectionClass(name=name, colour=colour)
            for name, colour in zip(card.classes, class_colours(card), strict=True)
        ),
        threshold=rules.threshold,
    )
    return SlideDetections(header, found, np.zeros(len(found), np.uint8))

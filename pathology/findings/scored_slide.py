"""The complete result of one slide, from which tables, reports, maps and exports are written.

It is computed once, in :mod:`pathology.scoring.decide`, and never changed.  Writers make no decisions, open no slide
and load no model, so that all outputs agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from pathology.bundle.card import Card
from pathology.findings.slide_detections import SlideDetections
from pathology.findings.slide_result import SlideResult
from pathology.tiling.plan import TilePlan

__all__ = ["DetectionCrop", "RepresentativePatch", "ScoredSlide"]


@dataclass(frozen=True, eq=False)
class DetectionCrop:
    """An image of one detection in the hotspot.

    Attributes
    ----------
    row
        In ``detections.parquet``.
    score
        Of the detector.
    pixels
        ``(96, 96, 3)`` uint8 RGB.
    """

    row: int
    score: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RepresentativePatch:
    """An image of one of the patches with the highest probability of a class.

    Attributes
    ----------
    row
        In ``predictions.zarr``.
    name
        The class.
    probability
        Of that class.
    attention
        Its weight in a trained aggregator's prediction, as a multiple of the mean weight; ``None`` without one.
    pixels
        ``(168, 168, 3)`` uint8 RGB.
    """

    row: int
    name: str
    probability: float
    attention: float | None
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ScoredSlide:
    """One scored slide.

    Attributes
    ----------
    result
        The record behind ``slide.json``: aggregation, abstention and its reason, counts, hotspot, caveats.
    card
        The model.
    made
        When the result was computed, with time zone.
    plan
        The patches.
    probabilities
        ``(N, C)`` float32 class probabilities of the patches (for a detector ``(N, 1)``: the highest score in each);
        rows of NaN could not be read.
    masks
        Over the whole slide, each ``(rows, columns)`` bool at its own scale: ``tissue``, and the artefacts.
    overview
        ``(H, W, 3)`` uint8 image of the whole slide.
    attention
        ``(N,)`` weight of each patch in a trained aggregator's prediction, NaN where it could not be read; ``None``
        without one.
    domain_scores
        ``(N,)`` out-of-distribution score of each patch, NaN where it could not be read; ``None`` if the model has
        none.
    detections
        Detections; ``None`` for a classifier.
    crops
        The detections in the hotspot, by decreasing score.
    representative
        The patches with the highest probability of each class.
    """

    result: SlideResult
    card: Card
    made: datetime
    plan: TilePlan
    probabilities: NDArray[np.float32]
    masks: Mapping[str, NDArray[np.bool_]]
    overview: NDArray[np.uint8]
    attention: NDArray[np.floating] | None = None
    domain_scores: NDArray[np.floating] | None = None
    detections: SlideDetections | None = None
    crops: tuple[DetectionCrop, ...] = ()
    representative: tuple[RepresentativePatch, ...] = ()

"""Computation of a slide's result: aggregation, abstention, count, hotspot and images; writers only write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology.findings.abstention import assess_domain, assess_trust
from pathology.findings.aggregation import aggregate
from pathology.findings.mitotic_count import SlideMitoses, TissueMap, count_mitoses
from pathology.findings.reviewed_count import HOTSPOT_LIMIT
from pathology.findings.scored_slide import DetectionCrop, RepresentativePatch, ScoredSlide
from pathology.findings.slide_result import ClassFinding, SlideResult
from pathology.outputs.figures.palette import class_colours
from pathology.scoring.crops import cut_detections, cut_representative, representative_rows
from pathology.scoring.detections import DetectorOutputs, patch_scores
from pathology.slide.tissue.unreadable import check_unreadable, unreadable_warning

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.findings.slide_detections import SlideDetections
    from pathology.scoring.aggregate import ClassifierOutputs
    from pathology.slide.readers.base import SlideReader
    from pathology.tiling.plan import TilePlan

__all__ = ["SlideFacts", "decide_classified", "decide_detected"]


@dataclass(frozen=True, eq=False)
class SlideFacts:
    """What is known about a slide before its result is computed.

    Attributes
    ----------
    record
        Fields of :class:`~pathology.findings.slide_result.SlideResult` that do not depend on the model: identity,
        scale, reader, timing, warnings.
    plan
        Its patches.
    overview
        ``(H, W, 3)`` uint8 image of the whole slide.
    masks
        Over the whole slide, each ``(rows, columns)`` bool at its own scale: ``tissue``, and the artefacts.
    """

    record: Mapping[str, Any]
    plan: TilePlan
    overview: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.bool_]]
    unreadable_mm2: float = 0.0
    """Estimated area in mm² of tissue that could not be read when tissue was sought."""
    max_unreadable: float = 0.2
    """Largest unreadable fraction of the tissue area, 0 to 1; above it, the slide fails."""


def decide_classified(
    card: Card, facts: SlideFacts, found: ClassifierOutputs, reader: SlideReader | None = None
) -> ScoredSlide:
    """Compute the result of a classifier for a slide.

    Parameters
    ----------
    card
        The model.
    facts
        What is known about the slide.
    found
        The model's outputs.
    reader
        The slide, for images of its top-scoring patches; ``None``: no images.

    Raises
    ------
    CorruptSlideError
        If too much of the tissue could not be read.
    NoTissueError
        If no patch has probabilities.
    """
    plan, probabilities = facts.plan, found.probabilities
    record = _with_unreadable(facts, probabilities)
    whole = aggregate(probabilities, plan.tissue, plan.grid.settings, found.of_slide)
    trust = assess_trust(card, whole.probabilities, found.domain_scores, aggregator=found.aggregator)
    result = SlideResult(
        status="abstained" if trust.because else "scored",
        prediction=None if trust.because else card.classes[whole.predicted],
        most_probable_class=card.classes[whole.predicted],
        classes=tuple(
            ClassFinding(name=name, colour=colour, probability=float(p), share=float(s), area_mm2=float(a))
            for name, colour, p, s, a in zip(
                card.classes, class_colours(card), whole.probabilities, whole.shares, whole.areas_mm2, strict=True
            )
        ),
        abstained_because=trust.because,
        prediction_set=trust.prediction_set,
        out_of_domain=trust.out_of_domain,
        domain_score=trust.domain_score,
        patches=whole.scored,
        patches_total=len(plan),
        masked_patches=whole.masked,
        **record,
    )
    pictures: tuple[RepresentativePatch, ...] = ()
    if reader is not None:
        extent = plan.grid.patch_extent
        rows = representative_rows(probabilities, plan.coords, extent)
        pictures = cut_representative(reader, rows, card.classes, probabilities, plan.coords, extent, found.attention)
    return ScoredSlide(
        result,
        card,
        datetime.now(UTC),
        plan,
        probabilities,
        facts.masks,
        facts.overview,
        attention=found.attention,
        domain_scores=found.domain_scores,
        representative=pictures,
    )


def decide_detected(
    card: Card,
    facts: SlideFacts,
    outputs: DetectorOutputs,
    detections: SlideDetections,
    reader: SlideReader | None = None,
) -> ScoredSlide:
    """Compute the result of a detector for a slide: a count, without a predicted class.

    Parameters
    ----------
    card
        The model.
    facts
        What is known about the slide.
    outputs
        The model's outputs.
    detections
        The boxes of all patches, merged; see :func:`pathology.scoring.detections.slide_detections`.
    reader
        The slide, for images of the detections in the hotspot; ``None``: no images.

    Raises
    ------
    CorruptSlideError
        If too much of the tissue could not be read.
    NoTissueError
        If no patch could be read.
    """
    plan, scores = facts.plan, patch_scores(outputs.boxes)
    record = _with_unreadable(facts, scores)
    whole = aggregate(scores, plan.tissue, plan.grid.settings)
    count = _count(detections, facts, scores)
    if count.total > HOTSPOT_LIMIT:
        record["warnings"] = (
            *record.get("warnings", ()),
            f"{count.total:,} detections count as mitoses, an implausible number: the model does not suit this "
            "slide, and no hotspot was determined",
        )
    window = detections.header.window.area_mm2
    if count.hotspot is not None and (record.get("tissue_mm2") or window) < window:
        record["warnings"] = (
            *record.get("warnings", ()),
            f"the slide has {record['tissue_mm2']:.3g} mm² of tissue, less than the hotspot window of {window:.4g} mm²",
        )
    domain = assess_domain(card, outputs.domain_scores)
    result = SlideResult(
        status="abstained" if domain.because else "scored",
        abstained_because=domain.because,
        out_of_domain=domain.outside,
        domain_score=domain.score,
        patches=whole.scored,
        patches_total=len(plan),
        masked_patches=whole.masked,
        mitoses=count,
        **record,
    )
    crops: tuple[DetectionCrop, ...] = ()
    if reader is not None and count.hotspot is not None:
        crops = cut_detections(reader, detections, count.hotspot.members, plan.grid.slide_mpp)
    return ScoredSlide(
        result,
        card,
        datetime.now(UTC),
        plan,
        scores,
        facts.masks,
        facts.overview,
        domain_scores=outputs.domain_scores,
        detections=detections,
        crops=crops,
    )


def _with_unreadable(facts: SlideFacts, scores: NDArray[np.floating]) -> dict[str, Any]:
    """Return the record with a warning of what could not be read, or raise if that is too much."""
    record, tissue = dict(facts.record), facts.plan.tissue
    lost = np.isnan(scores).any(axis=1)
    area, whole = record.get("tissue_mm2") or 0.0, float(tissue.sum())
    # Patches that could not be read count by their part of the tissue found.
    masked = area * float(tissue[lost].sum()) / whole if whole else 0.0
    unreadable = facts.unreadable_mm2 + masked
    check_unreadable(area - masked, unreadable, facts.max_unreadable, where=record.get("path"))
    said = unreadable_warning(area - masked, unreadable, record.get("unreadable_tiles", 0))
    record["warnings"] = (*record.get("warnings", ()), *said)
    return record


def _count(detections: SlideDetections, facts: SlideFacts, scores: NDArray[np.floating]) -> SlideMitoses:
    rows = np.flatnonzero(detections.counted())
    grid = facts.plan.grid
    tissue, share = TissueMap(facts.masks["tissue"], grid.dimensions).without_unread(
        facts.plan.coords, grid.patch_extent, np.isnan(scores).any(axis=1)
    )
    tissue_mm2 = (facts.record.get("tissue_mm2") or 0.0) * share or None
    many = len(rows) > HOTSPOT_LIMIT
    count = count_mitoses(
        detections.found.centres[rows[:0] if many else rows],
        facts.plan.grid.slide_mpp,
        window=detections.header.window,
        tissue_mm2=tissue_mm2,
        tissue=tissue,
    )
    if many:
        density = None if tissue_mm2 is None else len(rows) / tissue_mm2
        count = count.model_copy(update={"total": len(rows), "overall_per_mm2": density})
    if count.hotspot is not None:
        members = tuple(int(rows[member]) for member in count.hotspot.members)
        count = count.model_copy(update={"hotspot": count.hotspot.model_copy(update={"members": members})})
    return SlideMitoses(threshold=detections.header.threshold, candidates=len(detections), **dict(count))

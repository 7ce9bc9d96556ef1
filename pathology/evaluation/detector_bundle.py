"""Evaluate a detector on annotated slides and fields, scored exactly as by ``pathology score``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.annotations.check import AnnotatedSlide
from pathology.atomic_files import write_text
from pathology.bundle.catalogue import Bundle
from pathology.errors import SlideError, UsageError
from pathology.evaluation.detector import Froc, Image, froc
from pathology.findings.detections import MATCH_DISTANCE_UM, Detections, Matches, match_by_distance, match_by_iou
from pathology.findings.mitotic_count import HotspotCount, TissueMap
from pathology.outputs.results.predictions import read_unread_patches
from pathology.outputs.results.results_folder import open_slide_folder
from pathology.progress import Progress
from pathology.scoring.batch import score
from pathology.settings import Record, ScoreSettings
from pathology.stats.intervals import Interval, poisson_interval, wilson

__all__ = ["Agreement", "DetectorEvaluation", "ExaminedSlide", "evaluate_detector", "summarise"]

_IOU: Final = 0.5
_RESAMPLES: Final = 2000


class Agreement(Record):
    """Detections at the model's threshold against the annotated mitoses, by one rule of matching."""

    rule: str
    """When a detection and a mitosis are the same."""
    found: int
    """Mitoses detected."""
    missed: int
    """Mitoses not detected."""
    false: int
    """Detections that are no annotated mitosis."""
    recall: Interval | None
    """``None`` without a mitosis."""
    precision: Interval | None
    """``None`` without a detection."""
    f1: Interval | None
    """``None`` without either."""


class DetectorEvaluation(Record):
    """A detector's figures on one set of annotated slides."""

    name: str
    data: str
    threshold: float
    """Score from which a detection counts, of the model's card."""
    slides: int
    """Slides and fields with figures."""
    mitoses: int
    """Annotated, where the slides were looked at."""
    look_alikes: int
    """Annotated as no mitoses."""
    area_mm2: float
    """Tissue that was looked at and could be read."""
    agreement: tuple[Agreement, ...]
    false_per_mm2: Interval
    """False positives per mm² of tissue, by distance."""
    false_per_mm2_in_hotspots: Interval | None
    """Within the slides' hotspot windows; ``None`` without a hotspot in tissue that was looked at."""
    false_per_mm2_elsewhere: Interval | None
    look_alikes_counted: Interval | None
    """Fraction of the look-alikes that were detected; ``None`` if none is annotated."""
    curve_thresholds: tuple[float, ...] = ()
    """Scores of the free-response curve, falling."""
    curve_recall: tuple[float, ...] = ()
    curve_false_per_mm2: tuple[float, ...] = ()
    regions_only: int = 0
    """Slides of which only regions were looked at; what lies elsewhere is in no figure."""
    not_scored: dict[str, str] = Field(default_factory=dict)
    """Slides in no figure, and why."""


@dataclass(frozen=True, eq=False)
class ExaminedSlide:
    """What the detector found where an annotator looked; all coordinates in µm.

    Attributes
    ----------
    slide_id
        The slide; slides are resampled as wholes.
    detections
        At any score.
    mitoses, look_alikes
        ``(N, 4)`` annotated boxes.
    area_mm2
        Tissue that was looked at and could be read.
    in_hotspot
        ``(N,)`` bool: detections in the hotspot window.
    hotspot_mm2
        Tissue of the hotspot window that was looked at; 0 without one.
    whole
        Whether all of the slide was looked at.
    """

    slide_id: str
    detections: Detections
    mitoses: NDArray[np.float64]
    look_alikes: NDArray[np.float64]
    area_mm2: float
    in_hotspot: NDArray[np.bool_]
    hotspot_mm2: float
    whole: bool = True


def evaluate_detector(
    bundle: Bundle,
    annotated: Sequence[AnnotatedSlide],
    out: Path,
    *,
    name: str = "external",
    data: str = "own slides",
    settings: ScoreSettings | None = None,
    workers: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> DetectorEvaluation:
    """Score annotated slides with a detector and measure it; write ``evaluation.json``.

    Parameters
    ----------
    bundle
        A detector.
    annotated
        From :func:`pathology.annotations.check.check_boxes`.
    out
        Output folder; scores are kept in ``out/scores`` and reused on the next run.
    name, data
        Name of the evaluation and of the data set.
    settings, workers, device, progress
        As in :func:`pathology.scoring.batch.score`.

    Returns
    -------
    DetectorEvaluation
        Only tissue that was looked at enters it.  Slides that cannot be scored are named in it.

    Raises
    ------
    UsageError
        If the bundle is no detector.
    SlideError
        If no slide can be scored.
    """
    if bundle.card.detection is None:
        raise UsageError(f"{bundle.card.name} is no detector", remedy="Evaluate it with --labels")
    manifest = out / "slides.csv"
    _write_manifest(manifest, annotated)
    batch = score(
        [manifest],
        str(bundle.directory),
        out / "scores",
        settings=settings,
        workers=workers,
        device=device,
        progress=progress,
    )
    failed = {result.slide_id: result.error for result in batch.failed}
    if len(failed) == len(annotated):
        first = next(iter(failed))
        raise SlideError(
            f"none of {len(failed)} slides could be scored; first: {first}: {failed[first]}", where=out / "scores"
        )
    examined = [
        _examined(slide, out / "scores" / "slides" / slide.entry.slide_id)
        for slide in annotated
        if slide.entry.slide_id not in failed
    ]
    found = summarise(examined, bundle.card.detection.threshold, name=name, data=data)
    found = found.model_copy(update={"not_scored": failed})
    write_text(out / "evaluation.json", found.model_dump_json(indent=1))
    return found


def _write_manifest(path: Path, annotated: Sequence[AnnotatedSlide]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "slide_id", "patient_id", "mpp"])
        for slide in annotated:
            entry = slide.entry
            place = entry.url or entry.path.resolve()
            table.writerow([place, entry.slide_id, entry.patient_id or "", f"{slide.mpp:.9g}"])


def _examined(slide: AnnotatedSlide, folder: Path) -> ExaminedSlide:
    """Keep what lies where the annotator looked."""
    scored = open_slide_folder(folder)
    assert scored.detections is not None
    found = scored.detections.found
    # A mitosis just inside a region may be detected just outside; other detections there are unknown.
    matched = match_by_distance(found, _centres(slide.mitoses), MATCH_DISTANCE_UM / slide.mpp).reference_of >= 0
    found = found.take(slide.looked_at(found.centres) | matched)
    tissue, _ = TissueMap(scored.tissue.astype(bool), scored.dimensions).without_unread(*read_unread_patches(folder))
    rows, columns = tissue.mask.shape
    across, down = tissue.dimensions[0] / columns, tissue.dimensions[1] / rows
    y, x = np.nonzero(tissue.mask)
    places = np.stack([(x + 0.5) * across, (y + 0.5) * down], axis=1)
    places = places[slide.looked_at(places)]
    each_mm2 = across * down * slide.mpp**2 * 1e-6
    count = scored.record.mitoses
    hotspot = None if count is None else count.hotspot
    return ExaminedSlide(
        slide.entry.slide_id,
        Detections((found.boxes * slide.mpp).astype(np.float32), found.scores),
        slide.mitoses * slide.mpp,
        slide.look_alikes * slide.mpp,
        len(places) * each_mm2,
        _within(found.centres, hotspot),
        float(_within(places, hotspot).sum()) * each_mm2,
        slide.whole,
    )


def _within(points: NDArray[np.float64], hotspot: HotspotCount | None) -> NDArray[np.bool_]:
    if hotspot is None:
        return np.zeros(len(points), bool)
    across = np.abs(points[:, 0] - hotspot.x) / hotspot.half_width
    down = np.abs(points[:, 1] - hotspot.y) / hotspot.half_height
    return (np.hypot(across, down) if hotspot.shape == "circle" else np.maximum(across, down)) <= 1


def summarise(
    slides: Sequence[ExaminedSlide],
    threshold: float,
    *,
    name: str = "external",
    data: str = "own slides",
    seed: int = 0,
) -> DetectorEvaluation:
    """Compute all figures.

    Parameters
    ----------
    slides
        At least one.
    threshold
        Score from which a detection counts.
    name, data
        Of the evaluation and of the data set.
    seed
        Of the resampling of slides.

    Examples
    --------
    >>> found = Detections(np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32), np.array([0.9, 0.8], np.float32))
    >>> seen, none = np.array([[1.0, 0.0, 11.0, 10.0]]), np.empty((0, 4))
    >>> slide = ExaminedSlide("S1", found, seen, none, 2.0, np.array([True, False]), 1.0)
    >>> measured = summarise([slide], 0.5)
    >>> measured.agreement[0].found, measured.agreement[0].false, measured.false_per_mm2.value
    (1, 1, 0.5)
    """
    counted = [slide.detections.at_least(threshold) for slide in slides]
    by_distance = [
        match_by_distance(found, _centres(slide.mitoses), MATCH_DISTANCE_UM)
        for found, slide in zip(counted, slides, strict=True)
    ]
    by_iou = [match_by_iou(found, slide.mitoses, _IOU) for found, slide in zip(counted, slides, strict=True)]
    areas = np.array([slide.area_mm2 for slide in slides])
    if not areas.sum() > 0:
        raise UsageError(
            "no tissue was examined where the slides were looked at", remedy="Check the regions and --min-tissue"
        )
    hot_areas = np.array([slide.hotspot_mm2 for slide in slides])
    hot = np.array(
        [
            ((matches.reference_of < 0) & slide.in_hotspot[slide.detections.scores >= threshold]).sum()
            for matches, slide in zip(by_distance, slides, strict=True)
        ]
    )
    false = np.array([matches.false_positives for matches in by_distance])
    look_alikes = sum(len(slide.look_alikes) for slide in slides)
    taken = sum(
        match_by_distance(
            found.take(matches.reference_of < 0), _centres(slide.look_alikes), MATCH_DISTANCE_UM
        ).true_positives
        for found, matches, slide in zip(counted, by_distance, slides, strict=True)
    )
    curve = _curve(slides)
    return DetectorEvaluation(
        name=name,
        data=data,
        threshold=threshold,
        slides=len(slides),
        mitoses=sum(len(slide.mitoses) for slide in slides),
        look_alikes=look_alikes,
        area_mm2=float(areas.sum()),
        agreement=(
            _agreement(f"centres at most {MATCH_DISTANCE_UM:g} µm apart", by_distance, seed),
            _agreement(f"intersection over union of at least {_IOU:g}", by_iou, seed),
        ),
        false_per_mm2=_rate(false, areas, seed),
        false_per_mm2_in_hotspots=_rate(hot, hot_areas, seed) if hot_areas.sum() > 0 else None,
        false_per_mm2_elsewhere=_rate(false - hot, areas - hot_areas, seed)
        if areas.sum() > hot_areas.sum() > 0
        else None,
        look_alikes_counted=wilson(taken, look_alikes) if look_alikes else None,
        curve_thresholds=() if curve is None else tuple(curve.thresholds.tolist()),
        curve_recall=() if curve is None else tuple(curve.sensitivity.tolist()),
        curve_false_per_mm2=() if curve is None else tuple(curve.false_positives_per_mm2.tolist()),
        regions_only=sum(not slide.whole for slide in slides),
    )


def _centres(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    centres: NDArray[np.float64] = (boxes[:, :2] + boxes[:, 2:]) / 2
    return centres


def _curve(slides: Sequence[ExaminedSlide]) -> Froc | None:
    if not any(len(slide.mitoses) for slide in slides):
        return None
    images = [Image(slide.slide_id, slide.detections, _centres(slide.mitoses), slide.area_mm2) for slide in slides]
    return froc(images, MATCH_DISTANCE_UM)


def _agreement(rule: str, matches: Sequence[Matches], seed: int) -> Agreement:
    counts = np.array([(m.true_positives, m.false_positives, m.false_negatives) for m in matches], np.float64)
    found, false, missed = (int(total) for total in counts.sum(axis=0))
    return Agreement(
        rule=rule,
        found=found,
        missed=missed,
        false=false,
        recall=_interval(counts, (1, 0, 1), seed),
        precision=_interval(counts, (1, 1, 0), seed),
        f1=_interval(counts, (2, 1, 1), seed),
    )


def _rate(counts: NDArray[np.integer], areas: NDArray[np.float64], seed: int) -> Interval:
    """Return events per mm² with an interval that respects that they gather on some slides.

    Resampled slides say how slides differ, and nothing if no slide has an event; Poisson's interval says what the count
    alone allows.  The wider limit of either is taken.
    """
    total, area = int(counts.sum()), float(areas.sum())
    poisson = poisson_interval(total, exposure=area)
    if len(counts) == 1:
        return poisson
    drawn = np.random.default_rng(seed).integers(0, len(counts), (_RESAMPLES, len(counts)))
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = counts[drawn].sum(axis=1) / areas[drawn].sum(axis=1)
    low, high = np.nanquantile(np.where(np.isfinite(resampled), resampled, np.nan), [0.025, 0.975])
    return Interval(
        value=total / area,
        low=min(poisson.low, float(low)),
        high=max(poisson.high, float(high)),
        n=len(counts),
        method=f"the wider of bootstrap by slide ({_RESAMPLES}) and exact Poisson",
    )


def _interval(counts: NDArray[np.float64], weights: tuple[int, int, int], seed: int) -> Interval | None:
    """Return ``w0 TP / (w0 TP + w1 FP + w2 FN)`` with an interval over resampled slides; Wilson's for one slide."""
    parts = counts * weights
    whole = parts.sum()
    if not whole:
        return None
    value = float(parts[:, 0].sum() / whole)
    if len(counts) == 1:
        if weights[0] != 1:  # F1 is no proportion; the Jaccard index TP / (TP + FP + FN) is, and F1 = 2 J / (1 + J)
            jaccard = wilson(int(counts[0, 0]), int(counts[0].sum()))
            low, high = (2 * j / (1 + j) for j in (jaccard.low, jaccard.high))
            return Interval(value=value, low=low, high=high, n=jaccard.n, method="Wilson of the Jaccard index, as F1")
        return wilson(int(parts[0, 0]), int(whole))
    drawn = np.random.default_rng(seed).integers(0, len(counts), (_RESAMPLES, len(counts)))
    sums = parts[drawn].sum(axis=1)
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(sums[:, 0] / sums.sum(axis=1), [0.025, 0.975])
    return Interval(
        value=value,
        low=float(low),
        high=float(high),
        n=len(counts),
        method=f"percentile bootstrap by slide ({_RESAMPLES})",
    )

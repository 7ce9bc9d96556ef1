"""Evaluate a bundle on labelled slides, scored exactly as by ``pathology score``."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pathology.atomic_files import write_text
from pathology.bundle.catalogue import Bundle
from pathology.bundle.export import EVALUATION_NAME
from pathology.errors import BundleError, SlideError, UsageError
from pathology.evaluation.classifier import Evaluation, SlidePrediction, evaluate_slides
from pathology.evaluation.labels import LabelledSlides, read_labels
from pathology.evaluation.report import evaluation_pictures, write_evaluation_report
from pathology.findings.aggregation import RULES
from pathology.findings.slide_result import SlideResult
from pathology.input_files import read_json
from pathology.outputs.results.layout import PREDICTIONS
from pathology.outputs.results.record import read_slide_record
from pathology.progress import Progress
from pathology.reports.page import Cell, Section, Table
from pathology.scoring.batch import score
from pathology.scoring.select import SlideEntry
from pathology.settings import ScoreSettings
from pathology.stats.intervals import wilson

__all__ = ["BundleEvaluation", "evaluate_bundle", "internal_evaluation", "write_bundle_evaluation"]


@dataclass(frozen=True, eq=False)
class BundleEvaluation:
    """Result of a bundle evaluation.

    Attributes
    ----------
    evaluations
        The internal evaluation of the bundle, if available, then the new one.
    predictions
        Predictions of the slides.
    labelled
        Labels and other columns of the slides.
    sections
        Report sections on abstentions.
    rule
        Aggregation rule, a name of :func:`pathology.evaluation.classifier.slide_scores`.
    failed
        Slide and reason of the labelled slides that could not be scored; no metric includes them.
    """

    evaluations: tuple[Evaluation, ...]
    predictions: tuple[SlidePrediction, ...]
    labelled: LabelledSlides
    sections: tuple[Section, ...]
    rule: str
    failed: tuple[tuple[str, str], ...] = ()


def internal_evaluation(bundle: Bundle) -> Evaluation | None:
    """Return the internal evaluation stored in the bundle; ``None`` if there is none."""
    path = bundle.directory / EVALUATION_NAME
    if not path.is_file():
        return None
    record = read_json(path, BundleError)
    return Evaluation.model_validate(record["internal"]) if "internal" in record else None


def evaluate_bundle(
    bundle: Bundle,
    slides: Sequence[SlideEntry],
    labels: Path,
    out: Path,
    *,
    name: str = "external",
    data: str = "own slides",
    settings: ScoreSettings | None = None,
    mpp: float | None = None,
    workers: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> BundleEvaluation:
    """Score labelled slides with a bundle, compute metrics, and write tables, figures and a report.

    Parameters
    ----------
    bundle
        A classifier.
    slides, labels
        Available slides and their label table.
    out
        Output folder; scores are stored in ``out/scores`` and reused on the next run.
    name, data
        Name of the evaluation and of the data set.
    settings
        Scoring settings.
    mpp, workers, device, progress
        As in :func:`pathology.scoring.batch.score`.

    Returns
    -------
    BundleEvaluation
        The new evaluation and the internal one.

    Raises
    ------
    UsageError
        If the bundle is a detector.
    InputTableError
        If the labels do not fit the slides or the bundle's classes.
    SlideError
        If no slide can be scored.  Others that cannot are named in the result, and the metrics are those of the rest.
    """
    card = bundle.card
    if card.task != "classification":
        raise UsageError(f"{card.name} is a detector", remedy="Give --boxes instead of --labels")
    own = internal_evaluation(bundle)
    if own is not None and own.name == name:
        raise UsageError(f"{name!r} is the name of the internal evaluation", remedy="Choose another --name")
    labelled = read_labels(labels, slides, card.classes)
    aggregator = (settings or ScoreSettings()).aggregator
    manifest = out / "slides.csv"
    _write_manifest(manifest, labelled)
    batch = score(
        [manifest],
        str(bundle.directory),
        out / "scores",
        settings=settings,
        mpp=mpp,
        workers=workers,
        device=device,
        progress=progress,
    )
    failed = {result.slide_id: result.error for result in batch.failed}
    failed |= dict.fromkeys(_without_patches(out, labelled, failed), "no readable patch")
    if len(failed) == len(labelled):
        first = next(iter(failed))
        raise SlideError(
            f"none of {len(failed)} slides could be scored; first: {first}: {failed[first]}",
            where=out / "scores",
            remedy="Repair them or remove them from the label table, then repeat the command to resume",
        )
    labelled = replace(labelled, slides=tuple(s for s in labelled.slides if s.slide_id not in failed))
    results = {slide.slide_id: _result(out, slide.slide_id) for slide in labelled.slides}
    predictions = tuple(
        SlidePrediction(
            slide.slide_id,
            slide.patient_id,
            slide.label,
            _patches(out, slide.slide_id),
            np.array([found.probability for found in results[slide.slide_id].classes]),
        )
        for slide in labelled.slides
    )
    # Thresholds are valid only for the aggregator they were fitted with.
    rule = aggregator if aggregator in RULES else "model"
    fitted_for = card.trust.aggregator if card.trust is not None else "mean"
    evaluation = evaluate_slides(
        predictions,
        card.classes,
        name=name,
        data=data,
        thresholds=card.calibration.get("thresholds") if aggregator == fitted_for else None,
        threshold_rule=rule,
    ).model_copy(update={"not_scored": len(failed)})
    sections = (_declined(labelled, results),)
    write_text(out / "evaluation.json", evaluation.model_dump_json(indent=1))
    shown = (own, evaluation) if own is not None and own.classes == card.classes else (evaluation,)
    return BundleEvaluation(shown, predictions, labelled, sections, rule, tuple(failed.items()))


def write_bundle_evaluation(
    found: BundleEvaluation, bundle: Bundle, out: Path, *, extra: Sequence[Section] = (), warnings: Sequence[str] = ()
) -> Path:
    """Write the figures and the report of an evaluation; return the path of the report."""
    page = out / "report.html"
    write_evaluation_report(
        page,
        f"Evaluation of {bundle.card.name} {bundle.card.version}",
        found.evaluations,
        evaluation_pictures(
            out / "pictures",
            found.evaluations[-1],
            found.predictions,
            rule=found.rule,
            temperature=bundle.card.calibration.get("temperature"),
        ),
        rule=found.rule,
        extra=[*found.sections, *extra],
        warnings=[*_not_scored(found), *warnings],
    )
    return page


def _not_scored(found: BundleEvaluation) -> list[str]:
    """Say which slides no metric includes: those that fail are seldom a random sample."""
    if not found.failed:
        return []
    total = len(found.failed) + len(found.labelled)
    named = "; ".join(f"{slide}: {reason}" for slide, reason in found.failed)
    return [f"{len(found.failed)} of {total} labelled slides could not be scored; no metric includes them. {named}"]


def _without_patches(out: Path, labelled: LabelledSlides, failed: Mapping[str, str]) -> list[str]:
    scored = [slide.slide_id for slide in labelled.slides if slide.slide_id not in failed]
    return [name for name in scored if np.isnan(_patches(out, name)).any(axis=1).all()]


def _write_manifest(path: Path, labelled: LabelledSlides) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "slide_id", "patient_id", "mpp"])
        table.writerows([s.path.resolve(), s.slide_id, s.patient_id, s.mpp or ""] for s in labelled.slides)


def _result(out: Path, slide_id: str) -> SlideResult:
    return read_slide_record(out / "scores" / "slides" / slide_id).result


def _patches(out: Path, slide_id: str) -> Any:  # noqa: ANN401 - a numpy array; zarr has no types for it
    group = zarr.open_group(out / "scores" / "slides" / slide_id / PREDICTIONS, mode="r")
    return np.asarray(group["probabilities"][...])  # type: ignore[index]


def _declined(labelled: LabelledSlides, results: dict[str, SlideResult]) -> Section:
    """Return the abstention rate and the accuracy of the remaining predictions."""
    classes = labelled.classes
    answered = [s for s in labelled.slides if not results[s.slide_id].abstained]
    right = sum(results[s.slide_id].prediction == classes[s.label] for s in answered)
    share = wilson(len(answered), len(labelled))
    rows = [(Cell(value="slides with a prediction"), Cell(value=str(share)))]
    if answered:
        rows.append((Cell(value="accuracy on those slides"), Cell(value=str(wilson(right, len(answered))))))
    return Section(
        heading="Predictions and abstentions",
        text="The model abstains if the prediction set does not contain exactly one class or the slide is"
        " out of distribution.",
        table=Table(head=("", "share"), rows=tuple(rows)),
    )

"""``pathology evaluate``: a bundle on labelled slides; ``pathology readers``: readers with and without AI."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pathology.cli.display import shown_progress

__all__ = ["run", "run_detector", "run_readers"]


def run(
    model: str,
    slides: list[Path],
    labels: Path,
    out: Path,
    *,
    name: str,
    data: str,
    mpp: float | None,
    min_tissue: float,
    workers: int | None,
    device: str | None,
    aggregator: str | None,
    time: str | None,
    event: str | None,
    covariates: str | None,
) -> int:
    """Evaluate and return the exit status."""
    from pathology.atomic_files import write_text
    from pathology.bundle.catalogue import load_bundle
    from pathology.errors import UsageError
    from pathology.evaluation.bundle import evaluate_bundle, write_bundle_evaluation
    from pathology.evaluation.risk import patient_risks, risk_report, risk_section
    from pathology.scoring.select import select_slides
    from pathology.settings import ScoreSettings
    from pathology.survival.groups import RiskGroups

    if (time is None) != (event is None):
        raise UsageError("--time and --event must be given together")
    bundle = load_bundle(model)
    if bundle.card.detection is not None:
        raise UsageError(f"{bundle.card.name} is a detector", remedy="Give --boxes instead of --labels")
    groups = bundle.card.calibration.get("risk_groups")
    if time is not None and groups is None:
        raise UsageError(
            f"{bundle.card.name} has no risk cut-off", remedy="Evaluate a two-class model from 'pathology train'"
        )
    fitted_for = bundle.card.trust.aggregator if bundle.card.trust is not None else "mean"
    with shown_progress() as display:
        found = evaluate_bundle(
            bundle,
            select_slides(slides),
            labels,
            out,
            name=name,
            data=data,
            settings=ScoreSettings.model_validate({"min_tissue": min_tissue, "aggregator": aggregator or fitted_for}),
            mpp=mpp,
            workers=workers,
            device=device,
            progress=display,
        )
    extra = []
    if time is not None and event is not None:
        cut = RiskGroups.model_validate(groups)
        columns = [part.strip() for part in covariates.split(",")] if covariates else []
        table = patient_risks(found.predictions, found.labelled, [time, event, *columns])
        report = risk_report(table, cut, time=time, event=event, covariates=columns)
        write_text(out / "risk.json", report.model_dump_json(indent=1))
        extra.append(risk_section(table, cut, report, out / "pictures", time=time, event=event))
    page = write_bundle_evaluation(found, bundle, out, extra=extra)
    for evaluation in found.evaluations:
        print(f"{evaluation.name}: {evaluation.slides} slides from {evaluation.patients} patients")
        for rule in ("mean", "share"):
            measured = evaluation.at("slide", rule).report
            areas = ", ".join(
                f"{c} {measured.auc[c].value:.2f} (n = {measured.support[c]})" for c in evaluation.classes
            )
            print(f"  {rule}: balanced accuracy {measured.balanced_accuracy}; AUC {areas}")
    for slide, reason in found.failed:
        print(f"{slide}: not scored, in no metric: {reason}", file=sys.stderr)
    print(f"Report: {page}\nResearch use only.")
    return 1 if found.failed else 0


def run_detector(
    model: str,
    slides: list[Path],
    boxes: list[Path],
    out: Path,
    *,
    classes: list[str],
    box_size: float | None,
    whole: bool,
    skip_missing: bool,
    name: str,
    data: str,
    mpp: float | None,
    min_tissue: float,
    workers: int | None,
    device: str | None,
) -> int:
    """Evaluate a detector and return the exit status."""
    from pathology.annotations.check import check_boxes
    from pathology.annotations.read import read_boxes
    from pathology.bundle.catalogue import load_bundle
    from pathology.cli.mitoses.boxes import meanings
    from pathology.errors import UsageError
    from pathology.evaluation.detector_bundle import evaluate_detector
    from pathology.evaluation.detector_report import warnings_of, write_detector_report
    from pathology.scoring.select import select_slides
    from pathology.settings import ScoreSettings

    bundle = load_bundle(model)
    if bundle.card.detection is None:
        raise UsageError(f"{bundle.card.name} is a classifier", remedy="Give --labels instead of --boxes")
    annotated = check_boxes(
        read_boxes(boxes),
        select_slides(slides),
        classes=meanings(classes),
        mpp=mpp,
        box_um=box_size,
        whole=whole,
        skip_missing=skip_missing,
    )
    with shown_progress() as display:
        found = evaluate_detector(
            bundle,
            annotated,
            out,
            name=name,
            data=data,
            settings=ScoreSettings.model_validate({"min_tissue": min_tissue}),
            workers=workers,
            device=device,
            progress=display,
        )
    page = write_detector_report(found, bundle.card, out)
    slides_read = "1 slide" if found.slides == 1 else f"{found.slides} slides"
    print(
        f"{found.name}: {slides_read}, {found.mitoses} mitoses, {found.area_mm2:.3g} mm² of tissue looked at,"
        f" threshold {found.threshold:.3g}"
    )
    for agreement in found.agreement:
        print(f"  {agreement.rule}:")
        for what in ("recall", "precision", "f1"):
            print(f"    {what}: {getattr(agreement, what) or 'not defined'}")
    print(f"  false positives per mm²: {found.false_per_mm2}")
    for line in warnings_of(found):
        print(f"  {line}", file=sys.stderr)
    print(f"Report: {page}\nResearch use only.")
    return 1 if found.not_scored else 0


def run_readers(table: Path, *, as_json: bool) -> None:
    """Print the results of a reader study."""
    from pathology.evaluation.reader_study import read_reader_study

    study = read_reader_study(table)
    if as_json:
        print(json.dumps(study.model_dump(mode="json"), indent=1))
        return
    print(f"{study.readers} readers, {study.cases} cases")
    print(f"unaided accuracy: {study.unaided}, SD between readers {study.unaided_sd:.3f}")
    print(f"aided accuracy:   {study.aided}, SD between readers {study.aided_sd:.3f}")
    print(f"difference: {study.gain}")
    print(f"paired t test P = {study.t_test.p:.3g}, Wilcoxon P = {study.wilcoxon_p:.3g}")
    for number, test in enumerate(study.by_reader, 1):
        print(f"  reader {number}: {test.difference.value:+.3f}, McNemar P = {test.p:.3g}")

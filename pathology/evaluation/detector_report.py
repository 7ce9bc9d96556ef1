"""The report of a detector's evaluation: figures beside the bundle's own, and the free-response curve."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from pathology.bundle.card import Card
from pathology.evaluation.detector_bundle import Agreement, DetectorEvaluation
from pathology.evaluation.report import metrics_section
from pathology.reports.page import Cell, Section, Table, picture, write_report
from pathology.stats.intervals import Interval

__all__ = ["draw_free_response", "write_detector_report"]

_BLUE: Final = "#0072b2"
_ORANGE: Final = "#d55e00"


def draw_free_response(found: DetectorEvaluation) -> Figure:
    """Draw recall against false positives per mm², and the point of the model's threshold."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.step(found.curve_false_per_mm2, found.curve_recall, where="post", color=_BLUE, label="all thresholds")
    recall = found.agreement[0].recall
    if recall is not None:
        label = f"threshold {found.threshold:.2g}"
        axes.plot(found.false_per_mm2.value, recall.value, "o", color=_ORANGE, markersize=8, label=label)
    axes.set_xlabel("false positives per mm² of tissue")
    axes.set_ylabel("recall")
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def write_detector_report(found: DetectorEvaluation, card: Card, out: Path) -> Path:
    """Write ``report.html`` and its picture; return the page."""
    sections = [_counts(found), *(_agreement(one) for one in found.agreement), _false(found)]
    if found.curve_recall:
        caption = f"Free-response curve, {found.mitoses:,} mitoses on {found.slides:,} slides, {found.area_mm2:.3g} mm²"
        pictures = (picture(draw_free_response(found), out / "pictures" / "free-response", caption),)
        sections.append(Section(heading="Recall and false positives at every threshold", pictures=pictures))
    sections.append(metrics_section("The model's own figures, from its card", card.metrics))
    page = out / "report.html"
    write_report(
        page,
        f"Evaluation of {card.name} {card.version}",
        f"{found.name}: {found.data}. Research use only.",
        sections,
        warnings=warnings_of(found),
    )
    return page


def warnings_of(found: DetectorEvaluation) -> list[str]:
    """Say what the figures do not cover."""
    said = []
    if found.not_scored:
        named = "; ".join(f"{slide}: {reason}" for slide, reason in found.not_scored.items())
        total = found.slides + len(found.not_scored)
        said.append(f"{len(found.not_scored)} of {total} slides could not be scored and are in no figure. {named}")
    if found.regions_only:
        said.append(
            f"Of {found.regions_only} of {found.slides} slides only regions were looked at; the rest is unknown."
        )
    if found.slides == 1:
        said.append("One slide: intervals count objects as independent, which they are not.")
    return said


def _counts(found: DetectorEvaluation) -> Section:
    rows = (
        ("slides and fields", f"{found.slides:,}"),
        ("annotated mitoses", f"{found.mitoses:,}"),
        ("annotated look-alikes", f"{found.look_alikes:,}"),
        ("tissue looked at", f"{found.area_mm2:.3g} mm²"),
        ("score from which a detection counts", f"{found.threshold:.3g}"),
    )
    return Section(
        heading="What was compared",
        table=Table(head=("", ""), rows=tuple((Cell(value=name), Cell(value=value)) for name, value in rows)),
    )


def _agreement(found: Agreement) -> Section:
    rows = (("recall", found.recall), ("precision", found.precision), ("F1", found.f1))
    return Section(
        heading=f"Matched: {found.rule}",
        text=f"{found.found:,} of {found.found + found.missed:,} mitoses were detected; {found.false:,} detections are"
        " no annotated mitosis.",
        table=Table(head=("", "value"), rows=tuple((Cell(value=name), _cell(value)) for name, value in rows)),
        note="Intervals over slides, which are resampled as wholes." if found.recall and found.recall.n > 1 else "",
    )


def _false(found: DetectorEvaluation) -> Section:
    rows = [("all tissue looked at", found.false_per_mm2)]
    rows += [("hotspot windows", found.false_per_mm2_in_hotspots)] if found.false_per_mm2_in_hotspots else []
    rows += [("tissue elsewhere", found.false_per_mm2_elsewhere)] if found.false_per_mm2_elsewhere else []
    rows += [("look-alikes that count, as a fraction", found.look_alikes_counted)] if found.look_alikes_counted else []
    return Section(
        heading="False positives per mm² of tissue",
        table=Table(head=("", "value"), rows=tuple((Cell(value=name), _cell(value)) for name, value in rows)),
        note="Intervals: the wider of resampled slides and of the count alone (exact Poisson). Hotspot windows are"
        " where the detector finds most: false positives gather there too.",
    )


def _cell(value: Interval | None) -> Cell:
    return Cell(value="not defined") if value is None else Cell(value=str(value))

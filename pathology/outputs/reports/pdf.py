"""Reports as PDF, A4: one slide, or a batch, with the same content as the HTML reports.

Every page has the notice and a page number.  Text is set in embedded DejaVu Sans, so that µ, ² and ≥ look the same
everywhere.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from pathology._version import __version__
from pathology.atomic_files import replacing
from pathology.bundle.card import Card
from pathology.extras import missing_extra
from pathology.findings.reviewed_count import ReviewedCount
from pathology.findings.slide_result import SlideResult
from pathology.formatting import (
    MPP_SOURCES,
    RESEARCH_USE_ONLY,
    area,
    duration,
    extent,
    heading,
    percent,
    scale,
    sentence,
)
from pathology.outputs.figures.palette import class_colours
from pathology.outputs.figures.text import drawable
from pathology.outputs.figures.thumbnail import jpeg
from pathology.outputs.reports.mitoses import false_alarms
from pathology.outputs.reports.slide import ReportPictures

try:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.platypus import (
        Flowable,
        Image,
        KeepTogether,
        Paragraph,
        SimpleDocTemplate,
        Spacer,
        Table,
        TableStyle,
    )
except ImportError as error:
    raise missing_extra("writing PDF needs reportlab", "interop") from error

__all__ = ["write_batch_pdf", "write_slide_pdf"]

_FONT, _BOLD = "DejaVuSans", "DejaVuSans-Bold"
_MARGIN: Final = 16 * mm
_PADDING: Final = 6
"""Padding between the margin and the text on each side, in points: reportlab's default."""
_WIDTH: Final = A4[0] - 2 * _MARGIN - 2 * _PADDING
_INK, _GREY, _RULE, _WARNING = (colors.HexColor(c) for c in ("#1b1b1b", "#5a5a5a", "#d9d9d9", "#9a1b1b"))
_MOST_WORDS: Final = 600
"""Largest number of characters per entry; a longer one (a path, an error) would fill a page."""


def _fonts() -> None:
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    for name in (_FONT, _BOLD):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, folder / f"{name}.ttf"))


def _style(size: float, *, bold: bool = False, colour: Any = _INK, before: float = 0, after: float = 2) -> Any:  # noqa: ANN401
    return ParagraphStyle(
        "text",
        fontName=_BOLD if bold else _FONT,
        fontSize=size,
        leading=size * 1.35,
        textColor=colour,
        spaceBefore=before,
        spaceAfter=after,
        splitLongWords=True,
    )


def _text(words: object, size: float = 9, **look: Any) -> Paragraph:
    shown = str(words)
    shown = shown if len(shown) <= _MOST_WORDS else f"{shown[:_MOST_WORDS]} …"
    return Paragraph(escape(drawable(shown, bold=bool(look.get("bold")))), _style(size, **look))


def _heading(words: str) -> list[Flowable]:
    line = Table(
        [[""]], colWidths=[_WIDTH], rowHeights=[1], style=[("LINEABOVE", (0, 0), (-1, 0), 1, _INK)], hAlign="LEFT"
    )
    return [_text(words, 11, bold=True, before=10, after=1), line]


def _grid(
    rows: Sequence[Sequence[Any]], widths: Sequence[float], *, heads: int = 1, right: Sequence[int] = ()
) -> Table:
    style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, _RULE),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 6),
        ("TOPPADDING", (0, 0), (-1, -1), 2),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
        *(("ALIGN", (column, 0), (column, -1), "RIGHT") for column in right),
    ]
    return Table(rows, colWidths=widths, repeatRows=heads, style=TableStyle(style), hAlign="LEFT")


def _facts(rows: Sequence[tuple[str, str | None]]) -> Table:
    shown = [[_text(name, 8.5, colour=_GREY), _text(value, 8.5)] for name, value in rows if value]
    return _grid(shown, [0.28 * _WIDTH, 0.72 * _WIDTH], heads=0)


def _swatch(colour: str) -> Table:
    return Table(
        [[""]],
        colWidths=[8],
        rowHeights=[8],
        style=[("BACKGROUND", (0, 0), (-1, -1), colors.HexColor(colour)), ("BOX", (0, 0), (-1, -1), 0.4, _INK)],
    )


def _built(path: Path, story: list[Flowable], title: str) -> None:
    _fonts()

    def frame(canvas: Any, document: Any) -> None:  # noqa: ANN401 - reportlab's own types
        canvas.saveState()
        canvas.setFont(_BOLD, 8)
        canvas.setFillColor(_WARNING)
        canvas.drawString(_MARGIN + _PADDING, 9 * mm, RESEARCH_USE_ONLY)
        canvas.setFont(_FONT, 8)
        canvas.setFillColor(_GREY)
        canvas.drawRightString(A4[0] - _MARGIN - _PADDING, 9 * mm, f"pathology {__version__} · page {document.page}")
        canvas.restoreState()

    with replacing(path) as aside:
        document = SimpleDocTemplate(
            str(aside),
            pagesize=A4,
            leftMargin=_MARGIN,
            rightMargin=_MARGIN,
            topMargin=14 * mm,
            bottomMargin=17 * mm,
            title=drawable(title),
            author=f"pathology {__version__}",
            subject=RESEARCH_USE_ONLY,
            lang="en-GB",
        )
        document.build(story, onFirstPage=frame, onLaterPages=frame)


def write_slide_pdf(
    path: Path,
    result: SlideResult,
    card: Card,
    pictures: ReportPictures | None = None,
    *,
    count: ReviewedCount | None = None,
    made: datetime | None = None,
) -> None:
    """Write one slide's report.

    Parameters
    ----------
    path
        The file.
    result
        The slide, scored or failed.
    card
        The model.
    pictures
        Its images, if any.
    count
        Mitotic count after review, for a detector.
    made
        When the slide was scored.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    _fonts()
    patient = f"Patient {result.patient_id} · " if result.patient_id is not None else ""
    story: list[Flowable] = [
        _text(result.slide_id, 17, bold=True, after=2),
        _text(f"{patient}{result.path}", 8, colour=_GREY, after=6),
        _answer(result, count),
    ]
    colours = dict(zip(card.classes, class_colours(card), strict=True))
    if result.classes:
        story += [Spacer(0, 6), _classes(result, card, colours)]
    if pictures is not None:
        story += _pictures(pictures, colours, _caption(card))
    if count is not None:
        story += _mitoses(count, card, result.tissue_mm2)
    story += _quality(result)
    done = _facts(
        [
            ("Scored", None if made is None else f"{made:%d %B %Y, %H:%M %Z}".rstrip()),
            ("Model", f"{card.title} ({card.name} {card.version}, {card.architecture})"),
            ("Weights", f"SHA-256 {result.model_sha256}"),
            ("Slide scale", _scale(result)),
            ("Patches", f"{card.patch} × {card.patch} px at {scale(card.mpp)}"),
            ("Slide size", _size(result)),
            ("Reader", result.reader or None),
            ("Engine", result.engine),
            ("Time", None if result.seconds is None else duration(result.seconds)),
        ]
    )
    story.append(KeepTogether([*_heading("Processing"), done]))
    story += _limits(card)
    _built(path, story, f"{result.slide_id}: slide report")


def _scale(result: SlideResult) -> str:
    source = MPP_SOURCES.get(result.mpp_source or "", result.mpp_source)
    return scale(result.mpp) if result.mpp is None or not source else f"{scale(result.mpp)}, {source}"


def _size(result: SlideResult) -> str | None:
    if result.width is None or result.height is None:
        return None
    shown = f"{result.width:,} × {result.height:,} px"
    return shown if result.mpp is None else f"{shown} ({extent(result.width, result.height, result.mpp)})"


def _caption(card: Card) -> str:
    if card.task == "classification":
        return "With the predicted class at each location"
    return "With the detector's highest score at each location"


def _answer(result: SlideResult, count: ReviewedCount | None) -> Table:
    if result.status == "failed":
        lines, colour = [("This slide was not scored", result.error)], _WARNING
    elif result.abstained:
        said = f"Most probable class, not a prediction: {result.most_probable_class}"
        if count is not None:
            said = f"Count, not a result: {count.total:,} mitoses"
        why = f"{result.abstained_because}. {said}"
        lines, colour = [(heading(result.answer), why)], colors.HexColor("#b36b00")
    elif count is not None and result.prediction is None:
        colour = _GREY
        why = "Detected by the model; not reviewed"
        if count.accepted or count.rejected or count.added:
            why = f"After review: {count.accepted:,} accepted, {count.rejected:,} rejected, {count.added:,} added"
        lines = [(f"{count.total:,} {'mitosis' if count.total == 1 else 'mitoses'}", why)]
    else:
        finding = next((f for f in result.classes if f.name == result.prediction), None)
        colour = _GREY if finding is None else colors.HexColor(finding.colour)
        why = (
            ""
            if finding is None
            else f"Probability {percent(finding.probability)}; predicted on {percent(finding.share)} of the scored "
            "tissue"
        )
        lines = [(f"Prediction: {result.finding}", why)]
    cells = [
        [[_text(head, 13, bold=True, after=1), *([_text(sentence(why), 9)] if why else [])]] for head, why in lines
    ]
    style = [
        ("BOX", (0, 0), (-1, -1), 0.5, _RULE),
        ("LINEBEFORE", (0, 0), (0, -1), 5, colour),
        ("LEFTPADDING", (0, 0), (-1, -1), 12),
        ("TOPPADDING", (0, 0), (-1, -1), 6),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
    ]
    return Table(cells, colWidths=[_WIDTH], style=TableStyle(style), hAlign="LEFT")


def _classes(result: SlideResult, card: Card, colours: dict[str, str]) -> KeepTogether:
    head = [
        _text(words, 8, colour=_GREY, bold=True) for words in ("", "Class", "Probability", "Share of tissue", "Area")
    ]
    rows: list[Sequence[Any]] = [head]
    for finding in result.classes:
        predicted = finding.name == result.prediction
        values = (finding.name, percent(finding.probability), percent(finding.share), area(finding.area_mm2))
        rows.append(
            [_swatch(colours.get(finding.name, finding.colour)), *(_text(v, 9, bold=predicted) for v in values)]
        )
    calibrated = (
        "The probabilities are calibrated."
        if card.calibration
        else "The probabilities are not calibrated: higher means more certain, but 80 % does not mean correct in 8 of "
        "10 cases."
    )
    note = (
        f"Probability: of the whole slide, from {result.patches:,} patches. Share and area: of the scored tissue, "
        f"where the class is predicted. {calibrated}"
    )
    widths = [14, 0.42 * _WIDTH, 0.18 * _WIDTH, 0.2 * _WIDTH, 0.2 * _WIDTH - 14]
    return KeepTogether([_grid(rows, widths), _text(note, 7.5, colour=_GREY, before=2)])


def _pictures(pictures: ReportPictures, colours: dict[str, str], caption: str) -> list[Flowable]:
    height, width = pictures.plain.shape[:2]
    gap = 5 * mm
    across = min((_WIDTH - gap) / 2, 105 * mm * width / height)
    down = across * height / width

    def picture(pixels: NDArray[np.uint8], of: str) -> list[Flowable]:
        parts: list[Flowable] = [
            _text(of, 8, colour=_GREY),
            Image(io.BytesIO(jpeg(pixels)), width=across, height=down, hAlign="LEFT"),
        ]
        if pictures.bar is not None:
            bar = Table(
                [[""]],
                colWidths=[max(1, pictures.bar.pixels / width * across)],
                rowHeights=[3],
                style=[("LINEABOVE", (0, 0), (-1, 0), 2, _INK)],
                hAlign="LEFT",
            )
            parts += [Spacer(0, 4), bar, _text(pictures.bar.label, 8)]
        return parts

    two = Table(
        [[picture(pictures.plain, "The slide"), picture(pictures.painted, caption)]],
        colWidths=[across + gap] * 2,
        style=[("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP")],
        hAlign="LEFT",
    )
    key = [[_swatch(colour), _text(name, 8)] for name, colour in colours.items()]
    legend = Table(
        key,
        colWidths=[14, _WIDTH - 14],
        style=[
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("TOPPADDING", (0, 0), (-1, -1), 1),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ],
        hAlign="LEFT",
    )
    note = "Scored tissue is shown in grey under its colour; tissue shown in its original stain was not scored."
    return [KeepTogether([*_heading("Heatmap"), two]), legend, _text(note, 7.5, colour=_GREY)]


def _mitoses(count: ReviewedCount, card: Card, tissue_mm2: float | None) -> list[Flowable]:
    spot = count.hotspot
    rows: list[tuple[str, str | None]] = [
        ("Counted on the slide", f"{count.total:,} of {count.detections:,} detections"),
        ("Reviewed", f"{count.accepted:,} accepted, {count.rejected:,} rejected, {count.added:,} added"),
        ("Per mm² of tissue", None if count.per_mm2 is None else f"{count.per_mm2:.2f} /mm²"),
    ]
    if spot is not None:
        low, high = spot.per_mm2_interval
        rows += [
            ("Hotspot", f"{spot.basis}, centre ({spot.x:.0f}, {spot.y:.0f}) px"),
            ("Hotspot density", f"{spot.per_mm2:.2f} /mm² (95 % CI {low:.2f} to {high:.2f}, Poisson)"),
            *((f"Per 10 fields ({name})", f"{value:.1f}") for name, value in spot.per_fields.items()),
        ]
    alarms = None if not tissue_mm2 else false_alarms(card, tissue_mm2)
    if alarms is not None:
        low, high = alarms.here_interval
        expected = f"{alarms.here:.0f} (95 % CI {low:.0f} to {high:.0f}) on this area of tissue without mitoses"
        rows.append(
            (
                "Expected false positives",
                f"{expected}, at the rate on the model card; may differ on other tissues, stains or scanners",
            )
        )
    rows.append(("Similarity to training data", "not assessed"))
    return [KeepTogether([*_heading("Mitoses"), _facts(rows)])]


def _quality(result: SlideResult) -> list[Flowable]:
    if not result.has_maps and not result.warnings:
        return []
    rows: list[tuple[str, str | None]] = [("Warning", sentence(warning)) for warning in result.warnings]
    if result.has_maps:
        rows += [
            ("Tissue", area(result.tissue_mm2)),
            ("Patches scored", f"{result.patches:,}"),
            ("Excluded patches", f"{result.masked_patches:,}"),
            ("Unreadable tiles", f"{result.unreadable_tiles:,}"),
        ]
    return [KeepTogether([*_heading("Quality"), _facts(rows)])]


def _limits(card: Card) -> list[Flowable]:
    head = [_text(words, 8, colour=_GREY, bold=True) for words in ("Metric", "Value", "n", "Data")]
    rows: list[Sequence[Any]] = [head]
    for metric in card.metrics:
        value = "not estimated"
        if metric.value is not None and metric.interval is not None:
            low, high = metric.interval
            value = f"{metric.value:.3g} ({metric.level:.0%} CI {low:.3g} to {high:.3g})"
        data = f"{metric.data}. {metric.note}" if metric.note else metric.data
        rows.append([_text(v, 8) for v in (metric.metric, value, f"{metric.n:,} {metric.unit}", data)])
    story: list[Flowable] = [*_heading("Model and limitations"), _text(card.intended_use, 8.5, after=4)]
    story += [_text(f"• {limit}", 8.5) for limit in card.limits]
    story += [Spacer(0, 4), _grid(rows, [0.26 * _WIDTH, 0.26 * _WIDTH, 0.14 * _WIDTH, 0.34 * _WIDTH])]
    story.append(_text(f"CI: confidence interval. Split: {card.split}", 7.5, colour=_GREY, before=2))
    trained = "; ".join(f"{data.name} ({data.licence})" for data in card.training_data)
    story.append(_text(f"Trained on {trained}. Licence of the weights: {card.licence}.", 7.5, colour=_GREY))
    return story


def write_batch_pdf(path: Path, results: Sequence[SlideResult], card: Card, *, made: datetime | None = None) -> None:
    """Write a batch report: counts, and one row per slide.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    _fonts()
    statuses = Counter(result.status for result in results)
    predictions = Counter(result.prediction for result in results if result.prediction is not None)
    by_class = (
        ", ".join(f"{name}: {predictions[name]:,}" for name in card.classes) if card.task == "classification" else None
    )
    head = [
        _text(words, 8, colour=_GREY, bold=True) for words in ("Slide", "Patient", "Result", "Probability", "Tissue")
    ]
    rows: list[Sequence[Any]] = [head, *map(_row, results)]
    story: list[Flowable] = [
        _text(f"{len(results):,} slides", 17, bold=True, after=2),
        _text(f"{card.title} ({card.name} {card.version})", 9, colour=_GREY, after=6),
        _facts(
            [
                ("Created", None if made is None else f"{made:%d %B %Y, %H:%M %Z}".rstrip()),
                ("Scored", f"{statuses['scored']:,}"),
                ("Abstained", f"{statuses['abstained']:,}"),
                ("Failed", f"{statuses['failed']:,}"),
                ("Predictions", by_class),
            ]
        ),
        *_heading("Slides"),
        _grid(rows, [0.27 * _WIDTH, 0.14 * _WIDTH, 0.35 * _WIDTH, 0.12 * _WIDTH, 0.12 * _WIDTH]),
        *_limits(card),
    ]
    _built(path, story, f"{len(results)} slides: batch report")


def _row(result: SlideResult) -> list[Any]:
    finding = next((f for f in result.classes if f.name == result.prediction), None)
    if result.status == "failed":
        outcome = _text(sentence(result.error), 8, colour=_WARNING)
    elif result.abstained:
        outcome = _text(sentence(result.abstained_because), 8)
    else:
        outcome = _text(result.finding, 8, bold=True)
    return [
        _text(result.slide_id, 8),
        _text(result.patient_id or "", 8),
        outcome,
        _text(percent(finding.probability) if finding is not None else "", 8),
        _text(area(result.tissue_mm2) if result.tissue_mm2 is not None else "", 8),
    ]

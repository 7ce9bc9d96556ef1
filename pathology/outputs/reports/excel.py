"""``results.xlsx``: one row per slide; column headings include units, and a second sheet explains the columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pathology.atomic_files import replacing
from pathology.extras import missing_extra
from pathology.findings.slide_result import SlideResult
from pathology.formatting import MPP_SOURCES, RESEARCH_USE_ONLY
from pathology.path_text import valid_text

__all__ = ["write_excel"]

_ILLEGAL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Control characters, which XML does not allow."""
_LONGEST: Final = 32_767
"""Largest number of characters in a cell."""


@dataclass(frozen=True)
class _Column:
    name: str
    unit: str
    meaning: str
    value: Callable[[SlideResult], str | float | int | None]
    form: str = "General"
    width: float = 12

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


def _columns(results: Sequence[SlideResult]) -> list[_Column]:
    classes = list(dict.fromkeys(finding.name for result in results for finding in result.classes))
    columns = [
        _Column("Slide", "", "Name of the slide", lambda r: r.slide_id, width=32),
        _Column("Patient", "", "Patient the slide belongs to", lambda r: r.patient_id, width=16),
        _Column("Status", "", "scored, abstained or failed", lambda r: r.status),
        _Column("Prediction", "", "Predicted class; empty if the model abstained", lambda r: r.prediction, width=22),
        _Column(
            "Most probable class",
            "",
            "Class with the highest probability; not a prediction if the model abstained",
            lambda r: r.most_probable_class,
            width=22,
        ),
        _Column(
            "Reason",
            "",
            "Why the slide failed or the model abstained",
            lambda r: r.error or r.abstained_because or None,
            width=50,
        ),
    ]
    for name in classes:
        columns += _of_class(name)
    columns += [
        _Column("Tissue", "mm²", "Tissue area", lambda r: r.tissue_mm2, "0.00"),
        _Column("Mitoses", "count", "Mitotic figures on the whole slide", _mitoses("total"), "0"),
        _Column("Mitoses per tissue", "1/mm²", "Mean density over all tissue", _mitoses("overall_per_mm2"), "0.00"),
        _Column("Mitoses in hotspot", "count", "Mitotic figures in the hotspot", _hotspot("count"), "0"),
        _Column("Hotspot area", "mm²", "Area of the hotspot", _hotspot("area_mm2"), "0.000"),
        _Column("Hotspot tissue", "mm²", "Tissue in the hotspot", _hotspot("tissue_mm2"), "0.000"),
        _Column(
            "Hotspot density", "1/mm²", "Mitotic figures per area of tissue in the hotspot", _hotspot("per_mm2"), "0.00"
        ),
        _Column("Patches", "count", "Patches scored", lambda r: r.patches, "0"),
        _Column(
            "Excluded patches",
            "count",
            "Patches that are unreadable or have artefacts",
            lambda r: r.masked_patches,
            "0",
        ),
        _Column(
            "Unreadable tiles", "count", "Stored tiles that could not be decoded", lambda r: r.unreadable_tiles, "0"
        ),
        _Column("Scale", "µm/px", "Size of a level-0 pixel", lambda r: r.mpp, "0.0000"),
        _Column(
            "Scale source",
            "",
            "Source of the scale",
            lambda r: MPP_SOURCES.get(r.mpp_source or "", r.mpp_source),
            width=24,
        ),
        _Column("Width", "px", "Width at level 0", lambda r: r.width, "0"),
        _Column("Height", "px", "Height at level 0", lambda r: r.height, "0"),
        _Column("Time", "s", "Wall time to score the slide", lambda r: r.seconds, "0.0"),
        _Column("Model", "", "Name and version of the model", lambda r: r.model, width=30),
        _Column("Weights", "", "SHA-256 of the model's weights", lambda r: r.model_sha256, width=20),
        _Column("Warnings", "", "Warnings about the slide", lambda r: " | ".join(r.warnings) or None, width=40),
        _Column("File", "", "Path of the slide file", lambda r: r.path, width=50),
    ]
    # Columns without any value are omitted.
    always = {"Slide", "Status", "Prediction", "Abstained", "Reason"}
    return [c for c in columns if c.name in always or any(c.value(r) is not None for r in results)]


def _of_class(name: str) -> list[_Column]:
    def field(attribute: str) -> Callable[[SlideResult], float | None]:
        def value(result: SlideResult) -> float | None:
            found = next((finding for finding in result.classes if finding.name == name), None)
            return None if found is None else float(getattr(found, attribute))

        return value

    return [
        _Column(
            f"Probability of {name}",
            "0 to 1",
            "Probability of the class for the whole slide",
            field("probability"),
            "0.000",
            14,
        ),
        _Column(
            f"Share of {name}",
            "0 to 1",
            "Share of the scored tissue predicted as the class",
            field("share"),
            "0.000",
            14,
        ),
        _Column(
            f"Area of {name}", "mm²", "Area of the scored tissue predicted as the class", field("area_mm2"), "0.00", 14
        ),
    ]


def _mitoses(attribute: str) -> Callable[[SlideResult], Any]:
    return lambda result: getattr(result.mitoses, attribute, None)


def _hotspot(attribute: str) -> Callable[[SlideResult], Any]:
    return lambda result: getattr(getattr(result.mitoses, "hotspot", None), attribute, None)


def write_excel(path: Path, results: Sequence[SlideResult]) -> None:
    """Write the workbook, completely or not at all; rows are streamed to disk.

    Text is written as text: a slide name that begins with ``=`` is not a formula.

    Parameters
    ----------
    path
        The file, ending in ``.xlsx``.
    results
        The results, in the order of the rows.

    Raises
    ------
    MissingDependencyError
        If openpyxl is not installed.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> from pathology import open_results
    >>> write_excel(folder / "results.xlsx", [slide.record for slide in open_results(results_path)])
    """
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.styles import Alignment, Font
        from openpyxl.utils import get_column_letter
    except ImportError as error:
        raise missing_extra("writing Excel files needs openpyxl", "interop") from error

    columns = _columns(results)
    bold, wrapped = Font(bold=True), Alignment(wrap_text=True, vertical="top")

    def cell(sheet: Any, value: Any, form: str = "General") -> Any:  # noqa: ANN401 - openpyxl's own types
        if isinstance(value, str):
            made = WriteOnlyCell(sheet, value=_text(value))
            made.data_type = "s"
        else:
            made = WriteOnlyCell(sheet, value=value)
            made.number_format = form
        return made

    def heading(sheet: Any, words: str) -> Any:  # noqa: ANN401
        made = cell(sheet, words)
        made.font, made.alignment = bold, wrapped
        return made

    with replacing(path) as aside:
        # openpyxl writes rows to temporary files until saving, so check first that the file can be saved.
        book = Workbook(write_only=True)
        slides = book.create_sheet("Slides")
        slides.freeze_panes = "B2"
        for number, column in enumerate(columns, 1):
            slides.column_dimensions[get_column_letter(number)].width = column.width
        slides.auto_filter.ref = f"A1:{get_column_letter(len(columns))}{len(results) + 1}"
        slides.append([heading(slides, column.heading) for column in columns])
        for result in results:
            slides.append([cell(slides, column.value(result), column.form) for column in columns])

        about = book.create_sheet("Columns")
        for letter, width in (("A", 34), ("B", 12), ("C", 60)):
            about.column_dimensions[letter].width = width
        about.append([heading(about, words) for words in ("Column", "Unit", "Meaning")])
        for column in columns:
            about.append([cell(about, words) for words in (column.heading, column.unit, column.meaning)])
        about.append([])
        about.append([cell(about, RESEARCH_USE_ONLY)])
        book.save(aside)


def _text(value: str) -> str:
    return _ILLEGAL.sub(" ", valid_text(value))[:_LONGEST]

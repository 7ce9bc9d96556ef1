"""Pages of patient records, whole in themselves: they load nothing and run nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from pathology.patient.clinical import FIELDS
from pathology.patient.patient_summary import PlainText
from pathology.patient.record import BuildReport, PatientRecord
from pathology.reports.html import page_environment, relative_link

__all__ = ["index_page", "patient_page", "words_page", "write_folder"]

_MEANING = {f.name: f"{f.meaning[:1].upper()}{f.meaning[1:]}{', ' + f.unit if f.unit else ''}" for f in FIELDS}
_FINDINGS = {
    "mitoses.total": "Mitoses counted",
    "mitoses.overall_per_mm2": "Mitoses per mm² of tissue",
    "mitoses.hotspot.count": "Mitoses in the hotspot",
    "mitoses.hotspot.per_mm2": "Mitoses per mm² of the hotspot",
    "mitoses.hotspot.area_mm2": "Area of the hotspot, mm²",
    "mitoses.hotspot.tissue_share": "Share of the hotspot that is tissue",
}
"""Findings of slides under names for people; where a hotspot lies and the like stays in the record."""


@cache
def _environment() -> Environment:
    environment = page_environment(Path(__file__).parent / "templates")
    environment.filters |= {
        "halves": lambda items: [items[: (len(items) + 1) // 2], items[(len(items) + 1) // 2 :]],
        "link": lambda folder: relative_link("patients", folder, "patient.html"),
    }
    environment.filters["findings"] = _findings
    return environment


def _findings(findings: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return what a page shows of a slide's findings."""
    shown = []
    for name, value in findings.items():
        if name.startswith("share_"):
            shown.append((f"Share of tissue where {name.removeprefix('share_')} leads", value))
        elif name in _FINDINGS or not name.startswith("mitoses."):
            shown.append((_FINDINGS.get(name, name), value))
    return shown


def patient_page(record: PatientRecord) -> str:
    """Return the page of one patient, for professionals."""
    clinical = [
        (_MEANING.get(name, name), f"{value:g}" if isinstance(value, float) else value)
        for name, value in record.clinical.items()
    ]
    return _render("patient.html", record=record, clinical=clinical)


def words_page(plain: PlainText) -> str:
    """Return the page in plain words; it holds no id."""
    return _render("words.html", plain=plain)


def index_page(records: Sequence[PatientRecord], report: BuildReport) -> str:
    """Return the list of all patients and of what did not match."""
    problems = [
        (what, ids)
        for what, ids in (
            ("slides without a patient", report.slides_without_patient),
            ("patients in slides only", report.only_in_slides),
            ("patients in imaging only", report.only_in_imaging),
            ("patients in the clinical table only", report.only_in_clinical),
            ("ids that look alike and were not joined", report.lookalikes),
            ("columns outside the vocabulary", report.columns_outside_vocabulary),
            ("columns dropped because ids are hashed", report.dropped_for_hashing),
            ("warnings", report.warnings),
        )
        if ids
    ]
    return _render("index.html", records=records, report=report, problems=problems)


def write_folder(out: Path, records: Sequence[PatientRecord], report: BuildReport, words: Sequence[PlainText]) -> None:
    """Write ``index.html``, ``build.json`` and, for each patient, ``record.json`` and two pages.

    Parameters
    ----------
    out
        Results folder, which is made.
    records, words
        Patients and their plain words, in one order.
    report
        How the joining went.
    """
    for record, plain in zip(records, words, strict=True):
        folder = out / "patients" / record.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "patient.html").write_text(patient_page(record), encoding="utf-8")
        (folder / "words.html").write_text(words_page(plain), encoding="utf-8")
    (out / "build.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / "index.html").write_text(index_page(records, report), encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)

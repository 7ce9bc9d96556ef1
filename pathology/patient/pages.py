"""Self-contained pages of patient records: they load no resources and run no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from pathology.patient.clinical import FIELDS
from pathology.patient.patient_summary import PatientSummary
from pathology.patient.record import BuildReport, PatientRecord
from pathology.reports.html import page_environment, relative_link

__all__ = ["index_page", "patient_page", "summary_page", "write_folder"]

_MEANING = {f.name: f"{f.meaning[:1].upper()}{f.meaning[1:]}{', ' + f.unit if f.unit else ''}" for f in FIELDS}
_FINDINGS = {
    "mitoses.total": "Mitotic count",
    "mitoses.overall_per_mm2": "Mitoses per mm² of tissue",
    "mitoses.hotspot.count": "Mitoses in the hotspot",
    "mitoses.hotspot.per_mm2": "Mitoses per mm² in the hotspot",
    "mitoses.hotspot.area_mm2": "Hotspot area, mm²",
    "mitoses.hotspot.tissue_share": "Tissue fraction of the hotspot",
}
"""Display names of the slide findings on the page; other findings, such as the hotspot position, stay in the record."""


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
    """Return the findings of a slide that the page shows, with their display names."""
    shown = []
    for name, value in findings.items():
        if name.startswith("share_"):
            shown.append((f"Tissue fraction predicted {name.removeprefix('share_')}", value))
        elif name in _FINDINGS or not name.startswith("mitoses."):
            shown.append((_FINDINGS.get(name, name), value))
    return shown


def patient_page(record: PatientRecord, *, has_summary: bool = True) -> str:
    """Return the page of one patient for clinicians and researchers, with a link to the patient's own page if any."""
    clinical = [
        (_MEANING.get(name, name), f"{value:g}" if isinstance(value, float) else value)
        for name, value in record.clinical.items()
    ]
    return _render("patient.html", record=record, clinical=clinical, has_summary=has_summary)


def summary_page(summary: PatientSummary) -> str:
    """Return the plain-language page for the patient; it contains no identifier."""
    return _render("summary.html", summary=summary)


def index_page(records: Sequence[PatientRecord], report: BuildReport) -> str:
    """Return the list of all patients and of unmatched entries."""
    return _render("index.html", records=records, report=report, problems=report.findings())


def write_folder(
    out: Path, records: Sequence[PatientRecord], report: BuildReport, summaries: Sequence[PatientSummary | None]
) -> None:
    """Write ``index.html``, ``build.json`` and, for each patient, ``record.json`` and the pages.

    Parameters
    ----------
    out
        Output folder; created if missing.
    records, summaries
        Patients and their summaries, in the same order; ``None``: no page for the patient is written.
    report
        Result of the merge.
    """
    for record, summary in zip(records, summaries, strict=True):
        folder = out / "patients" / record.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "patient.html").write_text(patient_page(record, has_summary=summary is not None), encoding="utf-8")
        if summary is None:
            # One that an earlier run wrote, before the patient died.
            (folder / "summary.html").unlink(missing_ok=True)
        else:
            (folder / "summary.html").write_text(summary_page(summary), encoding="utf-8")
    (out / "build.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / "index.html").write_text(index_page(records, report), encoding="utf-8")


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)

"""One record per patient: slides, imaging, clinical data and predictions merged by patient ID; unmatched entries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError

from pathology.errors import InputTableError, StoreError, UsageError
from pathology.input_files import reading, require_regular
from pathology.outputs.results.record import read_slide_record
from pathology.outputs.results.tables import check_table
from pathology.patient.clinical import CLINICAL_VOCABULARY, ClinicalTable
from pathology.patient.death import field_of_death
from pathology.patient.identity import Pseudonyms
from pathology.settings import Record

__all__ = [
    "BuildReport",
    "ImagingStudy",
    "PatientRecord",
    "PatientSlide",
    "SurvivalPrediction",
    "build_records",
    "patient_table",
    "read_radiology_results",
    "read_record",
    "read_slide_results",
]

Value = str | float
RECORD_VERSION = 2
_IMAGING_TEXT = ("study", "study_id", "modality", "status", "model", "prediction", "of", "notes", "error")


class PatientSlide(Record):
    """Results of one slide."""

    slide_id: str
    status: str
    """``scored``, ``abstained`` or ``failed``."""
    model: str = ""
    prediction: str | None = None
    probabilities: dict[str, float] = Field(default_factory=dict)
    abstained_because: str = ""
    answer: str = ""
    """Short answer where the model abstained: the classes it cannot distinguish, or that the slide is out of
    distribution."""
    out_of_domain: bool = False
    tissue_mm2: float | None = None
    findings: dict[str, float] = Field(default_factory=dict)
    """Further numerical findings by name, such as ``mitoses_per_mm2``."""
    warnings: tuple[str, ...] = ()
    error: str = ""

    @property
    def abstained(self) -> bool:
        """Whether the model was run and declines to answer."""
        return self.status == "abstained"


class ImagingStudy(Record):
    """Results of one imaging study."""

    study: str
    """Name of the study, or its row number if unnamed."""
    modality: str = ""
    status: str = "done"
    """``done`` or ``failed``."""
    model: str = ""
    prediction: str | None = None
    """Predicted class, for a classifier."""
    of: str = ""
    """Outcome that ``probability`` among the findings refers to."""
    findings: dict[str, float] = Field(default_factory=dict)
    notes: str = ""
    """Missing inputs and what stood in for them."""
    error: str = ""


class SurvivalPrediction(Record):
    """Prediction of a survival model for one patient."""

    model: str
    """Name of the model folder."""
    kind: str
    outcome: str
    """Outcome, such as ``os``."""
    covariates: tuple[str, ...]
    """Covariates of the model."""
    imputed: tuple[str, ...] = ()
    """Covariates missing for this patient and imputed by the model."""
    risk: float
    group: str
    survival: dict[str, float]
    """Event-free survival probability by time, such as ``{"3 years": 0.71}``."""
    trained_on: str
    """Number of training patients and events."""


class PatientRecord(Record):
    """All data of one patient."""

    version: int = RECORD_VERSION
    vocabulary: str = CLINICAL_VOCABULARY
    patient_id: str
    hashed: bool = False
    """Whether ``patient_id`` and ``slide_id`` are pseudonyms."""
    clinical: dict[str, Value] = Field(default_factory=dict)
    """Non-missing values only."""
    slides: tuple[PatientSlide, ...] = ()
    imaging: tuple[ImagingStudy, ...] = ()
    survival: tuple[SurvivalPrediction, ...] = ()
    notes: tuple[str, ...] = ()
    """Missing data and inconsistencies."""
    died: str = ""
    """Clinical field that says the patient has died, also where the field itself was dropped for pseudonyms."""

    @property
    def folder(self) -> str:
        """Folder name: the patient ID if it is a safe file name, otherwise a sanitised form."""
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}", self.patient_id):
            return self.patient_id
        plain = re.sub(r"[^A-Za-z0-9]+", "-", self.patient_id).strip("-")[:40]
        # The digest distinguishes IDs with the same sanitised form.
        return f"{plain or 'patient'}-{hashlib.sha256(self.patient_id.encode()).hexdigest()[:8]}"


class BuildReport(Record):
    """Result of the merge."""

    patients: Annotated[int, Field(ge=0)]
    with_slides: int
    with_imaging: int
    with_clinical: int
    complete: int
    """Patients present in every supplied source."""
    slides_without_patient: tuple[str, ...] = ()
    """Slides (IDs or pseudonyms) without a patient ID."""
    only_in_slides: tuple[str, ...] = ()
    only_in_imaging: tuple[str, ...] = ()
    only_in_clinical: tuple[str, ...] = ()
    lookalikes: tuple[str, ...] = ()
    """IDs that differ only in case, spaces or punctuation; they are not merged."""
    columns_outside_vocabulary: tuple[str, ...] = ()
    columns_renamed: dict[str, str] = Field(default_factory=dict)
    dropped_for_hashing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def findings(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return what a person should look at: what it is, with the IDs, columns or texts; nothing that is empty."""
        every = (
            ("slides without a patient ID", self.slides_without_patient),
            ("patients with slides only", self.only_in_slides),
            ("patients with imaging only", self.only_in_imaging),
            ("patients in the clinical table only", self.only_in_clinical),
            ("similar IDs, not merged", self.lookalikes),
            ("columns outside the vocabulary", self.columns_outside_vocabulary),
            ("columns dropped for pseudonymisation", self.dropped_for_hashing),
            ("warnings", self.warnings),
        )
        return [(what, entries) for what, entries in every if entries]


def read_slide_results(folder: Path) -> list[tuple[str | None, PatientSlide]]:
    """Read the results folder of ``pathology score``.

    Parameters
    ----------
    folder
        Contains ``results.csv``; ``slides/<id>/slide.json`` adds findings if present.

    Returns
    -------
    list of tuple
        Patient ID (None if missing) and results, in table order.

    Raises
    ------
    InputTableError
        The table or a column is missing, or a record is corrupt.
    """
    table = _results(folder, ("slide_id", "status"))
    result: list[tuple[str | None, PatientSlide]] = []
    for row in table.to_dict("records"):
        slide_id = str(row["slide_id"])
        record = folder / "slides" / slide_id / "slide.json"
        extra: dict[str, float] = {}
        model, answer, outside = str(row.get("model", "") or ""), "", False
        if record.is_file():
            try:
                found = read_slide_record(record.parent).result
            except StoreError as error:
                raise InputTableError(error.what, where=record, remedy=error.remedy) from error
            count = {} if found.mitoses is None else {"mitoses": found.mitoses.model_dump(mode="json")}
            extra, model = _numbers_within(found.extra | count), found.model
            answer, outside = found.answer if found.abstained else "", bool(found.out_of_domain)
        # Tissue fractions by class, such as necrosis, are covariates.
        shares = {str(k): _number(v) for k, v in row.items() if str(k).startswith("share_")}
        extra |= {k: v for k, v in shares.items() if v is not None}
        probabilities = {str(k).removeprefix("p_"): _number(v) for k, v in row.items() if str(k).startswith("p_")}
        patient = str(row.get("patient_id", "") or "").strip()
        result.append(
            (
                patient or None,
                PatientSlide(
                    slide_id=slide_id,
                    status=str(row["status"]),
                    model=model,
                    prediction=str(row.get("prediction", "") or "") or None,
                    probabilities={k: v for k, v in probabilities.items() if v is not None},
                    abstained_because=str(row.get("abstained_because", "") or ""),
                    answer=answer,
                    out_of_domain=outside,
                    tissue_mm2=_number(row.get("tissue_mm2")),
                    findings=extra,
                    warnings=tuple(filter(None, str(row.get("warnings", "") or "").split(" | "))),
                    error=str(row.get("error", "") or ""),
                ),
            )
        )
    return result


def read_radiology_results(folder: Path) -> list[tuple[str | None, ImagingStudy]]:
    """Read the results folder of ``pathology radiology predict``, or any table with ``patient_id`` and numbers.

    Text is taken from the columns ``study`` (or ``study_id``), ``modality``, ``status``, ``model``, ``prediction``,
    ``of``, ``notes`` and ``error``; other text is ignored.

    Parameters
    ----------
    folder
        Folder that contains ``results.csv``, or a CSV file.

    Returns
    -------
    list of tuple
        Patient ID (None if missing) and study, in table order.

    Raises
    ------
    InputTableError
        The table or its column ``patient_id`` is missing.
    """
    table = _results(folder, ("patient_id",))
    result: list[tuple[str | None, ImagingStudy]] = []
    for i, row in enumerate(table.to_dict("records")):
        text = {name: str(row.get(name, "") or "").strip() for name in _IMAGING_TEXT}
        findings = {str(k): _number(v) for k, v in row.items() if k != "patient_id" and k not in _IMAGING_TEXT}
        patient = str(row["patient_id"]).strip()
        failed = text["status"] == "failed"
        result.append(
            (
                patient or None,
                ImagingStudy(
                    study=text["study"] or text["study_id"] or f"study {i + 1}",
                    modality=text["modality"],
                    status="failed" if failed else "done",
                    model=text["model"],
                    prediction=text["prediction"] or None,
                    of=text["of"],
                    findings={} if failed else {k: v for k, v in findings.items() if v is not None},
                    notes=text["notes"],
                    error=text["error"],
                ),
            )
        )
    return result


def build_records(
    *,
    slides: Sequence[tuple[str | None, PatientSlide]] | None = None,
    imaging: Sequence[tuple[str | None, ImagingStudy]] | None = None,
    clinical: ClinicalTable | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> tuple[list[PatientRecord], BuildReport]:
    r"""Merge the sources by patient ID.

    IDs must match exactly.  Similar IDs are reported but never merged, because a wrong match puts one patient's
    tumour into another's record.

    Parameters
    ----------
    slides, imaging, clinical
        The sources; at least one.
    pseudonyms
        Pseudonymise: replace IDs, and drop dates, free text outside the vocabulary, and study names.

    Returns
    -------
    tuple
        Records sorted by ID, and a report.

    Raises
    ------
    UsageError
        No source is given.

    Examples
    --------
    >>> from pathology.patient import read_clinical
    >>> table = folder / "clinical.csv"
    >>> _ = table.write_text("patient_id,age,sex\nP1,54,female\nP2,61,male\n")
    >>> records, report = build_records(clinical=read_clinical(table))
    >>> len(records)
    2
    """
    if slides is None and imaging is None and clinical is None:
        raise UsageError("no source to build patient records from", remedy="Supply --slides, --radiology or --clinical")
    of_slides = _by_patient(slides or [])
    of_imaging = _by_patient(imaging or [])
    rows = {} if clinical is None else {str(k): v for k, v in clinical.rows.to_dict("index").items()}
    ids = sorted({*of_slides, *of_imaging, *rows})
    sources = [
        (name, set(found))
        for name, found, given in (
            ("slides", of_slides, slides is not None),
            ("imaging", of_imaging, imaging is not None),
            ("clinical", rows, clinical is not None),
        )
        if given
    ]
    outside = () if clinical is None else clinical.outside
    dropped = _dropped(clinical) if pseudonyms is not None and clinical is not None else ()

    def shown(identifier: str) -> str:
        return identifier if pseudonyms is None else pseudonyms.of(identifier)

    records = []
    for patient in ids:
        known = {str(k): _value(v) for k, v in rows.get(patient, {}).items() if k not in dropped}
        notes = [f"no {name} for this patient" for name, found in sources if patient not in found]
        own_slides = of_slides.get(patient, [])
        failed = sum(s.status == "failed" for s in own_slides)
        if failed:
            notes.append(f"{failed} of {len(own_slides)} slides could not be scored")
        if pseudonyms is not None:
            own_slides = [
                s.model_copy(update={"slide_id": pseudonyms.of(s.slide_id), "error": "failed" if s.error else ""})
                for s in own_slides
            ]
        studies = of_imaging.get(patient, [])
        failed = sum(s.status != "done" for s in studies)
        if failed:
            notes.append(f"{failed} of {len(studies)} imaging studies could not be evaluated")
        if pseudonyms is not None:
            studies = [
                s.model_copy(update={"study": f"study {i + 1}", "error": "failed" if s.error else ""})
                for i, s in enumerate(studies)
            ]
        records.append(
            PatientRecord(
                patient_id=shown(patient),
                hashed=pseudonyms is not None,
                clinical={k: v for k, v in known.items() if v is not None},
                died=field_of_death({str(k): v for k, v in rows.get(patient, {}).items()}),
                slides=tuple(own_slides),
                imaging=tuple(studies),
                notes=tuple(notes),
            )
        )
    records.sort(key=lambda r: r.patient_id)

    def only(name: str) -> tuple[str, ...]:
        own = dict(sources).get(name, set())
        others = set().union(*(found for n, found in sources if n != name)) if len(sources) > 1 else own
        return tuple(shown(p) for p in sorted(own - others))

    report = BuildReport(
        patients=len(records),
        with_slides=len(of_slides),
        with_imaging=len(of_imaging),
        with_clinical=len(rows),
        complete=sum(all(p in found for _, found in sources) for p in ids),
        slides_without_patient=tuple(shown(s.slide_id) for p, s in slides or [] if p is None),
        only_in_slides=only("slides"),
        only_in_imaging=only("imaging"),
        only_in_clinical=only("clinical"),
        lookalikes=_lookalikes(ids, shown),
        columns_outside_vocabulary=outside,
        columns_renamed={} if clinical is None else dict(clinical.renamed),
        dropped_for_hashing=tuple(dropped),
        # Warnings refer to rows, not patients.
        warnings=() if clinical is None else clinical.warnings,
    )
    return records, report


def patient_table(records: Sequence[PatientRecord]) -> pd.DataFrame:
    r"""Return one row per patient for statistics, with prefixed columns.

    ``clinical.*`` unchanged; ``slides.scored`` and, over scored slides, ``slide.p_<class>`` (mean probability),
    ``slide.tissue_mm2`` (sum) and ``slide.<finding>`` (mean); ``imaging.studies`` and ``imaging.<finding>`` (mean).
    Probabilities include slides on which the model abstained: excluding them would keep only the easy slides.

    Parameters
    ----------
    records
        Patients.

    Examples
    --------
    >>> from pathology.patient import read_clinical
    >>> table = folder / "clinical.csv"
    >>> _ = table.write_text("patient_id,age,sex\nP1,54,female\n")
    >>> records, _ = build_records(clinical=read_clinical(table))
    >>> len(patient_table(records))
    1
    """
    rows = []
    for record in records:
        row: dict[str, Any] = {"patient_id": record.patient_id}
        row |= {f"clinical.{k}": v for k, v in record.clinical.items()}
        scored = [s for s in record.slides if s.status != "failed"]
        row["slides.total"], row["slides.scored"] = len(record.slides), len(scored)
        row |= _means("slide.p_", [s.probabilities for s in scored])
        row |= _means("slide.", [s.findings for s in scored])
        areas = [s.tissue_mm2 for s in scored if s.tissue_mm2 is not None]
        if areas:
            row["slide.tissue_mm2"] = float(sum(areas))
        row["imaging.studies"] = len(record.imaging)
        row |= _means("imaging.", [s.findings for s in record.imaging])
        rows.append(row)
    return pd.DataFrame(rows)


def _means(prefix: str, each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for d in each for name in d})
    return {prefix + n: float(np.mean([d[n] for d in each if n in d])) for n in names}


def _by_patient(pairs: Sequence[tuple[str | None, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for patient, thing in pairs:
        if patient is not None:
            found.setdefault(patient, []).append(thing)
    return found


def _lookalikes(ids: Sequence[str], shown: Callable[[str], str]) -> tuple[str, ...]:
    by_plain: dict[str, list[str]] = {}
    for patient in ids:
        by_plain.setdefault(re.sub(r"[^a-z0-9]+", "", patient.lower()), []).append(patient)
    return tuple(" / ".join(shown(p) for p in group) for group in by_plain.values() if len(group) > 1)


def _dropped(clinical: ClinicalTable) -> tuple[str, ...]:
    dates = [c for c in clinical.rows.columns if str(c).endswith("_date")]
    texts = [c for c in clinical.outside if not pd.api.types.is_numeric_dtype(clinical.rows[c])]
    return tuple(sorted(map(str, (*dates, *texts))))


def _value(value: object) -> Value | None:
    if value is None or value != value:
        return None
    return float(value) if isinstance(value, (int, float, np.number)) else str(value)


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _numbers_within(extra: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten nested findings to dotted names; flags become 0 or 1."""
    found: dict[str, float] = {}
    for key, value in extra.items():
        if isinstance(value, Mapping):
            found |= _numbers_within(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float)) and np.isfinite(value):
            found[f"{prefix}{key}"] = float(value)
    return found


def _results(folder: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    path = folder if folder.suffix == ".csv" else folder / "results.csv"
    check_table(path)
    require_regular(path, InputTableError)
    with reading(path, InputTableError, what="cannot read the results table", remedy="Give a results folder"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [c for c in needed if c not in table.columns]
    if missing:
        raise InputTableError(f"missing column {', '.join(missing)}", where=path)
    return table


def read_record(path: Path) -> PatientRecord:
    """Read a ``record.json``.

    Raises
    ------
    InputTableError
        The file is missing or corrupt.
    """
    try:
        return PatientRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputTableError("cannot read the patient record", where=path) from error

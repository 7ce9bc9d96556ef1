"""The clinical table: a versioned vocabulary of columns, and validation that reports row numbers.

Every column has a type, a unit, a range or allowed values, and aliases.  A table with errors is rejected as a whole,
with all errors listed, because a partly read table is worse than none.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pathology.errors import InputTableError, UsageError
from pathology.findings.vocabulary import VOCABULARY_VERSION, find_histotype
from pathology.input_files import reading, require_regular

__all__ = [
    "CLINICAL_VOCABULARY",
    "FIELDS",
    "ClinicalField",
    "ClinicalTable",
    "read_clinical",
    "validate_clinical",
]

CLINICAL_VOCABULARY = f"clinical columns, list 1; histotypes: {VOCABULARY_VERSION}"
"""Version of this vocabulary; stored in every record."""
OLDEST_DATE = dt.date(1900, 1, 1)
SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class ClinicalField:
    """One column of the vocabulary.

    Parameters
    ----------
    name
        Column name in records.
    kind
        Type of the values.
    meaning
        Description.
    unit
        Unit of a numeric column.
    low, high
        Valid range of a numeric column, inclusive.
    choices
        Allowed values, each with its alternative spellings in lower case.
    aliases
        Alternative column names; case, spaces, dots, underscores and hyphens are ignored.
    """

    name: str
    kind: Literal["id", "number", "choice", "date", "text"]
    meaning: str
    unit: str = ""
    low: float = -np.inf
    high: float = np.inf
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


_YES_NO = {"yes": ("y", "true", "1", "1.0"), "no": ("n", "false", "0", "0.0")}
_EVENT = {"1": ("1.0", "yes", "true"), "0": ("0.0", "no", "false")}
LONGEST_DAYS = 43830.0
"""Longest plausible follow-up: 120 years."""


def _days(name: str, meaning: str, *aliases: str) -> ClinicalField:
    return ClinicalField(name, "number", meaning, unit="days", low=0, high=LONGEST_DAYS, aliases=aliases)


def _outcome(code: str, meaning: str) -> tuple[ClinicalField, ClinicalField]:
    return (
        _days(f"{code}_days", f"time to {meaning} or last follow-up", f"{code}.time"),
        ClinicalField(
            f"{code}_event", "choice", f"{meaning} observed (1) or censored (0)", choices=_EVENT, aliases=(code,)
        ),
    )


FIELDS: tuple[ClinicalField, ...] = (
    ClinicalField(
        "patient_id",
        "id",
        "patient identifier, shared with slides and imaging",
        aliases=("patient", "patientid", "case", "case_id", "bcr_patient_barcode", "submitter_id"),
    ),
    ClinicalField(
        "age_years", "number", "age at diagnosis", unit="years", low=0, high=120, aliases=("age", "age_at_diagnosis")
    ),
    ClinicalField(
        "sex",
        "choice",
        "sex",
        choices={"female": ("f", "w", "woman"), "male": ("m", "man"), "other": ("diverse", "d", "x")},
        aliases=("gender",),
    ),
    ClinicalField("histology", "text", "histological diagnosis", aliases=("histological_type", "diagnosis")),
    ClinicalField("site", "text", "anatomical site of the tumour", aliases=("tumor_site", "tumour_site", "location")),
    ClinicalField(
        "size_cm",
        "number",
        "largest tumour diameter",
        unit="cm",
        low=0.1,
        high=60,
        aliases=("size", "tumor_size_cm", "tumour_size_cm"),
    ),
    ClinicalField(
        "depth",
        "choice",
        "depth relative to the fascia",
        choices={"superficial": (), "deep": ()},
        aliases=("tumor_depth", "tumour_depth"),
    ),
    ClinicalField(
        "grade",
        "choice",
        "tumour grade, three tiers",
        choices={
            "low": ("1", "1.0", "g1", "grade 1"),
            "intermediate": ("2", "2.0", "g2", "grade 2"),
            "high": ("3", "3.0", "g3", "grade 3"),
        },
        aliases=("tumor_grade", "tumour_grade", "fnclcc"),
    ),
    ClinicalField("margin", "choice", "resection margin", choices={"negative": ("r0",), "positive": ("r1", "r2")}),
    ClinicalField(
        "residual",
        "choice",
        "residual tumour",
        choices={"R0": ("r0",), "R1": ("r1",), "R2": ("r2",), "RX": ("rx",)},
        aliases=("residual_tumor", "residual_tumour"),
    ),
    ClinicalField("multifocal", "choice", "more than one focus", choices=_YES_NO),
    ClinicalField("metastatic_at_diagnosis", "choice", "metastases at diagnosis", choices=_YES_NO, aliases=("m1",)),
    ClinicalField("lung_metastasis", "choice", "lung metastases during follow-up", choices=_YES_NO),
    ClinicalField(
        "mitotic_count",
        "number",
        "mitotic count in the pathology report",
        unit="per 10 high-power fields",
        low=0,
        high=1000,
    ),
    ClinicalField("necrosis_category", "text", "extent of necrosis, as text", aliases=("necrosis",)),
    ClinicalField("treatment", "text", "treatment, as text"),
    ClinicalField(
        "status",
        "choice",
        "status at last follow-up",
        choices={
            "no evidence of disease": ("ned",),
            "alive with disease": ("awd",),
            "alive": ("living",),
            "dead": ("d", "deceased"),
        },
        aliases=("vital_status",),
    ),
    _days("follow_up_days", "time from diagnosis to last follow-up", "days_diagnosis_to_followup"),
    ClinicalField("diagnosis_date", "date", "date of diagnosis", aliases=("date_of_diagnosis",)),
    ClinicalField("surgery_date", "date", "date of resection", aliases=("date_of_surgery",)),
    ClinicalField("last_contact_date", "date", "date of last follow-up", aliases=("date_of_last_contact",)),
    ClinicalField("death_date", "date", "date of death", aliases=("date_of_death",)),
    *_outcome("os", "death"),
    *_outcome("dss", "death from the tumour"),
    *_outcome("dfi", "recurrence after complete treatment"),
    *_outcome("pfi", "progression"),
)

MISSING = frozenset(
    {"", "na", "n/a", "nan", "none", "null", "unknown", "[unknown]", "[not evaluated]", "not available", "."}
)


@dataclass(frozen=True, eq=False)
class ClinicalTable:
    """A validated clinical table.

    Parameters
    ----------
    rows
        One row per patient, index ``patient_id`` (str); columns of the vocabulary, plus ``histotype`` where the
        diagnosis is in the WHO list, plus columns outside the vocabulary under their own names.
    outside
        Columns outside the vocabulary.
    renamed
        Column name in the file by vocabulary name, where they differ.
    warnings
        Implausible but possible values.
    """

    rows: pd.DataFrame
    outside: tuple[str, ...]
    renamed: Mapping[str, str]
    warnings: tuple[str, ...]


def read_clinical(
    path: Path, *, columns: Mapping[str, str] | None = None, today: dt.date | None = None
) -> ClinicalTable:
    r"""Read and validate a clinical table.

    Parameters
    ----------
    path
        CSV, TSV, Parquet or XLSX (first sheet).
    columns
        Column name in the file by vocabulary name, for columns that are not recognised automatically.
    today
        Latest valid date; the current date by default.

    Raises
    ------
    InputTableError
        The file cannot be read or is invalid; see :func:`validate_clinical`.

    Examples
    --------
    >>> table = folder / "clinical.csv"
    >>> _ = table.write_text("patient_id,age,sex\nP1,54,female\nP2,61,male\n")
    >>> list(read_clinical(table).rows.index)
    ['P1', 'P2']
    """
    require_regular(path, InputTableError)
    with reading(
        path,
        InputTableError,
        what="the clinical table cannot be read",
        remedy="Give a CSV, TSV, Parquet or XLSX file with one row per patient",
    ):
        if path.suffix.lower() in (".xlsx", ".xls"):
            table = pd.read_excel(path, dtype=str, keep_default_na=False)
        elif path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
            table = pd.read_csv(path, dtype=str, sep=separator, keep_default_na=False)
        return validate_clinical(table, columns=columns, today=today, where=path)


def validate_clinical(
    table: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    today: dt.date | None = None,
    where: Path | None = None,
) -> ClinicalTable:
    """Validate a clinical table.

    Parameters
    ----------
    table
        One row per patient.
    columns, today
        As in :func:`read_clinical`.
    where
        File named in error messages.

    Raises
    ------
    InputTableError
        Missing patient column, duplicate or empty patient ID, invalid or out-of-range number, value outside the allowed
        values, invalid date, or contradictory times.  Lists the problems (at most twenty) with their rows; the header
        is row 1.
    """
    names = _recognise([str(c) for c in table.columns], columns or {}, where)
    by_name = {f.name: f for f in FIELDS}
    day = today or dt.datetime.now(tz=dt.UTC).date()
    problems: list[str] = []
    parsed: dict[str, list[Any]] = {}
    for column in table.columns:
        name = names.get(str(column))
        parse = _parser(by_name[name], day) if name else _outside
        values = []
        for i, raw in enumerate(table[column]):
            text = "" if raw is None or (isinstance(raw, float) and np.isnan(raw)) else str(raw).strip()
            try:
                values.append(None if text.lower() in MISSING else parse(text))
            except ValueError as error:
                problems.append(f"row {i + 2}: {name or column} is '{text[:40]}', {error}")
                values.append(None)
        parsed[name or str(column)] = values
    rows = pd.DataFrame(parsed)
    problems += _duplicates(parsed["patient_id"])
    warnings: list[str] = []
    for i, row in enumerate(rows.to_dict("records")):
        known = {str(k): v for k, v in row.items() if v is not None and v == v}
        problems += [f"row {i + 2}: {p}" for p in _impossible(known)]
        warnings += [f"row {i + 2}: {w}" for w in _odd(known)]
    if problems:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise InputTableError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the clinical table: "
            + "; ".join(problems[:SHOWN_PROBLEMS])
            + more,
            where=where,
            remedy="Correct these cells (empty means unknown) and run again",
        )
    if "histology" in rows:
        rows["histotype"] = [_histotype(v) for v in rows["histology"]]
    for f in FIELDS:
        if f.name in rows and (f.kind == "number" or f.name.endswith("_event")):
            rows[f.name] = rows[f.name].astype(float)
    outside = tuple(str(c) for c in table.columns if str(c) not in names)
    for name in outside:
        numbers = pd.to_numeric(rows[name], errors="coerce")
        # The type of a column outside the vocabulary is unknown: numeric throughout means numbers, otherwise text.
        if (numbers.notna() == rows[name].notna()).all():
            rows[name] = numbers.astype(float)
    rows = rows.set_index("patient_id").sort_index()
    renamed = {names[c]: c for c in names if names[c] != c}
    return ClinicalTable(rows, outside, renamed, tuple(warnings))


def _plain(name: str) -> str:
    return re.sub(r"[\s._\-]+", "", name).lower()


def _recognise(found: list[str], given: Mapping[str, str], where: Path | None) -> dict[str, str]:
    known = {_plain(alias): f.name for f in FIELDS for alias in (f.name, *f.aliases)}
    vocabulary = {f.name for f in FIELDS}
    for ours, theirs in given.items():
        if ours not in vocabulary:
            raise UsageError(
                f"'{ours}' is not a column of the vocabulary", remedy=f"Use one of {', '.join(sorted(vocabulary))}"
            )
        if theirs not in found:
            raise InputTableError(
                f"column '{theirs}' not found", where=where, remedy=f"Available columns: {', '.join(found)}"
            )
    by_file = {theirs: ours for ours, theirs in given.items()}
    names: dict[str, str] = {}
    for column in found:
        name = by_file.get(column) or known.get(_plain(column))
        if name is None or (name in given and given[name] != column):
            continue
        if name in names.values():
            other = next(c for c, n in names.items() if n == name)
            raise InputTableError(
                f"columns '{other}' and '{column}' both match {name}",
                where=where,
                remedy=f"Choose one with {name}=COLUMN",
            )
        names[column] = name
    if "patient_id" not in names.values():
        raise InputTableError(
            "no patient ID column found",
            where=where,
            remedy=f"Name it patient_id, or choose one with patient_id=COLUMN. Available columns: {', '.join(found)}",
        )
    return names


def _parser(spec: ClinicalField, today: dt.date) -> Callable[[str], Any]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            hint = " (write 1.5, not 1,5)" if re.fullmatch(r"-?\d+,\d+", text) else ""
            raise ValueError(f"expected a number{' in ' + spec.unit if spec.unit else ''}{hint}") from None
        if not np.isfinite(value):
            raise ValueError("expected a finite number")
        if not spec.low <= value <= spec.high:
            raise ValueError(f"expected {spec.low:g} to {spec.high:g} {spec.unit}".rstrip())
        return value

    def choice(text: str) -> str:
        for value, spellings in spec.choices.items():
            if text.lower() in (value.lower(), *spellings):
                return value
        raise ValueError(f"expected {', '.join(spec.choices)}")

    def date(text: str) -> str:
        try:
            # Spreadsheets append a time of midnight.
            value = dt.date.fromisoformat(text.removesuffix(" 00:00:00"))
        except ValueError:
            raise ValueError("expected a valid date, YYYY-MM-DD") from None
        if not OLDEST_DATE <= value <= today:
            raise ValueError(f"expected a date from {OLDEST_DATE} to {today}")
        return value.isoformat()

    return {"number": number, "choice": choice, "date": date}.get(spec.kind, _outside)


def _outside(text: str) -> str:
    return text


def _duplicates(ids: list[str | None]) -> list[str]:
    first: dict[str, int] = {}
    problems = []
    for i, patient in enumerate(ids):
        if patient is None:
            problems.append(f"row {i + 2}: patient_id is empty")
        elif patient in first:
            problems.append(f"row {i + 2}: patient '{patient}' duplicates row {first[patient] + 2}")
        else:
            first[patient] = i
    return problems


def _impossible(row: Mapping[str, Any]) -> list[str]:
    """Contradictory values."""
    problems = [
        f"{later} {row[later]} is before {earlier} {row[earlier]}"
        for earlier, later in (
            ("diagnosis_date", "last_contact_date"),
            ("diagnosis_date", "death_date"),
            ("surgery_date", "death_date"),
            ("last_contact_date", "death_date"),
        )
        # ISO dates sort as text.
        if earlier in row and later in row and row[later] < row[earlier]
    ]
    if row.get("dss_event") == "1" and row.get("os_event") == "0":
        problems.append("dss_event is 1 (died of disease) but os_event is 0 (alive)")
    if "death_date" in row and row.get("os_event") == "0":
        problems.append("death_date is set but os_event is 0 (alive)")
    if row.get("status") == "dead" and row.get("os_event") == "0":
        problems.append("status is dead but os_event is 0 (alive)")
    return problems


def _odd(row: Mapping[str, Any]) -> list[str]:
    """Implausible but possible values."""
    found = [
        f"{code}_event without {code}_days: not used for survival"
        for code in ("os", "dss", "dfi", "pfi")
        if f"{code}_event" in row and f"{code}_days" not in row
    ]
    if row.get("pfi_days", 0) > row.get("os_days", np.inf):
        found.append(f"pfi_days {row['pfi_days']:g} is more than os_days {row['os_days']:g}")
    if row.get("residual") == "R0" and row.get("margin") == "positive":
        found.append("residual is R0 but margin is positive")
    return found


def _histotype(diagnosis: str | None) -> str | None:
    if not diagnosis:
        return None
    # "Leiomyosarcoma (LMS)" is a name followed by its abbreviation.
    for name in (diagnosis, re.sub(r"\s*\([^)]*\)\s*$", "", diagnosis)):
        try:
            return find_histotype(name).code
        except UsageError:
            continue
    return None

"""Slide labels of a cohort from a clinical table, in the current nomenclature."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathology.atomic_files import write_text
from pathology.cohorts.index import CohortSeries
from pathology.errors import InputTableError, UsageError
from pathology.findings.vocabulary import VOCABULARY_VERSION, find_histotype

__all__ = ["CohortLabels", "join_labels", "read_diagnoses", "write_manifest"]


@dataclass(frozen=True)
class CohortLabels:
    """Labels of slides, and reasons for exclusion.

    Attributes
    ----------
    labels
        Histotype code by slide name.
    excluded
        Number of excluded slides by reason.
    vocabulary
        Version of the histotype vocabulary.
    """

    labels: Mapping[str, str]
    excluded: Mapping[str, int]
    vocabulary: str = VOCABULARY_VERSION


def read_diagnoses(table: Path, *, patient: str, label: str) -> dict[str, str]:
    r"""Read patients and diagnoses from a table.

    Parameters
    ----------
    table
        UTF-8 CSV file with a header; tab-separated if its name ends in ``.tsv`` or ``.txt``.
    patient, label
        Column names.

    Raises
    ------
    InputTableError
        If a column is missing, the table is empty, or a patient has two diagnoses.

    Examples
    --------
    >>> table = folder / "clinical.csv"
    >>> _ = table.write_text("case,diagnosis\nP1,liposarcoma\nP2,leiomyosarcoma\n")
    >>> read_diagnoses(table, patient="case", label="diagnosis")
    {'P1': 'liposarcoma', 'P2': 'leiomyosarcoma'}
    """
    tabs = table.suffix.lower() in (".tsv", ".txt")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t" if tabs else ",")
            header = rows.fieldnames or []
            for column in (patient, label):
                if column not in header:
                    raise InputTableError(
                        f"the table has no column {column!r} (available: {', '.join(header) or 'none'})", where=table
                    )
            found: dict[str, str] = {}
            for row in rows:
                name, diagnosis = (row[patient] or "").strip(), (row[label] or "").strip()
                if not name or not diagnosis:
                    continue
                if found.setdefault(name, diagnosis) != diagnosis:
                    raise InputTableError(
                        f"patient {name} has two diagnoses: {found[name]!r} and {diagnosis!r}",
                        where=f"{table}, line {rows.line_num}",
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise InputTableError(f"the table cannot be read ({error})", where=table) from error
    if not found:
        raise InputTableError("the table has no patient with a diagnosis", where=table)
    return found


def join_labels(
    slides: Sequence[CohortSeries], diagnoses: Mapping[str, str], *, classes: Collection[str] | None = None
) -> CohortLabels:
    """Assign each slide the histotype code of its patient.

    An obsolete name that covers several tumours (such as MFH) gives no label: the case needs pathology review.

    Parameters
    ----------
    slides
        Slides of the cohort.
    diagnoses
        Diagnosis by patient, in any synonym of the vocabulary.
    classes
        Codes to keep; ``None``: all.
    """
    labels: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for slide in slides:
        diagnosis = diagnoses.get(slide.patient_id)
        if diagnosis is None:
            reasons["patient not in the table"] += 1
            continue
        try:
            code = find_histotype(diagnosis).code
        except UsageError as error:
            reasons[error.what] += 1
            continue
        if classes is not None and code not in classes:
            reasons[f"{code} is not among the classes"] += 1
        else:
            labels[slide.name] = code
    return CohortLabels(labels, dict(reasons.most_common()))


def write_manifest(
    path: Path, slides: Sequence[CohortSeries], folder: Path, labels: Mapping[str, str] | None = None
) -> int:
    """Write a slide manifest for ``pathology score`` and ``pathology train``; return the number of slides.

    Columns: ``path`` (slide folder, relative to the manifest if below it), ``slide_id``,
    ``patient_id``, ``site`` (tissue source site, for TCGA barcodes), ``licence``,
    ``series_uid``, and ``label`` if labels are given; slides without a label are then excluded.

    Parameters
    ----------
    path
        Output file.
    slides
        Slides, in output order.
    folder
        Folder that contains one subfolder per slide.
    labels
        Label by slide name.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    import io

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")
    header = ["path", "slide_id", "patient_id", "site", "licence", "series_uid"]
    table.writerow([*header, "label"] if labels is not None else header)
    count = 0
    base = path.parent.absolute()
    for slide in slides:
        if labels is not None and slide.name not in labels:
            continue
        place = (folder / slide.name).absolute()
        parts = slide.patient_id.split("-")
        site = parts[1] if parts[0] == "TCGA" and len(parts) == 3 else ""
        row = [
            place.relative_to(base).as_posix() if place.is_relative_to(base) else str(place),
            slide.name,
            slide.patient_id,
            site,
            slide.licence,
            slide.uid,
        ]
        table.writerow([*row, labels[slide.name]] if labels is not None else row)
        count += 1
    write_text(path, text.getvalue())
    return count

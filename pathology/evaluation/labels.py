"""Slide labels: a CSV file matched to the available slides and validated before any work starts."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pathology.errors import InputTableError, UsageError
from pathology.findings.vocabulary import find_histotype
from pathology.scoring.select import SlideEntry
from pathology.text_tables import TableRow, read_text_table

__all__ = ["SETS", "LabelledSlide", "LabelledSlides", "read_labels"]

SETS: Final = ("train", "validation", "calibration", "test")
"""Data sets: the first trains the weights, the second selects the epoch, the third fits calibration, abstention
and cut-offs, and the last evaluates."""

_REQUIRED: Final = ("slide_id", "patient_id", "label")
_KNOWN: Final = (*_REQUIRED, "site", "set", "regions", "path", "mpp")
_COLUMNS: Final = {
    "slide_id": ("slide", "wsi", "filename", "file", "image", "image_id", "sample_id", "slide_path", "wsi_path"),
    "patient_id": ("patient", "case_id", "case", "subject_id", "subject"),
    "label": ("class", "diagnosis", "subtype", "target"),
    "site": (),
    "set": (),
    "regions": (),
}
"""Columns and what other programs call them."""
_SHOWN: Final = 5


@dataclass(frozen=True)
class LabelledSlide:
    """One labelled slide.

    Attributes
    ----------
    slide_id, path
        Slide ID and file.
    patient_id
        Patient ID.
    label
        Class index.
    site
        Hospital, if given.
    set
        One of :data:`SETS`, if the table assigns it.
    regions
        GeoJSON file of the regions to take patches from, if given.
    mpp
        Level-0 micrometres per pixel from the slide manifest.
    columns
        All other columns of the row, such as follow-up.
    """

    slide_id: str
    path: Path
    patient_id: str
    label: int
    site: str | None = None
    set: str | None = None
    regions: Path | None = None
    mpp: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledSlides:
    """Labelled slides.

    Attributes
    ----------
    classes
        Class names, in the order of the network outputs.
    slides
        One entry per slide, in table order.
    unlabelled
        Available slides without a label.
    """

    classes: tuple[str, ...]
    slides: tuple[LabelledSlide, ...]
    unlabelled: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of labelled slides."""
        return len(self.slides)

    @property
    def patients(self) -> list[str]:
        """Patient of each slide."""
        return [slide.patient_id for slide in self.slides]

    @property
    def labels(self) -> list[int]:
        """Class number of each slide."""
        return [slide.label for slide in self.slides]

    def patients_by_class(self) -> list[list[str]]:
        """Return the patients of each class, in ascending order."""
        return [sorted({s.patient_id for s in self.slides if s.label == c}) for c in range(len(self.classes))]


def read_labels(
    table: Path, slides: Sequence[SlideEntry], classes: Sequence[str], *, patients_per_class: int = 1
) -> LabelledSlides:
    r"""Read a label table, match it to the slides and validate both.

    Parameters
    ----------
    table
        Table with a header (see :func:`pathology.text_tables.read_text_table`) and the columns ``slide_id`` (the
        slide's id, or its file name with or without extension and folder), ``patient_id`` and ``label``; optionally
        ``site``, ``set`` (one of :data:`SETS`), ``regions`` (a GeoJSON file, relative to the table) and any others,
        which are kept.
    slides
        Available slides.
    classes
        Class names.  A label is one of them, in any case, or a synonym of the same tumour in
        :mod:`pathology.findings.vocabulary`.
    patients_per_class
        Minimum number of patients per class.

    Raises
    ------
    InputTableError
        If a column is missing, a value is empty or unknown, a slide is duplicated or missing, a patient has two classes
        or is in two sets, or a class has too few patients.
    UsageError
        If there are fewer than two classes.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pathology.scoring.select import SlideEntry
    >>> table = folder / "labels.csv"
    >>> _ = table.write_text("slide_id,patient_id,label\na,P1,stroma\nb,P2,tumour\n")
    >>> slides = [SlideEntry("a", Path("a.svs")), SlideEntry("b", Path("b.svs"))]
    >>> labelled = read_labels(table, slides, ["stroma", "tumour"])
    >>> labelled.labels
    [0, 1]
    """
    if len(set(classes)) < 2 or len(set(classes)) != len(classes):
        raise UsageError(f"at least two different classes are required, got {', '.join(classes) or 'none'}")
    rows = _read(table)
    by_name = _names(slides)
    found: list[LabelledSlide] = []
    lines: dict[str, list[int]] = {}
    absent: list[str] = []
    for line, row in rows:
        where = f"{table}, line {line}"
        for column in _REQUIRED:
            if not row[column]:
                raise InputTableError(f"column '{column}' is empty", where=where)
        entry = _slide_named(row["slide_id"], by_name)
        if entry is None:
            absent.append(row["slide_id"])
            continue
        lines.setdefault(entry.slide_id, []).append(line)
        kind = row.get("set") or None
        if kind is not None and kind not in SETS:
            raise InputTableError(f"set {kind!r} is unknown", where=where, remedy=f"Use one of {', '.join(SETS)}")
        regions = table.parent / row["regions"] if row.get("regions") else None
        if regions is not None and not regions.is_file():
            raise InputTableError(f"region file {row['regions']!r} not found", where=where)
        found.append(
            LabelledSlide(
                entry.slide_id,
                entry.path,
                row["patient_id"],
                _class_of(row["label"], classes, where),
                row.get("site") or None,
                kind,
                regions,
                entry.mpp,
                {name: value for name, value in row.items() if name not in _KNOWN},
            )
        )
    if absent:
        close = difflib.get_close_matches(absent[0], [entry.slide_id for entry in slides], n=1)
        raise InputTableError(
            f"{len(absent)} labelled slides not found: {_some(absent)}",
            where=table,
            remedy=f"Pass the folder that contains them, or correct the names{f' ({close[0]}?)' if close else ''}",
        )
    _check_slides(lines, table)
    result = LabelledSlides(
        tuple(classes),
        tuple(found),
        tuple(sorted({entry.slide_id for entry in slides} - {slide.slide_id for slide in found})),
    )
    _check_patients(result, table, patients_per_class)
    return result


def _read(table: Path) -> list[tuple[int, dict[str, str]]]:
    read = read_text_table(table, _COLUMNS, required=_REQUIRED, kind="label table")
    if not read.rows:
        raise InputTableError("the label table has no rows", where=table)
    return [(row.line, _whole(row, table)) for row in read.rows]


def _whole(row: TableRow, table: Path) -> dict[str, str]:
    if row.excess:  # a name with an unquoted comma would move every later value into the next column
        raise InputTableError(
            f"the row has more values than the header has columns ({', '.join(row.excess)})",
            where=f"{table}, line {row.line}",
            remedy="Put values that contain the separator in quotation marks",
        )
    return dict(row.values)


def _names(slides: Sequence[SlideEntry]) -> dict[str, SlideEntry]:
    """Map every name a table may use to its slide; ambiguous names are dropped."""
    names: dict[str, SlideEntry] = {}
    for name_of in (lambda p: p.stem, lambda p: p.name, str):
        counts = Counter(name_of(entry.path).casefold() for entry in slides)
        names.update(
            (name_of(entry.path).casefold(), entry) for entry in slides if counts[name_of(entry.path).casefold()] == 1
        )
    names.update({entry.slide_id.casefold(): entry for entry in slides})
    return names


def _slide_named(name: str, by_name: Mapping[str, SlideEntry]) -> SlideEntry | None:
    """Return the slide of an id, a file name, or a path, which may be that of another machine."""
    plain = name.casefold()
    return by_name.get(plain) or by_name.get(re.split(r"[/\\]", plain)[-1])


def _class_of(label: str, classes: Sequence[str], where: str) -> int:
    plain = [name.casefold() for name in classes]
    if label.casefold() in plain:
        return plain.index(label.casefold())
    remedy = f"Use one of {', '.join(classes)}"
    try:
        code = find_histotype(label).code
    except UsageError as error:
        # A name that covers several entities gets its own message; other unknown names get the list of classes.
        ambiguous = "several entities" in error.what
        raise InputTableError(
            error.what if ambiguous else f"label {label!r} is not one of the classes", where=where, remedy=remedy
        ) from None
    if code.casefold() not in plain:
        raise InputTableError(
            f"label {label!r} ({code}) is not one of the classes",
            where=where,
            remedy=f"{remedy}, or remove the row",
        )
    return plain.index(code.casefold())


def _check_slides(lines: Mapping[str, Sequence[int]], table: Path) -> None:
    twice = [f"{name} (lines {', '.join(map(str, where))})" for name, where in lines.items() if len(where) > 1]
    if twice:
        raise InputTableError(
            f"{len(twice)} slides are duplicated: {_some(twice)}",
            where=table,
            remedy="Keep one row per slide",
        )


def _check_patients(labelled: LabelledSlides, table: Path, patients_per_class: int) -> None:
    classes_of: dict[str, set[int]] = {}
    sets_of: dict[str, set[str]] = {}
    for slide in labelled.slides:
        classes_of.setdefault(slide.patient_id, set()).add(slide.label)
        sets_of.setdefault(slide.patient_id, set()).add(slide.set or "")
    torn = sorted(patient for patient, labels in classes_of.items() if len(labels) > 1)
    if torn:
        names = " and ".join(labelled.classes[c] for c in sorted(classes_of[torn[0]]))
        raise InputTableError(
            f"{len(torn)} patients have two classes: {torn[0]} is {names}"
            + (f"; also {_some(torn[1:])}" if len(torn) > 1 else ""),
            where=table,
            remedy="Give all slides of a patient the same label; give two tumours of one patient separate patient IDs",
        )
    if any(slide.set for slide in labelled.slides) and not all(slide.set for slide in labelled.slides):
        without = [slide.slide_id for slide in labelled.slides if not slide.set]
        raise InputTableError(
            f"column 'set' is empty for {len(without)} slides: {_some(without)}",
            where=table,
            remedy="Fill it in for all slides or for none",
        )
    for number, patients in enumerate(labelled.patients_by_class()):
        if len(patients) < patients_per_class:
            raise InputTableError(
                f"class {labelled.classes[number]} has {len(patients)} patients"
                f"{f' ({_some(patients)})' if patients else ''}; this training needs at least {patients_per_class},"
                " so that each set has one",
                where=table,
                remedy="Add patients, or exclude the class with --classes",
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

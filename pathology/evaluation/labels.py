"""Labels of slides: one CSV file joined to the slides that are there, every mistake in it named before any work."""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pathology.errors import InputTableError, UsageError
from pathology.findings.vocabulary import find_histotype
from pathology.scoring.select import SlideEntry

__all__ = ["SETS", "LabelledSlide", "LabelledSlides", "read_labels"]

SETS: Final = ("train", "validation", "calibration", "test")
"""What a slide can be used for.  The first shapes the weights, the second chooses the epoch, the third fits
calibration, abstention and cut-offs, and the last measures."""

_REQUIRED: Final = ("slide_id", "patient_id", "label")
_KNOWN: Final = (*_REQUIRED, "site", "set", "regions", "path", "mpp")
_SHOWN: Final = 5


@dataclass(frozen=True)
class LabelledSlide:
    """One slide and what is known of it.

    Attributes
    ----------
    slide_id, path
        Identity and file.
    patient_id
        Whose it is.
    label
        Number of its class.
    site
        Hospital, where given.
    set
        One of :data:`SETS`, where the table fixes it.
    regions
        GeoJSON file with the outlines that patches are taken from, where given.
    mpp
        Micrometres per level-0 pixel as the manifest of slides states it.
    columns
        All other columns of its row, such as follow-up.
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
    """Slides of known classes.

    Attributes
    ----------
    classes
        Class names, in the order of the network's outputs.
    slides
        One entry a slide, in the order of the table.
    unlabelled
        Slides that are there and have no label.
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
    """Read a table of labels, join it to the slides and check both.

    Parameters
    ----------
    table
        UTF-8 CSV with the columns ``slide_id`` (the slide's file name, with or without its extension), ``patient_id``
        and ``label``; optionally ``site``, ``set`` (one of :data:`SETS`), ``regions`` (a GeoJSON file, relative to
        the table) and any others, which are kept.
    slides
        The slides that are there.
    classes
        Class names.  A label is one of them, in any case, or a name of the same tumour in
        :mod:`pathology.findings.vocabulary`.
    patients_per_class
        Smallest number of patients of each class.

    Raises
    ------
    InputTableError
        If a column is missing, a value is empty or unknown, a slide is named twice or is not there, a patient is of
        two classes or stands in two sets, or a class has too few patients.
    UsageError
        If there are fewer than two classes.
    """
    if len(set(classes)) < 2 or len(set(classes)) != len(classes):
        raise UsageError(f"the classes are {', '.join(classes) or 'none'}; at least two different ones are needed")
    rows = _read(table)
    by_name = _names(slides)
    found: list[LabelledSlide] = []
    absent: list[str] = []
    for line, row in rows:
        where = f"{table}, line {line}"
        for column in _REQUIRED:
            if not row[column]:
                raise InputTableError(f"column '{column}' is empty", where=where)
        entry = by_name.get(row["slide_id"].casefold())
        if entry is None:
            absent.append(row["slide_id"])
            continue
        kind = row.get("set") or None
        if kind is not None and kind not in SETS:
            raise InputTableError(f"set {kind!r} is unknown", where=where, remedy=f"Write one of {', '.join(SETS)}")
        regions = table.parent / row["regions"] if row.get("regions") else None
        if regions is not None and not regions.is_file():
            raise InputTableError(f"there is no file of regions {row['regions']!r}", where=where)
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
            f"{len(absent)} labelled slides are not there: {_some(absent)}",
            where=table,
            remedy=f"Give the folder that holds them, or mend the names{f' ({close[0]}?)' if close else ''}",
        )
    _check_slides(found, table)
    result = LabelledSlides(
        tuple(classes),
        tuple(found),
        tuple(sorted({entry.slide_id for entry in slides} - {slide.slide_id for slide in found})),
    )
    _check_patients(result, table, patients_per_class)
    return result


def _read(table: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name or "" for name in reader.fieldnames or []]
            for column in _REQUIRED:
                if column not in header:
                    near = difflib.get_close_matches(column, header, n=1, cutoff=0.4)
                    raise InputTableError(
                        f"the table of labels has no column '{column}' (it has: {', '.join(header) or 'none'})",
                        where=table,
                        remedy=f"Name a column '{column}'{f' (instead of {near[0]!r}?)' if near else ''}",
                    )
            rows = [
                (reader.line_num, {name: (row[name] or "").strip() for name in header}) for row in reader if any(row)
            ]
    except OSError as error:
        raise InputTableError(f"the table of labels cannot be read ({error.strerror})", where=table) from error
    except UnicodeDecodeError as error:
        raise InputTableError(
            "the table of labels is not UTF-8 text", where=table, remedy="Save it as CSV UTF-8"
        ) from error
    except csv.Error as error:
        raise InputTableError(f"the table of labels is no CSV file ({error})", where=table) from error
    if not rows:
        raise InputTableError("the table of labels has no rows", where=table)
    return rows


def _names(slides: Sequence[SlideEntry]) -> dict[str, SlideEntry]:
    """Slides by every name a table may use; a name that means two slides means none."""
    names: dict[str, SlideEntry] = {}
    files = Counter(entry.path.name.casefold() for entry in slides)
    for entry in slides:
        if files[entry.path.name.casefold()] == 1:
            names[entry.path.name.casefold()] = entry
    names.update({entry.slide_id.casefold(): entry for entry in slides})
    return names


def _class_of(label: str, classes: Sequence[str], where: str) -> int:
    plain = [name.casefold() for name in classes]
    if label.casefold() in plain:
        return plain.index(label.casefold())
    remedy = f"Write one of {', '.join(classes)}"
    try:
        code = find_histotype(label).code
    except UsageError as error:
        # A name that covers several entities deserves to be told so; any other unknown one gets the classes.
        ambiguous = "several entities" in error.what
        raise InputTableError(
            error.what if ambiguous else f"label {label!r} is none of the classes", where=where, remedy=remedy
        ) from None
    if code.casefold() not in plain:
        raise InputTableError(
            f"label {label!r} ({code}) is none of the classes",
            where=where,
            remedy=f"{remedy}, or leave the row out",
        )
    return plain.index(code.casefold())


def _check_slides(slides: Sequence[LabelledSlide], table: Path) -> None:
    twice = [name for name, count in Counter(slide.slide_id for slide in slides).items() if count > 1]
    if twice:
        raise InputTableError(
            f"{len(twice)} slides are named more than once: {_some(twice)}",
            where=table,
            remedy="Keep one row a slide",
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
            f"{len(torn)} patients are of two classes: {torn[0]} is {names}"
            + (f"; also {_some(torn[1:])}" if len(torn) > 1 else ""),
            where=table,
            remedy="Give all slides of a patient one label; give each of two tumours of a patient an id of its own",
        )
    if any(slide.set for slide in labelled.slides) and not all(slide.set for slide in labelled.slides):
        without = [slide.slide_id for slide in labelled.slides if not slide.set]
        raise InputTableError(
            f"column 'set' is empty for {len(without)} slides: {_some(without)}",
            where=table,
            remedy="Fill it in for all slides, or for none",
        )
    for number, patients in enumerate(labelled.patients_by_class()):
        if len(patients) < patients_per_class:
            raise InputTableError(
                f"class {labelled.classes[number]} has {len(patients)} patients"
                f"{f' ({_some(patients)})' if patients else ''}; this training needs at least {patients_per_class},"
                " so that each set has one",
                where=table,
                remedy="Add patients, or leave the class out with --classes",
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

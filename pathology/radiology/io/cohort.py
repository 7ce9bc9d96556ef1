"""An imaging cohort: a folder with one subfolder per patient, and a clinical table.

::

    COHORT/<patient>/<sequence>_image.nii.gz   or .nrrd, .mha, or a folder <sequence>_image with a DICOM series
    COHORT/<patient>/<sequence>_mask.nii.gz    or .nrrd, .mha, .dcm (RTSTRUCT or SEG); optional
    COHORT/<patient>/<sequence>_mask-2.nii.gz  further contours of the same tumour; optional

The modality is the prefix of the sequence name: ``CT``, ``PET`` or ``PT``, ``OCT``; everything else is
MR (``MR_T1``, ``T2FS``, ``DWI``, ``ADC_1``).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathology.errors import InputTableError, UsageError
from pathology.input_files import reading, require_regular
from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.open import OpenedVolume, open_mask, open_volume
from pathology.radiology.io.volume import Mask, Modality

__all__ = ["Case", "Cohort", "modality_of", "plain_text", "read_cohort"]

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


def modality_of(sequence: str) -> Modality:
    """Return the modality from the prefix of a sequence name."""
    upper = sequence.upper()
    for start, modality in (("CT", "CT"), ("PET", "PT"), ("PT", "PT"), ("OCT", "OCT")):
        if upper.startswith(start):
            return modality  # type: ignore[return-value]
    return "MR"


@dataclass(frozen=True, slots=True)
class Case:
    """One patient: images on disk and clinical values.

    Attributes
    ----------
    patient_id
        Folder name; a pseudonym.
    images
        File or DICOM folder by sequence.
    masks
        Contours by sequence, in order.
    clinical
        Clinical values by column; empty until :meth:`Cohort.with_values` adds them.
    """

    patient_id: str
    images: Mapping[str, Path]
    masks: Mapping[str, tuple[Path, ...]]
    clinical: Mapping[str, object] = field(default_factory=dict)

    def open(self, sequence: str) -> OpenedVolume:
        """Open an image.

        Raises
        ------
        StudyError
            If the patient lacks the sequence, or it cannot be read.
        """
        if sequence not in self.images:
            there = ", ".join(sorted(self.images)) or "no image"
            raise StudyError(f"sequence '{sequence}' not found, available: {there}", where=self.patient_id)
        return open_volume(self.images[sequence], modality=modality_of(sequence), name=sequence)

    def contours(self, sequence: str, image: OpenedVolume) -> tuple[Mask, ...]:
        """Open every contour drawn on a sequence.

        Raises
        ------
        StudyError
            If there is none, or one does not match its image.
        """
        if not self.masks.get(sequence):
            raise StudyError(f"no mask for sequence '{sequence}'", where=self.patient_id)
        return tuple(open_mask(path, image) for path in self.masks[sequence])


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Patients, sorted by ID.

    Attributes
    ----------
    cases
        The patients.
    clinical
        One row per patient, index ``patient_id``; may include patients without images.
    problems
        Patients whose folder cannot be read, and why.
    """

    cases: tuple[Case, ...]
    clinical: pd.DataFrame
    problems: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def patients(self) -> tuple[str, ...]:
        """Pseudonyms."""
        return tuple(c.patient_id for c in self.cases)

    def having(self, sequences: Sequence[str], column: str | None = None) -> Cohort:
        """Keep patients who have all the sequences and a value in a clinical column.

        Raises
        ------
        UsageError
            If no patient remains.
        """
        kept = tuple(c for c in self.cases if all(s in c.images for s in sequences))
        if column is not None:
            values = self.column(column)
            kept = tuple(c for c in kept if c.patient_id in values.index and pd.notna(values[c.patient_id]))
        if not kept:
            raise UsageError(
                f"no patient has {', '.join(sequences) or 'images'}"
                + (f" and a value of '{column}'" if column else ""),
                remedy="Check the names with 'pathology radiology info'",
            )
        return replace(self, cases=kept)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Cohort:
        """Keep patients by position."""
        return replace(self, cases=tuple(self.cases[int(i)] for i in rows))

    def with_values(self, case: Case) -> Case:
        """Return a case with its row of the clinical table, if it has one."""
        if case.patient_id not in self.clinical.index:
            return case
        row = self.clinical.loc[case.patient_id]
        return replace(case, clinical={str(k): v for k, v in row.items()})

    def require_readable(self, sequences: Sequence[str] | None = None) -> None:
        """Open every image and contour once, and name all that cannot be used, before long work starts.

        Parameters
        ----------
        sequences
            Sequences that will be needed; ``None``: all.

        Raises
        ------
        StudyError
            With every patient concerned.
        """
        refused = [f"{patient}: {reason}" for patient, reason in self.problems.items()]
        for case in self.cases:
            for sequence in sorted(case.images):
                if sequences is not None and sequence not in sequences:
                    continue
                try:
                    opened = case.open(sequence)
                    if case.masks.get(sequence):
                        case.contours(sequence, opened)
                except StudyError as error:
                    refused.append(f"{case.patient_id}, {sequence}: {error.what}")
        if refused:
            raise StudyError(
                f"{len(refused)} images cannot be used: {'; '.join(refused)}",
                remedy="Repair them, or move the patients out of the cohort",
            )

    def column(self, name: str) -> pd.Series:
        """Return a clinical column.

        Raises
        ------
        InputTableError
            If there is no such column.
        """
        if name not in self.clinical.columns:
            there = ", ".join(map(str, self.clinical.columns)) or "none (no table given)"
            raise InputTableError(f"the clinical table has no column '{name}'; available: {there}")
        return self.clinical[name]

    def labels(self, column: str, classes: Sequence[Hashable]) -> NDArray[np.int64]:
        """Return each patient's class number.

        Raises
        ------
        InputTableError
            If a value is not one of the classes.
        """
        values = self.column(column)
        numbers = {str(name): i for i, name in enumerate(classes)}
        found = []
        for patient in self.patients:
            value = plain_text(values[patient])
            if value not in numbers:
                raise InputTableError(
                    f"'{column}' of patient {patient} is '{value}', expected one of {', '.join(numbers)}"
                )
            found.append(numbers[value])
        return np.asarray(found, np.int64)


def plain_text(value: object) -> str:
    """Return a value of a table as text, 1.0 as 1: pandas reads a column of whole numbers with gaps as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def read_cohort(folder: Path, clinical: Path | None = None, *, patient_column: str = "patient") -> Cohort:
    """Read a cohort.

    Parameters
    ----------
    folder
        Folder with one subfolder per patient.
    clinical
        CSV with one row per patient; ``None``: no clinical data.
    patient_column
        Patient ID column of the clinical table.

    Raises
    ------
    UsageError
        If no patient has an image.
    InputTableError
        If the table lacks the patient column or has duplicate patients.

    Examples
    --------
    >>> from pathology.testing.radiology_constructed import two_sequence_cohort
    >>> _ = two_sequence_cohort(folder, patients=2)
    >>> [case.patient_id for case in read_cohort(folder / "images").cases]
    ['C000', 'C001']
    """
    if not folder.is_dir():
        raise UsageError("folder not found", where=folder)
    cases, problems = [], {}
    for sub in sorted(p for p in folder.iterdir() if p.is_dir()):
        images: dict[str, Path] = {}
        masks: dict[str, list[Path]] = {}
        try:
            entries = sorted(sub.iterdir())
        except OSError as error:
            problems[sub.name] = f"the patient's folder cannot be read ({error.strerror or error})"
            continue
        for path in entries:
            stem = _stem(path)
            if stem.endswith("_image"):
                images[stem.removesuffix("_image")] = path
            elif "_mask" in stem:
                masks.setdefault(stem.rsplit("_mask", 1)[0], []).append(path)
        if images:
            cases.append(Case(sub.name, images, {k: tuple(v) for k, v in masks.items()}))
    if not cases and not problems:
        raise UsageError(
            "no subfolder contains an image named <sequence>_image",
            where=folder,
            remedy="docs/radiology.md shows the layout",
        )
    table = pd.DataFrame()
    if clinical is not None:
        require_regular(clinical, InputTableError)
        remedy = "Use a CSV file with one row per patient"
        with reading(clinical, InputTableError, what="the clinical table cannot be read", remedy=remedy):
            # As text, so that a pseudonym such as 007 keeps its zeros.
            table = pd.read_csv(clinical, dtype={patient_column: str})
        if patient_column not in table.columns:
            raise InputTableError(f"missing column '{patient_column}'", where=clinical)
        if table[patient_column].isna().any():
            raise InputTableError(f"a row has no '{patient_column}'", where=clinical)
        twice = table[patient_column][table[patient_column].duplicated()]
        if len(twice):
            raise InputTableError(f"patient {twice.iloc[0]} has {1 + len(twice)} rows", where=clinical)
        table = table.set_index(patient_column)
    return Cohort(tuple(cases), table, problems)


def _stem(path: Path) -> str:
    if path.is_dir():
        return path.name
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return ""

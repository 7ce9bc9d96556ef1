"""Select series of a cohort, and summarise their size and licences."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pathology.cohorts.index import CohortSeries, Kind
from pathology.errors import UsageError

__all__ = ["Summary", "annotations_of", "select", "summarise"]


@dataclass(frozen=True)
class Summary:
    """Summary of a selection.

    Attributes
    ----------
    series, patients, files
        Counts.
    size_mb
        Total size in megabytes.
    median_mb
        Median size of a series, in megabytes.
    licences
        Number of series by licence.
    kinds
        Number of series by kind.
    encodings
        Number of series by pixel encoding.
    dois
        DOIs to cite.
    """

    series: int
    patients: int
    files: int
    size_mb: float
    median_mb: float
    licences: dict[str, int]
    kinds: dict[str, int]
    encodings: dict[str, int]
    dois: tuple[str, ...]


def select(
    series: Sequence[CohortSeries],
    *,
    kind: Kind | None = None,
    patients: Collection[str] | None = None,
    one_per_patient: bool = False,
    largest_mb: float | None = None,
    limit: int | None = None,
) -> tuple[CohortSeries, ...]:
    """Select series.

    Parameters
    ----------
    series
        Series of one cohort.
    kind
        Kind to keep; ``None``: all.
    patients
        Patients to keep; ``None``: all.
    one_per_patient
        Keep only the first slide of each patient, such as DX1.
    largest_mb
        Exclude larger series.
    limit
        Maximum number of patients, in cohort order.

    Raises
    ------
    UsageError
        If no series remains, or a patient is not in the cohort.
    """
    known = {one.patient_id for one in series}
    if patients is not None and (unknown := sorted(set(patients) - known)):
        raise UsageError(f"{len(unknown)} patients are not in the cohort; first: {unknown[0]!r}")
    chosen = [
        one
        for one in series
        if (kind is None or one.kind == kind)
        and (patients is None or one.patient_id in patients)
        and (largest_mb is None or one.size_mb <= largest_mb)
    ]
    if one_per_patient:
        first: dict[str, CohortSeries] = {}
        for one in sorted(chosen, key=lambda one: _natural(one.name)):
            first.setdefault(one.patient_id, one)
        chosen = [one for one in chosen if first[one.patient_id] is one]
    if limit is not None:
        kept = list(dict.fromkeys(one.patient_id for one in chosen))[:limit]
        chosen = [one for one in chosen if one.patient_id in set(kept)]
    if not chosen:
        raise UsageError(
            "no series of the cohort matches", remedy="Select another kind, larger files or other patients"
        )
    return tuple(chosen)


def annotations_of(slides: Sequence[CohortSeries], series: Sequence[CohortSeries]) -> tuple[CohortSeries, ...]:
    """Return the annotations that belong to the studies of the given slides."""
    studies = {one.study for one in slides}
    return tuple(one for one in series if one.kind == "annotation" and one.study in studies)


def summarise(series: Sequence[CohortSeries]) -> Summary:
    """Summarise a selection."""
    sizes = sorted(one.size_mb for one in series)
    licences: dict[str, int] = defaultdict(int)
    for one in series:
        licences[one.licence] += 1
    middle = len(sizes) // 2
    return Summary(
        series=len(series),
        patients=len({one.patient_id for one in series}),
        files=sum(one.files for one in series),
        size_mb=sum(sizes),
        median_mb=(sizes[middle] + sizes[-middle - 1]) / 2 if sizes else 0.0,
        licences=dict(sorted(licences.items())),
        kinds=dict(Counter(one.kind for one in series)),
        encodings=dict(Counter(one.encoding for one in series).most_common()),
        dois=tuple(sorted({one.doi for one in series if one.doi})),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]

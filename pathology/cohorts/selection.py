"""Which series of a cohort are wanted, and what fetching them means: gigabytes and licences."""

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
    """What a selection amounts to.

    Attributes
    ----------
    series, patients, files
        Numbers.
    size_mb
        Megabytes in total.
    median_mb
        Of a series.
    licences
        Series by licence.
    kinds
        Series by kind.
    encodings
        Series by encoding of their pixels.
    dois
        To be cited.
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
    """Choose series.

    Parameters
    ----------
    series
        Of one cohort.
    kind
        Only these; ``None``: all.
    patients
        Only of these patients; ``None``: all.
    one_per_patient
        The first slide of each patient, such as DX1.
    largest_mb
        Leave out larger series.
    limit
        At most so many patients, in the cohort's order.

    Raises
    ------
    UsageError
        If nothing is left, or a patient named is not in the cohort.
    """
    known = {one.patient_id for one in series}
    if patients is not None and (unknown := sorted(set(patients) - known)):
        raise UsageError(f"{len(unknown)} patients are not in the cohort, the first is {unknown[0]!r}")
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
        raise UsageError("nothing of the cohort fits", remedy="Ask for another kind, larger files or other patients")
    return tuple(chosen)


def annotations_of(slides: Sequence[CohortSeries], series: Sequence[CohortSeries]) -> tuple[CohortSeries, ...]:
    """Return the annotations in the studies of some slides."""
    studies = {one.study for one in slides}
    return tuple(one for one in series if one.kind == "annotation" and one.study in studies)


def summarise(series: Sequence[CohortSeries]) -> Summary:
    """Count what a selection amounts to."""
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

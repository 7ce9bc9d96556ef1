"""Splits that keep each patient in one part, and an audit that fails if a split does not.

Rows are the samples (tiles, slides, scans, patients).  Every function takes one patient id per row and returns row
numbers, so that a split can be stored next to its table.  Splits depend on the seed and on the *set* of patients, not
on the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pathology.errors import LeakageError, UsageError

__all__ = [
    "Fold",
    "NestedFold",
    "SplitAudit",
    "audit_leakage",
    "content_digest",
    "grouped_k_fold",
    "grouped_split",
    "leave_one_group_out",
    "nested_folds",
    "repeated_grouped_k_fold",
]

Rows = npt.NDArray[np.int64]

# How Python, NumPy and pandas write a missing value.
_MISSING = frozenset({"", "None", "nan", "NaN", "NaT", "<NA>"})


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the rows into training and test.

    Parameters
    ----------
    train, test
        Row numbers, ascending, int64, disjoint.
    index
        Number of the fold within its repeat, from 0.
    repeat
        Number of the repeat, from 0.
    name
        Name of the group left out (a hospital, a patient), if any; otherwise ``"fold 2"``.
    """

    train: Rows
    test: Rows
    index: int = 0
    repeat: int = 0
    name: str = ""


@dataclass(frozen=True, eq=False)
class NestedFold:
    """An outer fold and the inner folds of its training rows.

    Parameters
    ----------
    outer
        Split for evaluation.
    inner
        Splits of ``outer.train`` for model selection; their row numbers refer to the whole table, and none contains a
        row of ``outer.test``.
    """

    outer: Fold
    inner: tuple[Fold, ...]


@dataclass(frozen=True)
class SplitAudit:
    """Result of auditing a clean split.

    Parameters
    ----------
    rows, patients
        Number of rows and of distinct patients by part.
    checked
        What was compared between the parts, such as ``("rows", "patients", "slide fingerprints")``.
    """

    rows: Mapping[str, int]
    patients: Mapping[str, int]
    checked: tuple[str, ...] = field(default=("rows", "patients"))


def grouped_k_fold(
    patients: Sequence[Hashable] | npt.NDArray[np.generic],
    labels: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    *,
    k: int = 5,
    seed: int = 0,
    sites: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
) -> tuple[Fold, ...]:
    """Split rows into ``k`` folds; each patient is tested exactly once, and labels are balanced across folds.

    Patients (not rows) are assigned to folds: if each patient has one label, no two folds differ by more than one
    patient of that label.

    Parameters
    ----------
    patients
        Patient id of each row, length N.
    labels
        What to balance, one per row (a class, or a stratum such as event x time); ``None`` balances patients.
        A patient whose rows differ counts once for each of its labels.
    k
        Number of folds, at least 2.
    seed
        Random seed; the same seed gives the same folds.
    sites
        Hospital of each row.  If given, whole hospitals stay together, so that a model cannot gain from recognising a
        scanner; hospitals that share a patient stay together.  Labels are then balanced as well as whole hospitals
        allow.

    Returns
    -------
    tuple of Fold
        ``k`` folds with ascending row numbers.

    Raises
    ------
    UsageError
        Lengths differ, an id is missing, or there are fewer patients (or sites) than folds.

    Examples
    --------
    >>> folds = grouped_k_fold(["P1", "P1", "P2", "P3", "P4", "P4"], k=2)
    >>> [fold.test.tolist() for fold in folds]
    [[0, 1, 4, 5], [2, 3]]
    """
    return _k_fold(_Table(patients, labels, sites), k, seed, repeat=0)


def repeated_grouped_k_fold(
    patients: Sequence[Hashable] | npt.NDArray[np.generic],
    labels: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    *,
    k: int = 5,
    repeats: int = 10,
    seed: int = 0,
    sites: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
) -> tuple[Fold, ...]:
    """Repeat :func:`grouped_k_fold` with different seeds: ``k * repeats`` folds, repeat by repeat.

    Repeats share their patients: their spread shows the effect of the split and is not a confidence interval.
    Parameters and errors are those of :func:`grouped_k_fold`.
    """
    if repeats < 1:
        raise UsageError(f"repeats is {repeats}, expected at least 1")
    table = _Table(patients, labels, sites)
    folds: list[Fold] = []
    for repeat in range(repeats):
        folds += _k_fold(table, k, _derived_seed(seed, "repeat", repeat), repeat=repeat)
    return tuple(folds)


def leave_one_group_out(groups: Sequence[Hashable] | npt.NDArray[np.generic]) -> tuple[Fold, ...]:
    """Leave each group out once (leave-one-patient-out, leave-one-hospital-out), sorted by name.

    Parameters
    ----------
    groups
        Group of each row, length N.

    Raises
    ------
    UsageError
        An id is missing or there are fewer than two groups.
    """
    names = _ids(groups, "groups")
    distinct = sorted(set(names))
    if len(distinct) < 2:
        raise UsageError(f"leave-one-out needs at least 2 groups, got {len(distinct)}")
    column = np.asarray(names, dtype=object)
    return tuple(
        Fold(np.flatnonzero(column != name), np.flatnonzero(column == name), index=i, name=name)
        for i, name in enumerate(distinct)
    )


def nested_folds(
    patients: Sequence[Hashable] | npt.NDArray[np.generic],
    labels: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    *,
    outer: int = 5,
    inner: int = 5,
    repeats: int = 1,
    seed: int = 0,
    sites: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
) -> tuple[NestedFold, ...]:
    """Return outer folds for evaluation, each with inner folds for model selection (epochs, penalties, cut-offs).

    Parameters are those of :func:`grouped_k_fold`; ``outer`` and ``inner`` are numbers of folds, ``repeats`` repeats
    the outer split.

    Raises
    ------
    UsageError
        As in :func:`grouped_k_fold`, or if the training part has fewer patients than ``inner``.
    """
    table = _Table(patients, labels, sites)
    result = []
    for fold in repeated_grouped_k_fold(patients, labels, k=outer, repeats=repeats, seed=seed, sites=sites):
        part = table.take(fold.train)
        inside = _k_fold(part, inner, _derived_seed(seed, "inner", fold.repeat, fold.index), repeat=fold.repeat)
        result.append(
            NestedFold(
                fold,
                tuple(Fold(fold.train[f.train], fold.train[f.test], f.index, f.repeat, f.name) for f in inside),
            )
        )
    return tuple(result)


def grouped_split(
    patients: Sequence[Hashable] | npt.NDArray[np.generic],
    labels: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
    *,
    shares: Mapping[str, float],
    seed: int = 0,
    sites: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
) -> dict[str, Rows]:
    """Split rows once into named parts, such as ``{"train": 0.7, "tune": 0.15, "test": 0.15}``.

    Parameters
    ----------
    shares
        Target fraction of the patients by part; positive, summing to 1.  Each part gets at least one patient (site).
    patients, labels, seed, sites
        As in :func:`grouped_k_fold`.

    Returns
    -------
    dict
        Ascending row numbers by part, in the order of ``shares``.

    Raises
    ------
    UsageError
        As in :func:`grouped_k_fold`; shares that are not positive or do not sum to 1.

    Examples
    --------
    >>> split = grouped_split([f"P{i // 2}" for i in range(20)], shares={"train": 0.6, "test": 0.4})
    >>> {name: len(rows) for name, rows in split.items()}
    {'train': 12, 'test': 8}
    """
    if len(shares) < 2 or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(f"shares are {dict(shares)}, expected at least two positive numbers that sum to 1")
    table = _Table(patients, labels, sites)
    weights = np.array(list(shares.values()), dtype=float)
    parts = _deal(table, weights, seed)
    return {name: np.flatnonzero(parts == i) for i, name in enumerate(shares)}


def content_digest(content: bytes | npt.NDArray[np.generic]) -> str:
    """Return a hash of pixels or bytes, independent of the file name.

    Parameters
    ----------
    content
        Raw bytes, or an array (its shape and dtype are included).
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    array = np.ascontiguousarray(content)
    head = f"{array.shape}{array.dtype.str}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


def audit_leakage(
    parts: Mapping[str, Sequence[int] | Rows],
    *,
    patients: Sequence[Hashable] | npt.NDArray[np.generic],
    fingerprints: Sequence[str | None] | None = None,
    contents: Sequence[str | bytes | npt.NDArray[np.generic] | None] | None = None,
    sites: Sequence[Hashable] | npt.NDArray[np.generic] | None = None,
) -> SplitAudit:
    """Check that nothing is in two parts of a split.

    Parameters
    ----------
    parts
        Row numbers by part, such as ``{"train": ..., "test": ...}``; two or more parts.
    patients
        Patient id of every row of the table.
    fingerprints
        Slide fingerprint of every row: catches one slide filed under two patients.  ``None`` if unknown.
    contents
        Content of every row, as bytes, array or digest (:func:`content_digest`): catches the same image or measurements
        copied under another name.  ``None`` if unknown.
    sites
        Hospital of every row; give it only if hospitals must not be in two parts.

    Returns
    -------
    SplitAudit
        Counts and what was checked, to store with the results.

    Raises
    ------
    LeakageError
        A row, patient, slide, content or site is in two parts; the message names up to five of them.
    UsageError
        Lengths differ, an id is missing, a row number is out of range, fewer than two parts, or an empty part.

    Examples
    --------
    >>> audit_leakage({"train": [0, 1], "test": [2, 3]}, patients=["P1", "P2", "P3", "P4"]).patients
    {'train': 2, 'test': 2}
    """
    owner = _ids(patients, "patients")
    if len(parts) < 2:
        raise UsageError(f"an audit needs at least two parts, got {len(parts)}")
    rows: dict[str, Rows] = {}
    for name, numbers in parts.items():
        array = np.asarray(numbers, dtype=np.int64).ravel()
        if array.size == 0:
            raise UsageError(f"part '{name}' has no rows", remedy="Use fewer folds or more patients")
        if array.min() < 0 or array.max() >= len(owner):
            raise UsageError(f"part '{name}' has row {array.max()}, but the table has only {len(owner)} rows")
        rows[name] = array
    columns: dict[str, Sequence[str | None]] = {
        "rows": [str(i) for i in range(len(owner))],
        "patients": owner,
    }
    if fingerprints is not None:
        columns["slide fingerprints"] = list(fingerprints)
    if contents is not None:
        columns["contents"] = [c if c is None or isinstance(c, str) else content_digest(c) for c in contents]
    if sites is not None:
        columns["sites"] = _ids(sites, "sites")
    for what, column in columns.items():
        if len(column) != len(owner):
            raise UsageError(f"{what} has {len(column)} entries for {len(owner)} rows")
        _fail_if_shared(what, column, owner, rows)
    return SplitAudit(
        rows={name: int(r.size) for name, r in rows.items()},
        patients={name: len({owner[i] for i in r}) for name, r in rows.items()},
        checked=tuple(columns),
    )


def _fail_if_shared(what: str, column: Sequence[str | None], owner: Sequence[str], rows: Mapping[str, Rows]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    shared: dict[str, str] = {}
    for part, numbers in rows.items():
        for i in numbers:
            value = column[i]
            if value is None:
                continue
            first_part, first_row = seen.setdefault(value, (part, int(i)))
            if first_part != part and value not in shared:
                shared[value] = (
                    f"{value[:40]} (row {first_row} in {first_part}, patient {owner[first_row]}; "
                    f"row {i} in {part}, patient {owner[i]})"
                )
    if shared:
        examples = "; ".join(list(shared.values())[:5])
        raise LeakageError(
            f"{len(shared)} {what} in two parts of the split: {examples}",
            remedy="Split by patient, and file copies of a slide under one patient",
        )


class _Table:
    """Rows reduced to what a split needs: patients, labels to balance, and sites to keep together."""

    def __init__(
        self,
        patients: Sequence[Hashable] | npt.NDArray[np.generic],
        labels: Sequence[Hashable] | npt.NDArray[np.generic] | None,
        sites: Sequence[Hashable] | npt.NDArray[np.generic] | None,
    ) -> None:
        self.patients = _ids(patients, "patients")
        self.labels = ["all"] * len(self.patients) if labels is None else _ids(labels, "labels")
        self.sites = None if sites is None else _ids(sites, "sites")
        for what, column in (("labels", self.labels), ("sites", self.sites)):
            if column is not None and len(column) != len(self.patients):
                raise UsageError(f"{what} has {len(column)} entries for {len(self.patients)} rows")

    def take(self, rows: Rows) -> _Table:
        return _Table(
            [self.patients[i] for i in rows],
            [self.labels[i] for i in rows],
            None if self.sites is None else [self.sites[i] for i in rows],
        )

    def units(self) -> list[list[str]]:
        """Patients that must stay together: singletons, or connected components through sites."""
        if self.sites is None:
            return [[p] for p in sorted(set(self.patients))]
        parent: dict[str, str] = {}

        def root(node: str) -> str:
            while parent.setdefault(node, node) != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        for patient, site in zip(self.patients, self.sites, strict=True):
            parent[root("p" + patient)] = root("s" + site)
        members: dict[str, list[str]] = {}
        for patient in sorted(set(self.patients)):
            members.setdefault(root("p" + patient), []).append(patient)
        return sorted(members.values())


def _deal(table: _Table, weights: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
    """Assign each row to a part: large and rare units first, each to the part that lacks its labels most."""
    units = table.units()
    if len(units) < len(weights):
        kind = "patients" if table.sites is None else "independent sites"
        raise UsageError(
            f"only {len(units)} {kind} for {len(weights)} parts",
            remedy="Use fewer folds" if table.sites is None else "Use fewer folds or split without sites",
        )
    names = sorted(set(table.labels))
    column = {name: j for j, name in enumerate(names)}
    of_patient: dict[str, set[int]] = {}
    for patient, label in zip(table.patients, table.labels, strict=True):
        of_patient.setdefault(patient, set()).add(column[label])
    counts = np.zeros((len(units), len(names)))
    for u, unit in enumerate(units):
        for j, number in Counter(j for p in unit for j in of_patient[p]).items():
            counts[u, j] = number
    sizes = np.array([len(unit) for unit in units])
    frequency = counts.sum(axis=0)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(units))
    rarest = np.array([frequency[counts[u] > 0].min() for u in range(len(units))])
    signature = [tuple(counts[u] > 0) for u in range(len(units))]
    order = sorted(shuffled, key=lambda u: (-sizes[u], rarest[u], signature[u]))

    share = weights / weights.sum()
    tie_order = rng.permutation(len(weights))
    held = np.zeros((len(weights), len(names)))
    total = np.zeros(len(weights))
    part_of: dict[str, int] = {}
    for position, u in enumerate(order):
        own = counts[u] > 0
        # Fill level relative to the part's target fraction: 1 when it has its share of every label.
        fill = ((held[:, own] + counts[u][own]) / (share[:, None] * frequency[own])).max(axis=1)
        whole = (total + sizes[u]) / share
        empty = np.flatnonzero(total == 0)
        must_fill = len(order) - position <= empty.size
        candidates = empty if must_fill else np.arange(len(weights))
        chosen = min(candidates, key=lambda c: (round(fill[c], 9), round(whole[c], 9), tie_order[c]))
        held[chosen] += counts[u]
        total[chosen] += sizes[u]
        part_of.update(dict.fromkeys(units[u], int(chosen)))
    return np.array([part_of[p] for p in table.patients], dtype=np.int64)


def _k_fold(table: _Table, k: int, seed: int, *, repeat: int) -> tuple[Fold, ...]:
    if k < 2:
        raise UsageError(f"k is {k}, expected at least 2 folds")
    parts = _deal(table, np.ones(k), seed)
    return tuple(
        Fold(np.flatnonzero(parts != i), np.flatnonzero(parts == i), index=i, repeat=repeat, name=f"fold {i + 1}")
        for i in range(k)
    )


def _ids(values: Iterable[Hashable] | npt.NDArray[np.generic], what: str) -> list[str]:
    result = []
    for i, value in enumerate(values):
        text = str(value)
        if text in _MISSING:
            raise UsageError(f"{what} is missing in row {i}", remedy="Give every row an id, or remove the row")
        result.append(text)
    if not result:
        raise UsageError(f"{what} is empty", remedy="Give at least one row")
    return result


def _derived_seed(seed: int, *path: str | int) -> int:
    """Derive a seed for a subtask, so that changing one number of folds does not reshuffle the others."""
    text = ":".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

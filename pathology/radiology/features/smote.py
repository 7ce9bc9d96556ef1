"""SMOTE: rows of the rarer class made between neighbouring real ones (Chawla et al. 2002, doi 10.1613/jair.953).

A made row is a mixture of two patients.  If it were made before the data are split, test patients would stand in the
training set; therefore every made row remembers its parents, and :func:`audit_synthetic` refuses such a set.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.errors import LeakageError, UsageError

__all__ = ["SyntheticRows", "audit_synthetic", "smote"]


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticRows:
    """Made rows of one class.

    Attributes
    ----------
    x
        Shape (M, P).
    label
        Their class.
    parents
        Shape (M, 2): numbers of the two real rows each lies between.
    place
        Shape (M,): how far from the first parent to the second, 0 to 1.
    """

    x: NDArray[np.float64]
    label: int
    parents: NDArray[np.int64]
    place: NDArray[np.float64]


def smote(x: NDArray[np.float64], labels: NDArray[np.integer], *, neighbours: int = 5, seed: int = 0) -> SyntheticRows:
    """Make as many rows of the rarer class as it lacks.

    For each: a random row of the class, one of its nearest neighbours within the class (Euclidean; columns should be
    standardised), and a random point on the segment between.

    Parameters
    ----------
    x
        Shape (N, P); training rows only.
    labels
        0 or 1, length N.
    neighbours
        Among how many nearest rows the partner is drawn; fewer where the class is smaller.
    seed
        Of the draws.

    Raises
    ------
    UsageError
        If the rarer class has fewer than two rows.
    """
    counts = np.bincount(labels, minlength=2)
    rare = int(np.argmin(counts))
    rows = np.flatnonzero(labels == rare)
    if len(rows) < 2:
        raise UsageError(f"SMOTE needs two rows of each class, class {rare} has {len(rows)}")
    missing = int(counts.max() - counts.min())
    random = np.random.default_rng(seed)
    points = x[rows]
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(neighbours, len(rows) - 1)]
    first = random.integers(len(rows), size=missing)
    second = nearest[first, random.integers(nearest.shape[1], size=missing)]
    place = random.random(missing)
    made = points[first] + place[:, None] * (points[second] - points[first])
    return SyntheticRows(made, rare, np.column_stack([rows[first], rows[second]]), place)


def audit_synthetic(rows: SyntheticRows, patients: Sequence[Hashable], test_patients: Collection[Hashable]) -> None:
    """Refuse made rows that descend from a test patient.

    Parameters
    ----------
    rows
        Made rows.
    patients
        Patient of each real row that ``rows.parents`` counts.
    test_patients
        Patients held out.

    Raises
    ------
    LeakageError
        Naming the patient.
    """
    held = {str(p) for p in test_patients}
    for parent in np.unique(rows.parents):
        if str(patients[int(parent)]) in held:
            raise LeakageError(
                f"a synthetic row descends from patient {patients[int(parent)]}, who is held out for testing",
                remedy="Make synthetic rows inside each training fold",
            )

"""Stage of a soft tissue sarcoma of trunk or extremities, AJCC 8th edition.

Source: World J Clin Oncol 2023;14:89, table 2, which reproduces the AJCC manual's table; the reclassification of nodal
disease as stage IV is discussed in Ann Surg Oncol 2018 (doi 10.1245/s10434-018-6419-4).  The 8th edition has separate
systems for four sites; in the retroperitoneum, for example, nodal disease alone is not stage IV.  Only trunk and
extremities are implemented here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pathology.errors import UsageError
from pathology.findings.grading.assessment import Assessment, NotApplicableError, Part, require

__all__ = ["STAGES", "Nodes", "StageRow", "stage_ajcc8", "t_category"]

SYSTEM = "AJCC 8, trunk and extremities"
_SOURCE = "AJCC 8th edition, as in World J Clin Oncol 2023;14:89, table 2"

Nodes = Literal["N0", "N1", "unknown"]
Metastasis = Literal["M0", "M1"]
T = Literal["T1", "T2", "T3", "T4"]


@dataclass(frozen=True, slots=True)
class StageRow:
    """One row of the table: categories and the resulting stage."""

    t: tuple[T, ...]
    nodes: tuple[Literal["N0", "N1"], ...]
    metastasis: tuple[Metastasis, ...]
    grades: tuple[int, ...]
    stage: str
    source: str = _SOURCE


STAGES: tuple[StageRow, ...] = (
    StageRow(("T1",), ("N0",), ("M0",), (1,), "IA"),
    StageRow(("T2", "T3", "T4"), ("N0",), ("M0",), (1,), "IB"),
    StageRow(("T1",), ("N0",), ("M0",), (2, 3), "II"),
    StageRow(("T2",), ("N0",), ("M0",), (2, 3), "IIIA"),
    StageRow(("T3", "T4"), ("N0",), ("M0",), (2, 3), "IIIB"),
    StageRow(("T1", "T2", "T3", "T4"), ("N1",), ("M0",), (1, 2, 3), "IV"),
    StageRow(("T1", "T2", "T3", "T4"), ("N0", "N1"), ("M1",), (1, 2, 3), "IV"),
)
"""The complete table; every combination of categories matches exactly one row."""


def t_category(size_cm: float) -> T:
    """Return T1 (at most 5 cm), T2 (10), T3 (15) or T4 for the greatest dimension of the tumour.

    Raises
    ------
    UsageError
        If the size is not positive.
    """
    if not size_cm > 0:
        raise UsageError(f"the greatest tumour dimension must be above 0 cm, got {size_cm}")
    if size_cm <= 5:
        return "T1"
    if size_cm <= 10:
        return "T2"
    return "T3" if size_cm <= 15 else "T4"


def stage_ajcc8(
    *,
    site: str | None = None,
    size_cm: float | None = None,
    nodes: Nodes | None = None,
    metastasis: Metastasis | None = None,
    grade: int | None = None,
) -> Assessment:
    """Stage a sarcoma of trunk or extremities.

    Parameters
    ----------
    site
        ``trunk`` or ``extremity``.
    size_cm
        Greatest dimension in cm, measured grossly or on imaging.
    nodes
        Regional lymph nodes.  The edition treats unknown nodes as N0, which is then stated in the notes.
    metastasis
        Distant metastasis.
    grade
        FNCLCC grade, 1 to 3.

    Raises
    ------
    MissingInputsError
        If any input is ``None``, naming all of them.
    NotApplicableError
        For another site.
    UsageError
        If a value is out of its range.

    Examples
    --------
    >>> stage_ajcc8(site="extremity", size_cm=6.0, nodes="N0", metastasis="M0", grade=2).result
    'stage IIIA'
    """
    require(
        SYSTEM,
        {
            "site": site,
            "size (greatest dimension, cm)": size_cm,
            "regional lymph nodes (N0, N1, unknown)": nodes,
            "distant metastasis (M0, M1)": metastasis,
            "FNCLCC grade (1 to 3)": grade,
        },
    )
    assert site is not None
    assert size_cm is not None
    if site.strip().lower() not in {"trunk", "extremity", "extremities"}:
        raise NotApplicableError(
            f"this table applies to the trunk and extremities, not to {site}",
            remedy="The 8th edition has separate tables for head and neck, retroperitoneum and viscera",
        )
    if grade not in {1, 2, 3}:
        raise UsageError(f"the FNCLCC grade must be 1, 2 or 3, got {grade}")
    t = t_category(size_cm)
    n = "N1" if nodes == "N1" else "N0"
    row = next(r for r in STAGES if t in r.t and n in r.nodes and metastasis in r.metastasis and grade in r.grades)
    parts = (
        Part("T", f"{size_cm:g} cm", t, _SOURCE),
        Part("N", str(nodes), n, _SOURCE),
        Part("M", str(metastasis), str(metastasis), _SOURCE),
        Part("G", f"FNCLCC grade {grade}", f"G{grade}", _SOURCE),
        Part("stage", f"{t} {n} {metastasis} G{grade}", row.stage, row.source),
    )
    notes = ("Nodal status is unknown and treated as N0, as the edition specifies.",) if nodes == "unknown" else ()
    return Assessment(SYSTEM, f"stage {row.stage}", parts, notes)

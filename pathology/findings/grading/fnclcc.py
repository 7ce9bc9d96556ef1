"""Grade of a soft tissue sarcoma by the system of the French federation of cancer centres (FNCLCC).

Three scores are added: differentiation (from the histotype), mitoses and necrosis.  Their sum determines the grade.
Sources: Trojani et al. 1984 (Int J Cancer 33:37); Guillou et al. 1997 (J Clin Oncol 15:350) with the updated
differentiation table; the cut-offs as in the NCI's PDQ summary and in Sarcoma 2010;2010:506182, table 1.
"""

from __future__ import annotations

from pathology.errors import UsageError
from pathology.findings.grading.assessment import Assessment, MitosesInArea, NotApplicableError, Origin, Part, require
from pathology.findings.mitotic_count import FNCLCC_FIELD
from pathology.findings.vocabulary import VOCABULARY_VERSION, find_histotype

__all__ = [
    "DIFFERENTIATION",
    "GRADE_OF_SUM",
    "differentiation_score",
    "grade_fnclcc",
    "mitotic_cutoffs_per_mm2",
    "mitotic_score",
    "necrosis_score",
]

SYSTEM = "FNCLCC"

_TABLE = "Guillou 1997 as in the CAP-style table, differentiation by histotype"
_GROUPS = "NCI PDQ, FNCLCC table, by definition of the score"

DIFFERENTIATION: dict[str, tuple[int, str]] = {
    "ALT-WDLPS": (1, _TABLE),
    "LMS-WD": (1, _TABLE),
    "MPNST-LG": (1, _TABLE),
    "AFS-WD": (1, _TABLE),
    "MLPS": (2, _TABLE),
    "LMS": (2, _TABLE),
    "MPNST": (2, _TABLE),
    "AFS": (2, _TABLE),
    "MFS": (2, _TABLE),
    "EMC": (2, _TABLE),
    "AS": (2, _TABLE),
    "MLPS-HG": (3, _TABLE),
    "PLPS": (3, _TABLE),
    "DDLPS": (3, _TABLE),
    "ERMS": (3, _TABLE),
    "ARMS": (3, _TABLE),
    "PRMS": (3, _TABLE),
    "SSRMS": (3, _TABLE),
    "LMS-PD": (3, _TABLE),
    "AS-PD": (3, _TABLE),
    "AFS-PD": (3, _GROUPS),
    "MPNST-PD": (3, _TABLE),
    "MTT": (3, _TABLE),
    "SS": (3, _TABLE),
    "SS-PD": (3, _TABLE),
    "MCS": (3, _TABLE),
    "ESOS": (3, _TABLE),
    "ES": (3, _TABLE),
    "ASPS": (3, _TABLE),
    "EPS": (3, _TABLE),
    "CCS": (3, _TABLE),
    "MRT": (3, _TABLE),
    "UPS": (3, _GROUPS),
    "USCS": (3, _GROUPS),
}
"""Histotype code to differentiation score and its source."""

_LITTLE_INFORMATIVE = frozenset({"ERMS", "ARMS", "PRMS", "SSRMS", "ES", "ASPS", "EPS", "CCS"})
"""High grade by definition, so that the sum adds little: ESMO, Essentials for clinicians, sarcoma, chapter 1."""

GRADE_OF_SUM: dict[int, int] = {2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3, 8: 3}
"""Sum of the three scores to grade."""

_CUTOFFS = (10, 20)
"""Lowest number of mitoses per ten FNCLCC fields for scores 2 and 3."""


def mitotic_cutoffs_per_mm2() -> tuple[float, float]:
    """Return the lowest densities for mitotic scores 2 and 3: 10 and 20 per 1.734 mm²."""
    return FNCLCC_FIELD.to_density(_CUTOFFS[0]), FNCLCC_FIELD.to_density(_CUTOFFS[1])


def differentiation_score(histotype: str) -> int:
    """Return the differentiation score (1 to 3) of a histotype (code, name or synonym).

    Raises
    ------
    UsageError
        If the name is unknown, ambiguous, or the published table has no score for it.
    """
    entry = find_histotype(histotype)
    if entry.code not in DIFFERENTIATION:
        raise UsageError(f"the FNCLCC table has no differentiation score for {entry.name}")
    return DIFFERENTIATION[entry.code][0]


def mitotic_score(per_ten_fields: float) -> int:
    """Return 1 (0-9), 2 (10-19) or 3 (20 and more) for mitoses per ten fields of 0.1734 mm².

    A converted count need not be an integer; the score increases when the cut-off is reached.

    Examples
    --------
    >>> mitotic_score(9), mitotic_score(10), mitotic_score(20)
    (1, 2, 3)
    """
    if not per_ten_fields >= 0:
        raise UsageError(f"invalid mitotic count: {per_ten_fields}")
    return 1 + sum(per_ten_fields >= cutoff for cutoff in _CUTOFFS)


def necrosis_score(percent: float) -> int:
    """Return 0 (none), 1 (less than 50 %) or 2 (50 % and more) for tumour necrosis in per cent."""
    if not 0 <= percent <= 100:
        raise UsageError(f"necrosis must be a percentage of the tumour, 0 to 100, got {percent}")
    return 0 if percent == 0 else 1 if percent < 50 else 2


def grade_fnclcc(
    *,
    histotype: str | None = None,
    histotype_confirmed: bool | None = None,
    mitoses: MitosesInArea | None = None,
    necrosis_percent: float | None = None,
    necrosis_origin: Origin = "pathologist",
    pretreated: bool | None = None,
) -> Assessment:
    """Grade a sarcoma.

    Parameters
    ----------
    histotype
        Code, name or synonym; see :mod:`pathology.findings.vocabulary`.
    histotype_confirmed
        Whether a pathologist confirmed it.  A classifier's prediction is not sufficient.
    mitoses
        Count with its area, in the most mitotically active area.
    necrosis_percent
        Necrotic percentage of the tumour, macroscopic and microscopic, 0 to 100.
    necrosis_origin
        Who estimated it.
    pretreated
        Whether the patient had chemotherapy or radiotherapy before the specimen was taken.

    Returns
    -------
    Assessment
        ``grade 1`` to ``grade 3``.

    Raises
    ------
    MissingInputsError
        If any input is ``None`` (or the histotype is not confirmed), naming all of them.
    NotApplicableError
        If the specimen was taken after treatment.
    UsageError
        If a value is out of its range.

    Examples
    --------
    >>> from pathology.findings.grading import MitosesInArea
    >>> graded = grade_fnclcc(
    ...     histotype="leiomyosarcoma",
    ...     histotype_confirmed=True,
    ...     mitoses=MitosesInArea(count=12, area_mm2=1.734),
    ...     necrosis_percent=10,
    ...     pretreated=False,
    ... )
    >>> graded.result
    'grade 2'
    """
    require(
        SYSTEM,
        {
            "histotype": histotype,
            "confirmation of the histotype by a pathologist": histotype_confirmed or None,
            "mitoses with the area counted (mm²)": mitoses,
            "necrosis (per cent of the tumour)": necrosis_percent,
            "whether the specimen was taken after treatment": pretreated,
        },
    )
    assert histotype is not None
    assert mitoses is not None
    assert necrosis_percent is not None
    if pretreated:
        raise NotApplicableError(
            "FNCLCC does not apply after chemotherapy or radiotherapy, which alter mitoses and necrosis",
            remedy="Grade the biopsy taken before treatment",
        )
    entry = find_histotype(histotype)
    differentiation = differentiation_score(histotype)
    per_ten = mitoses.in_area(FNCLCC_FIELD.area_mm2)
    mitotic, necrotic = mitotic_score(per_ten), necrosis_score(necrosis_percent)
    total = differentiation + mitotic + necrotic
    low, high = mitotic_cutoffs_per_mm2()
    notes = [
        "Developed for adults; the grade predicts distant metastasis, not local recurrence.",
        *([f"Mitotic count: {mitoses.basis}."] if mitoses.basis else []),
    ]
    as_counted = mitotic_score(mitoses.count)
    if as_counted != mitotic:
        notes.append(
            f"{mitoses.count} mitoses in {mitoses.area_mm2:g} mm² are {per_ten:.1f} per ten fields of 0.1734 mm². "
            f"Without conversion to this area, they would score {as_counted} instead of {mitotic}."
        )
    if entry.code in _LITTLE_INFORMATIVE:
        notes.append(
            f"{entry.name}: high grade by definition; the sum adds little information (ESMO Essentials, sarcoma)."
        )
    if entry.code == "MPNST" or entry.code.startswith("MPNST-"):
        notes.append("The value of the system for MPNST is disputed.")
    parts = (
        Part(
            "differentiation",
            f"{entry.name} [{VOCABULARY_VERSION}]",
            str(differentiation),
            DIFFERENTIATION[entry.code][1],
        ),
        Part(
            "mitoses",
            f"{mitoses.count} in {mitoses.area_mm2:g} mm² = {mitoses.per_mm2:.2f} per mm² "
            f"(cut-offs {low:.2f} and {high:.2f})",
            str(mitotic),
            "0-9, 10-19, 20 and more per 10 fields of 0.1734 mm²: NCI PDQ; field: WHO classification",
            mitoses.origin,
        ),
        Part(
            "necrosis",
            f"{necrosis_percent:g} %",
            str(necrotic),
            "none, below 50 %, 50 % and more: NCI PDQ",
            necrosis_origin,
        ),
        Part("sum", str(total), str(GRADE_OF_SUM[total]), "2-3: grade 1; 4-5: grade 2; 6-8: grade 3: NCI PDQ"),
    )
    return Assessment(SYSTEM, f"grade {GRADE_OF_SUM[total]}", parts, tuple(notes))

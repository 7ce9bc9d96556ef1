"""Uterine smooth muscle tumours of usual (spindle cell) type: the Stanford criteria of Bell et al. 1994.

Source: Bell, Kempson & Hendrickson, Am J Surg Pathol 1994;18:535-558.  Three features decide: coagulative tumour
cell necrosis, the degree and extent of atypia, and mitoses per ten high-power fields.  The table is complete, with one
row per combination, and each row states its support: ``published`` rows are categories of the publication; ``derived``
rows are combinations it does not name, with the category implied by the adjacent rows or, where these differ,
"uncertain malignant potential".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pathology.findings.grading.assessment import Assessment, MitosesInArea, NotApplicableError, Part, require
from pathology.findings.mitotic_count import MODERN_FIELD, FieldConvention

__all__ = ["STANFORD", "WHO_2020_PER_MM2", "Atypia", "Subtype", "UterineRow", "assess_uterine"]

SYSTEM = "Stanford criteria for uterine smooth muscle tumours (Bell 1994)"

Atypia = Literal["none to mild", "focal moderate to severe", "diffuse moderate to severe"]
Subtype = Literal["spindle", "epithelioid", "myxoid"]

_BELL = "Bell 1994, Am J Surg Pathol 18:535"
_LMS = "leiomyosarcoma"
_STUMP = "smooth muscle tumour of uncertain malignant potential"


@dataclass(frozen=True, slots=True)
class UterineRow:
    """One row of the table.

    Attributes
    ----------
    necrosis
        Coagulative tumour cell necrosis.
    atypia
        Degree and extent.
    least, most
        Range of mitoses per ten fields, inclusive; ``None``: no upper limit.
    result
        The category.
    source
        The publication and whether it names the row.
    """

    necrosis: bool
    atypia: Atypia
    least: int
    most: int | None
    result: str
    source: str


def _rows(necrosis: bool, atypia: Atypia, *cells: tuple[int, int | None, str, str]) -> list[UterineRow]:
    return [UterineRow(necrosis, atypia, low, high, result, f"{_BELL}; {how}") for low, high, result, how in cells]


STANFORD: tuple[UterineRow, ...] = (
    *_rows(
        True,
        "diffuse moderate to severe",
        (0, 4, _LMS, "published"),
        (5, 9, _LMS, "published"),
        (10, 19, _LMS, "published"),
        (20, None, _LMS, "published"),
    ),
    *_rows(
        True,
        "focal moderate to severe",
        (0, 4, _STUMP, "derived: between low malignant potential (less atypia) and leiomyosarcoma (more)"),
        (5, 9, _STUMP, "derived: between low malignant potential (less atypia) and leiomyosarcoma (more)"),
        (10, 19, _LMS, "derived: leiomyosarcoma even with less atypia"),
        (20, None, _LMS, "derived: leiomyosarcoma even with less atypia"),
    ),
    *_rows(
        True,
        "none to mild",
        (0, 4, "smooth muscle tumour of low malignant potential, limited experience", "published"),
        (5, 9, "smooth muscle tumour of low malignant potential, limited experience", "published"),
        (10, 19, _LMS, "published"),
        (20, None, _LMS, "published"),
    ),
    *_rows(
        False,
        "diffuse moderate to severe",
        (0, 4, "atypical leiomyoma with low risk of recurrence", "published"),
        (5, 9, "atypical leiomyoma with low risk of recurrence", "published"),
        (10, 19, _LMS, "published"),
        (20, None, _LMS, "published"),
    ),
    *_rows(
        False,
        "focal moderate to severe",
        (0, 4, "atypical leiomyoma, limited experience", "published"),
        (5, 9, "atypical leiomyoma, limited experience", "published"),
        (10, 19, "atypical leiomyoma, limited experience", "published"),
        (20, None, _STUMP, "derived: beyond the counts that were studied"),
    ),
    *_rows(
        False,
        "none to mild",
        (0, 4, "leiomyoma", "published"),
        (5, 9, "leiomyoma with increased mitotic index", "published"),
        (10, 19, "leiomyoma with increased mitotic index", "published"),
        (20, None, "leiomyoma with increased mitotic index, limited experience", "published"),
    ),
)
"""All 24 combinations of necrosis, atypia and mitoses per ten fields (0-4, 5-9, 10-19, 20 and more)."""

WHO_2020_PER_MM2: dict[Subtype, float] = {"spindle": 4.0, "epithelioid": 1.6, "myxoid": 0.4}
"""Lowest mitoses per mm² that meet the mitotic criterion of leiomyosarcoma, by subtype: WHO 2020, female genital
tumours, equal to 10, 4 and 1 per ten fields of 0.24 mm².  The epithelioid value agrees with Chapel et al.,
Am J Surg Pathol 2022;46:464 (4 in 2.4 mm²)."""


def assess_uterine(
    *,
    site: str | None = None,
    subtype: Subtype | None = None,
    coagulative_necrosis: bool | None = None,
    atypia: Atypia | None = None,
    mitoses: MitosesInArea | None = None,
    convention: FieldConvention = MODERN_FIELD,
) -> Assessment:
    """Classify a uterine smooth muscle tumour.

    Parameters
    ----------
    site
        Must be ``uterus``: the criteria do not apply elsewhere.
    subtype
        ``spindle`` for the usual type; the Stanford criteria excluded the other two.
    coagulative_necrosis
        Coagulative *tumour cell* necrosis: abrupt, not hyaline or ulcerative.
    atypia
        Degree and extent.
    mitoses
        The highest of four sets of ten fields, with the area counted.
    convention
        Definition of "ten fields"; the publication does not state it.

    Raises
    ------
    MissingInputsError
        If any input is ``None``, naming all of them.
    NotApplicableError
        If the tumour is not uterine.

    Examples
    --------
    >>> from pathology.findings.grading import MitosesInArea
    >>> assess_uterine(
    ...     site="uterus",
    ...     subtype="spindle",
    ...     coagulative_necrosis=True,
    ...     atypia="diffuse moderate to severe",
    ...     mitoses=MitosesInArea(count=30, area_mm2=1.734),
    ... ).result
    'leiomyosarcoma'
    """
    require(
        SYSTEM,
        {
            "site": site,
            "subtype (spindle, epithelioid, myxoid)": subtype,
            "coagulative tumour cell necrosis (yes or no)": coagulative_necrosis,
            "atypia (none to mild, focal or diffuse moderate to severe)": atypia,
            "mitoses with the area counted (mm²)": mitoses,
        },
    )
    assert site is not None
    assert subtype is not None
    assert mitoses is not None
    if site.strip().lower() not in {"uterus", "uterine", "myometrium"}:
        raise NotApplicableError(
            f"these criteria apply to the uterus, not to {site}", remedy="Use FNCLCC for soft tissue at other sites"
        )
    threshold = WHO_2020_PER_MM2[subtype]
    who = Part(
        "mitoses, WHO 2020",
        f"{mitoses.per_mm2:.2f} per mm²",
        f"{'at or above' if mitoses.per_mm2 >= threshold else 'below'} {threshold:g} per mm² ({subtype})",
        "WHO 2020, female genital tumours",
        mitoses.origin,
    )
    if subtype != "spindle":
        return Assessment(
            SYSTEM,
            f"not classified: the Stanford criteria exclude {subtype} tumours",
            (who,),
            ("The WHO threshold for this subtype is shown; the diagnosis also requires its other criteria.",),
        )
    per_ten = mitoses.in_area(convention.area_mm2)
    # A converted count is compared with the lower limits, so that 9.8 belongs to 5-9.
    row = max(
        (r for r in STANFORD if r.necrosis is coagulative_necrosis and r.atypia == atypia and per_ten >= r.least),
        key=lambda r: r.least,
    )
    parts = (
        Part("coagulative tumour cell necrosis", "present" if coagulative_necrosis else "absent", "", _BELL),
        Part("atypia", str(atypia), "", _BELL),
        Part(
            "mitoses",
            f"{per_ten:.1f} per ten fields ({convention.name})",
            f"{row.least} to {row.most}" if row.most is not None else f"{row.least} and more",
            _BELL,
            mitoses.origin,
        ),
        Part("category", "", row.result, row.source),
        who,
    )
    based = (f"Mitotic count: {mitoses.basis}.",) if mitoses.basis else ()
    return Assessment(
        SYSTEM,
        row.result,
        parts,
        (
            *based,
            "The publication does not state the area of its fields.",
        ),
    )

"""``pathology grade``: grade and stage tumours from inputs that a pathologist has confirmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pathology.findings.grading.assessment import Assessment, MitosesInArea

__all__ = ["app"]

app = typer.Typer(
    help="Grade and stage tumours by published criteria. Missing inputs are never assumed. Research use only.",
    no_args_is_help=True,
)

Mitoses = Annotated[
    int | None, typer.Option("--mitoses", min=0, help="Number of mitoses counted; requires --area.", show_default=False)
]
Area = Annotated[
    float | None,
    typer.Option("--area", help="Area in which mitoses were counted, mm² (sum of all fields).", show_default=False),
]
Slide = Annotated[
    Path | None,
    typer.Option(
        "--slide",
        help="Results folder of a slide scored with a mitosis detector; uses the reviewed count in its hotspot.",
        show_default=False,
    ),
]
AcceptUnreviewed = Annotated[
    bool, typer.Option("--accept-unreviewed", help="Grade even if the counted detections were not reviewed.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _count(
    mitoses: int | None, area: float | None, slide: Path | None, accept_unreviewed: bool
) -> MitosesInArea | None:
    """Return the mitotic count from the options, or ``None`` where there is none."""
    from pathology.errors import UsageError
    from pathology.findings.grading.assessment import MitosesInArea

    if slide is not None:
        if mitoses is not None or area is not None:
            raise UsageError("give either --slide or --mitoses with --area, not both")
        return _count_of_slide(slide, accept_unreviewed)
    if (mitoses is None) != (area is None):
        raise UsageError(
            "a mitotic count requires the area in which it was made",
            remedy="Give --mitoses and --area, such as --mitoses 12 --area 1.734 for ten fields of 0.1734 mm²",
        )
    if mitoses is None or area is None:
        return None
    if not area > 0:
        raise UsageError(f"--area must be above 0 mm², got {area}")
    return MitosesInArea(count=mitoses, area_mm2=area)


def _count_of_slide(folder: Path, accept_unreviewed: bool) -> MitosesInArea:
    """Return the count in a scored slide's hotspot, excluding rejected detections."""
    from pathology.errors import UsageError
    from pathology.findings.grading.assessment import MitosesInArea
    from pathology.findings.mitotic_count import FNCLCC_FIELD
    from pathology.outputs.results.results_folder import open_slide_folder

    slide = open_slide_folder(folder)
    if slide.detections is None:
        raise UsageError("this slide has no detections", where=folder, remedy="Score it with a mitosis detector first")
    count = slide.count()
    assert count is not None
    window = slide.detections.header.window.area_mm2
    if count.total and count.hotspot is None:
        raise UsageError("this slide has detections but no hotspot; see its warnings", where=folder)
    decisions = slide.decisions()
    members = count.hotspot.members if count.hotspot is not None else ()
    reviewed = sum(member in decisions for member in members)
    # The count is a pathologist's only if every counted detection was reviewed; that nothing was detected, nobody was
    # shown.
    whole = bool(members) and reviewed == len(members)
    if not whole and not accept_unreviewed:
        raise UsageError(
            f"unreviewed detections in the count: {len(members) - reviewed} of {len(members)} in the hotspot"
            if members
            else "the detector found no mitosis, and this result is unreviewed",
            where=folder,
            remedy="Review them (pathology view RESULTS), or use --accept-unreviewed to grade anyway",
        )
    area = window
    if count.hotspot is not None and count.hotspot.tissue_share is not None:
        area = count.hotspot.tissue_mm2 or 0.0
        if area < FNCLCC_FIELD.field_mm2:
            raise UsageError(
                f"the hotspot contains {area:.3g} mm² of tissue, less than one high-power field "
                f"({FNCLCC_FIELD.field_mm2} mm²): too little for grading",
                where=folder,
                remedy="Count manually and give --mitoses with --area",
            )
    abstained = f"; the model abstained ({slide.record.abstained_because})" if slide.record.abstained else ""
    basis = count.hotspot.basis if count.hotspot is not None else f"0 in a window of {window:.4g} mm²"
    return MitosesInArea(
        count=len(members),
        area_mm2=area,
        origin="pathologist" if whole else "model",
        basis=f"{basis}; {reviewed} of {len(members)} detections reviewed{abstained}",
    )


def _show(assessment: Assessment, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(assessment.as_dict(), indent=1, ensure_ascii=False))
        return
    typer.echo(f"{assessment.system}: {assessment.result}")
    for part in assessment.parts:
        arrow = f" -> {part.result}" if part.result else ""
        by = " (from the model)" if part.origin == "model" else ""
        typer.echo(f"  {part.name}: {part.value}{arrow}{by}  [{part.source}]")
    for note in assessment.notes:
        typer.echo(f"  note: {note}")
    typer.echo("Research use only; not for diagnosis.")


@app.command("fnclcc")
def fnclcc(
    histotype: Annotated[
        str | None,
        typer.Option("--histotype", help="WHO 2020 histotype: code, name or synonym, such as LMS.", show_default=False),
    ] = None,
    confirmed: Annotated[
        bool | None,
        typer.Option(
            "--confirmed/--not-confirmed", help="Whether a pathologist confirmed the histotype.", show_default=False
        ),
    ] = None,
    mitoses: Mitoses = None,
    area: Area = None,
    slide: Slide = None,
    accept_unreviewed: AcceptUnreviewed = False,
    necrosis: Annotated[
        float | None, typer.Option("--necrosis", help="Necrosis, percentage of the tumour.", show_default=False)
    ] = None,
    necrosis_by_model: Annotated[
        bool, typer.Option("--necrosis-by-model", help="The necrosis value is a model's estimate.")
    ] = False,
    pretreated: Annotated[
        bool | None,
        typer.Option(
            "--pretreated/--untreated",
            help="Whether the patient had preoperative chemotherapy or radiotherapy.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Grade an adult soft tissue sarcoma (FNCLCC)."""
    from pathology.findings.grading.fnclcc import grade_fnclcc

    _show(
        grade_fnclcc(
            histotype=histotype,
            histotype_confirmed=confirmed,
            mitoses=_count(mitoses, area, slide, accept_unreviewed),
            necrosis_percent=necrosis,
            necrosis_origin="model" if necrosis_by_model else "pathologist",
            pretreated=pretreated,
        ),
        as_json,
    )


@app.command("uterine")
def uterine(
    site: Annotated[str | None, typer.Option("--site", help="Must be: uterus.", show_default=False)] = None,
    subtype: Annotated[
        Literal["spindle", "epithelioid", "myxoid"] | None, typer.Option("--subtype", show_default=False)
    ] = None,
    necrosis: Annotated[
        bool | None,
        typer.Option(
            "--tumour-cell-necrosis/--no-tumour-cell-necrosis",
            help="Whether coagulative tumour cell necrosis is present.",
            show_default=False,
        ),
    ] = None,
    atypia: Annotated[
        Literal["none to mild", "focal moderate to severe", "diffuse moderate to severe"] | None,
        typer.Option("--atypia", show_default=False),
    ] = None,
    mitoses: Mitoses = None,
    area: Area = None,
    slide: Slide = None,
    accept_unreviewed: AcceptUnreviewed = False,
    as_json: Json = False,
) -> None:
    """Classify a uterine smooth muscle tumour (Stanford criteria, with WHO 2020 thresholds)."""
    from pathology.findings.grading.uterine import assess_uterine

    _show(
        assess_uterine(
            site=site,
            subtype=subtype,
            coagulative_necrosis=necrosis,
            atypia=atypia,
            mitoses=_count(mitoses, area, slide, accept_unreviewed),
        ),
        as_json,
    )


@app.command("ajcc")
def ajcc(
    site: Annotated[str | None, typer.Option("--site", help="trunk or extremity.", show_default=False)] = None,
    size: Annotated[
        float | None, typer.Option("--size", help="Greatest tumour dimension, cm.", show_default=False)
    ] = None,
    nodes: Annotated[Literal["N0", "N1", "unknown"] | None, typer.Option("--nodes", show_default=False)] = None,
    metastasis: Annotated[Literal["M0", "M1"] | None, typer.Option("--metastasis", show_default=False)] = None,
    grade: Annotated[int | None, typer.Option("--grade", help="FNCLCC grade, 1 to 3.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Stage a soft tissue sarcoma of the trunk or extremities (AJCC, 8th edition)."""
    from pathology.findings.grading.ajcc import stage_ajcc8

    _show(stage_ajcc8(site=site, size_cm=size, nodes=nodes, metastasis=metastasis, grade=grade), as_json)

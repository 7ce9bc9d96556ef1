"""``pathology grade``: grades and stages from inputs that a pathologist has confirmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pathology.findings.grading.assessment import Assessment, MitosesInArea

__all__ = ["app"]

app = typer.Typer(
    help="Grades and stages by published tables. Nothing missing is assumed. Research use only.", no_args_is_help=True
)

Mitoses = Annotated[
    int | None, typer.Option("--mitoses", min=0, help="Mitoses counted, with --area.", show_default=False)
]
Area = Annotated[
    float | None,
    typer.Option("--area", help="Area in which they were counted, mm² (all fields together).", show_default=False),
]
Slide = Annotated[
    Path | None,
    typer.Option(
        "--slide",
        help="Folder of a slide scored by a mitosis detector: takes the count of its hotspot, with your decisions.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON.")]


def _count(mitoses: int | None, area: float | None, slide: Path | None) -> MitosesInArea | None:
    """Return the mitotic count from the options, or ``None`` where there is none."""
    from pathology.errors import UsageError
    from pathology.findings.grading.assessment import MitosesInArea

    if slide is not None:
        if mitoses is not None or area is not None:
            raise UsageError("give either --slide or --mitoses with --area, not both")
        return _count_of_slide(slide)
    if (mitoses is None) != (area is None):
        raise UsageError(
            "mitoses mean nothing without the area they were counted in",
            remedy="Give --mitoses and --area, such as --mitoses 12 --area 1.734 for ten fields of 0.1734 mm²",
        )
    if mitoses is None or area is None:
        return None
    if not area > 0:
        raise UsageError(f"--area is in mm² and positive, got {area}")
    return MitosesInArea(count=mitoses, area_mm2=area)


def _count_of_slide(folder: Path) -> MitosesInArea:
    """Return the count of a scored slide's hotspot, rejected candidates left out."""
    from pathology.errors import UsageError
    from pathology.findings.grading.assessment import MitosesInArea
    from pathology.findings.reviewed_count import count_reviewed
    from pathology.findings.slide_result import SlideResult
    from pathology.outputs.results.detection_file import read_decisions, read_detections

    detections = read_detections(folder)
    if detections is None:
        raise UsageError("this slide has no detections", where=folder, remedy="Score it with a mitosis detector first")
    record = SlideResult.model_validate_json((folder / "slide.json").read_text(encoding="utf-8"))
    decisions = read_decisions(folder, detections)
    count = count_reviewed(detections, decisions, mpp=record.mpp, tissue_mm2=record.tissue_mm2)
    area = detections.header.window.area_mm2
    if count.hotspot is None:
        if count.total:
            raise UsageError("this slide has detections but no hotspot: its scale is not known", where=folder)
        return MitosesInArea(count=0, area_mm2=area, origin="model")
    # Only when every counted candidate was looked at is the count a pathologist's.
    seen = all(member in decisions for member in count.hotspot.members)
    return MitosesInArea(count=count.hotspot.count, area_mm2=area, origin="pathologist" if seen else "model")


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
        str | None, typer.Option("--histotype", help="Code, name or synonym, such as LMS.", show_default=False)
    ] = None,
    confirmed: Annotated[
        bool | None,
        typer.Option("--confirmed/--not-confirmed", help="A pathologist confirmed the histotype.", show_default=False),
    ] = None,
    mitoses: Mitoses = None,
    area: Area = None,
    slide: Slide = None,
    necrosis: Annotated[
        float | None, typer.Option("--necrosis", help="Necrotic share of the tumour, per cent.", show_default=False)
    ] = None,
    necrosis_by_model: Annotated[bool, typer.Option("--necrosis-by-model", help="The model estimated it.")] = False,
    pretreated: Annotated[
        bool | None,
        typer.Option(
            "--pretreated/--untreated", help="Chemotherapy or radiation before the specimen.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Grade a soft tissue sarcoma of an adult (FNCLCC)."""
    from pathology.findings.grading.fnclcc import grade_fnclcc

    _show(
        grade_fnclcc(
            histotype=histotype,
            histotype_confirmed=confirmed,
            mitoses=_count(mitoses, area, slide),
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
            help="Coagulative tumour cell necrosis.",
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
    as_json: Json = False,
) -> None:
    """Classify a uterine smooth muscle tumour (Stanford criteria, with the WHO 2020 thresholds beside)."""
    from pathology.findings.grading.uterine import assess_uterine

    _show(
        assess_uterine(
            site=site,
            subtype=subtype,
            coagulative_necrosis=necrosis,
            atypia=atypia,
            mitoses=_count(mitoses, area, slide),
        ),
        as_json,
    )


@app.command("ajcc")
def ajcc(
    site: Annotated[str | None, typer.Option("--site", help="trunk or extremity.", show_default=False)] = None,
    size: Annotated[float | None, typer.Option("--size", help="Greatest dimension, cm.", show_default=False)] = None,
    nodes: Annotated[Literal["N0", "N1", "unknown"] | None, typer.Option("--nodes", show_default=False)] = None,
    metastasis: Annotated[Literal["M0", "M1"] | None, typer.Option("--metastasis", show_default=False)] = None,
    grade: Annotated[int | None, typer.Option("--grade", help="FNCLCC grade, 1 to 3.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Stage a soft tissue sarcoma of trunk or extremities (AJCC, 8th edition)."""
    from pathology.findings.grading.ajcc import stage_ajcc8

    _show(stage_ajcc8(site=site, size_cm=size, nodes=nodes, metastasis=metastasis, grade=grade), as_json)

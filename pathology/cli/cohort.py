"""``pathology cohort``: list and fetch public cohorts, and write a manifest for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pathology.cohorts.index import CohortSeries

__all__ = ["app"]

app = typer.Typer(
    name="cohort",
    help="Public sarcoma cohorts: list, select and download. Research use only.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(help="tcga-sarc, rms, sts or qin.", show_default=False)]
KindOption = Annotated[
    str | None,
    typer.Option("--kind", help="diagnostic, frozen, annotation or imaging; the default depends on the cohort."),
]
PatientFile = Annotated[
    Path | None, typer.Option("--patients", help="Text file of patient IDs to keep, one per line.", show_default=False)
]
OnePerPatient = Annotated[bool, typer.Option("--one-per-patient", help="Keep only the first slide of each patient.")]
LargestMb = Annotated[
    float | None,
    typer.Option("--largest-mb", help="Exclude series larger than this, in megabytes.", show_default=False),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Maximum number of patients.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the cohorts with their contents, size and licences."""
    from dataclasses import asdict

    from pathology.cohorts.index import COHORTS, index_version, read_cohort
    from pathology.cohorts.selection import summarise

    found = [(cohort, summarise(read_cohort(cohort.name))) for cohort in COHORTS]
    if as_json:
        print(json.dumps([{**asdict(cohort), "index": index_version(), **asdict(s)} for cohort, s in found], indent=1))
        return
    for cohort, summary in found:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.kinds.items())
        print(f"{cohort.name}: {cohort.title}")
        print(f"  {summary.patients:,} patients; {kinds}; {_size(summary.size_mb)}; {', '.join(summary.licences)}")
    print(f"Source: {index_version()} (offline). Research use only.")


@app.command("show")
def show_command(
    name: Name,
    kind: KindOption = None,
    patients: PatientFile = None,
    one_per_patient: OnePerPatient = False,
    largest_mb: LargestMb = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Summarise a selection of a cohort: counts, sizes, licences, encodings."""
    from dataclasses import asdict

    from pathology.cohorts.selection import summarise

    chosen, _ = _selected(name, kind, patients, one_per_patient, largest_mb, limit)
    if as_json:
        print(json.dumps({**asdict(summarise(chosen)), "list": [asdict(one) for one in chosen]}, indent=1))
        return
    _print_summary(name, chosen)
    for one in chosen[:10]:
        print(f"  {one.name}  {one.description}  {_size(one.size_mb)}  {one.licence}")
    if len(chosen) > 10:
        print(f"  and {len(chosen) - 10:,} more (--json lists all)")


@app.command("fetch")
def fetch_command(
    name: Name,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; one subfolder per series.", show_default=False)
    ],
    kind: KindOption = None,
    patients: PatientFile = None,
    one_per_patient: OnePerPatient = False,
    largest_mb: LargestMb = None,
    limit: Limit = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Also download the annotations of the selected slides.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Clinical table with a diagnosis per patient.", show_default=False),
    ] = None,
    patient_column: Annotated[
        str, typer.Option("--patient-column", help="Patient ID column of the clinical table.")
    ] = "patient",
    label_column: Annotated[
        str, typer.Option("--label-column", help="Diagnosis column of the clinical table.")
    ] = "histological_type",
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Histotype codes to keep, such as DDLPS,LMS,MFS,SS,UPS.", show_default=False),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="URL of an S3-compatible mirror.", show_default=False)
    ] = None,
    manifest_only: Annotated[
        bool, typer.Option("--manifest-only", help="Write the manifest without downloading.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation prompt.")] = False,
) -> None:
    """Download series, after showing size and licences; repeat the command to resume."""
    from pathology.cohorts.fetch import fetch
    from pathology.cohorts.labels import join_labels, read_diagnoses, write_manifest
    from pathology.cohorts.selection import annotations_of

    chosen, everything = _selected(name, kind, patients, one_per_patient, largest_mb, limit)
    diagnosed: dict[str, str] | None = None
    if labels is not None:
        wanted = None if classes is None else {part.strip() for part in classes.split(",") if part.strip()}
        found = join_labels(chosen, read_diagnoses(labels, patient=patient_column, label=label_column), classes=wanted)
        diagnosed = dict(found.labels)
        _print_labels(found.labels, found.excluded, found.vocabulary)
        chosen = tuple(one for one in chosen if one.name in diagnosed)
        if not chosen:
            from pathology.errors import InputTableError

            raise InputTableError(
                "no series matches a label", where=labels, remedy="Check --patient-column and --classes"
            )
    everything_wanted = (*chosen, *(annotations_of(chosen, everything) if annotations else ()))
    _print_summary(name, everything_wanted)
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.csv"
    slides = tuple(one for one in chosen if one.modality == "SM")
    if slides:
        count = write_manifest(manifest, slides, out, diagnosed)
        print(f"Manifest: {manifest} ({count:,} slides)")
    if manifest_only:
        return
    if not yes and not typer.confirm("Download?"):
        print("Nothing downloaded.")
        return
    from pathology.cli.display import shown_bytes

    with shown_bytes(sum(one.size_mb for one in everything_wanted) * 1e6) as arrived:
        done = fetch(everything_wanted, out, endpoint=endpoint, progress=arrived)
    print(
        f"{done.series:,} series complete: {done.files:,} files downloaded ({_size(done.bytes / 1e6)}),"
        f" {done.already_present:,} already present. Research use only."
    )


@app.command("regions")
def regions_command(
    annotation: Annotated[Path, typer.Argument(help="DICOM SEG of a slide.", show_default=False)],
    slide: Annotated[Path, typer.Option("--slide", help="The annotated slide.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output GeoJSON file.", show_default=False)],
) -> None:
    """Convert a slide segmentation to GeoJSON regions for QuPath and training."""
    from pathology.cohorts.regions import read_slide_regions, write_slide_regions
    from pathology.errors import MissingScaleError
    from pathology.slide.open import open_reader

    with open_reader(slide) as reader:
        mpp, dicom = reader.mpp, reader.backend == "dicom"
    if mpp is None:
        raise MissingScaleError("the slide does not state its pixel size", where=slide)
    regions = read_slide_regions(annotation, mpp=mpp, slide=slide if dicom else None)
    count = write_slide_regions(out, regions)
    print(f"{count:,} regions of {', '.join(region.label for region in regions)}: {out}")


def _selected(
    name: str,
    kind: str | None,
    patients: Path | None,
    one_per_patient: bool,
    largest_mb: float | None,
    limit: int | None,
) -> tuple[tuple[CohortSeries, ...], tuple[CohortSeries, ...]]:
    from typing import cast, get_args

    from pathology.cohorts.index import Kind, find_cohort, read_cohort
    from pathology.cohorts.selection import select
    from pathology.errors import InputTableError, UsageError

    cohort = find_cohort(name)
    if kind is not None and kind not in get_args(Kind):
        raise UsageError(f"unknown kind {kind!r}", remedy=f"Choose one of: {', '.join(get_args(Kind))}")
    only = None
    if patients is not None:
        try:
            only = [line.strip() for line in patients.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputTableError(f"the list of patients cannot be read ({error})", where=patients) from error
    series = read_cohort(name)
    chosen = select(
        series,
        kind=cast("Kind | None", kind) or cohort.kind,
        patients=only,
        one_per_patient=one_per_patient,
        largest_mb=largest_mb,
        limit=limit,
    )
    return chosen, series


def _print_summary(name: str, chosen: tuple[CohortSeries, ...]) -> None:
    from pathology.cohorts.index import find_cohort, index_version
    from pathology.cohorts.selection import summarise

    summary = summarise(chosen)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.kinds.items())
    print(f"{find_cohort(name).title} ({index_version()})")
    print(
        f"  {summary.series:,} series ({kinds}) of {summary.patients:,} patients, {summary.files:,} files,"
        f" {_size(summary.size_mb)} in total, median {_size(summary.median_mb)}"
    )
    print(f"  Licences: {', '.join(f'{licence} ({count:,})' for licence, count in summary.licences.items())}")
    print(f"  Encodings: {', '.join(f'{encoding} ({count:,})' for encoding, count in summary.encodings.items())}")
    print(f"  Cite: {', '.join(f'doi:{doi}' for doi in summary.dois) or 'not stated'}")
    print(f"  Labels: {find_cohort(name).labels}")


def _print_labels(labels: Mapping[str, str], excluded: Mapping[str, int], vocabulary: str) -> None:
    from collections import Counter

    counts = Counter(labels.values())
    print(f"Labels ({vocabulary}): {', '.join(f'{count:,} {code}' for code, count in counts.most_common()) or 'none'}")
    for reason, count in excluded.items():
        print(f"  {count:,} slides excluded: {reason}")


def _size(megabytes: float) -> str:
    if megabytes >= 1e6:
        return f"{megabytes / 1e6:.2f} TB"
    return f"{megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f"{megabytes:.1f} MB"

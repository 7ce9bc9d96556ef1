"""``pathology patient``: build and show patient records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Patient records: slides, imaging and clinical data, merged. Research use only.", no_args_is_help=True
)


@app.command("build")
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.", show_default=False)],
    slides: Annotated[
        Path | None, typer.Option("--slides", help="Results folder of 'pathology score'.", show_default=False)
    ] = None,
    radiology: Annotated[
        Path | None,
        typer.Option("--radiology", help="Results folder of 'pathology radiology predict'.", show_default=False),
    ] = None,
    clinical: Annotated[
        Path | None, typer.Option("--clinical", help="Clinical table: CSV, TSV, XLSX or Parquet.", show_default=False)
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", help="NAME=COLUMN: the table column for a vocabulary name; repeatable.", show_default=False
        ),
    ] = None,
    survival: Annotated[
        list[Path] | None,
        typer.Option("--survival", help="Survival model folder to run on the records; repeatable.", show_default=False),
    ] = None,
    hash_ids: Annotated[
        Path | None,
        typer.Option(
            "--hash-ids",
            help="Pseudonymise with the key in this file (created if missing): hash identifiers, "
            "drop dates and free text.",
            show_default=False,
        ),
    ] = None,
    explain_with: Annotated[
        str | None,
        typer.Option(
            "--explain-with",
            help="URL of an OpenAI-compatible API that rewords the patient summary. Off by default. "
            "The API key is read from PATHOLOGY_LANGUAGE_MODEL_KEY.",
            show_default=False,
        ),
    ] = None,
    explain_model: Annotated[str, typer.Option("--explain-model", help="Name of the language model.")] = "default",
) -> None:
    """Merge results and a clinical table into a record, a table row and two pages per patient."""
    import os

    from pydantic import ValidationError

    from pathology.errors import OutputError, UsageError
    from pathology.patient.clinical import read_clinical
    from pathology.patient.identity import Pseudonyms
    from pathology.patient.language_model import LanguageModelSettings, reword
    from pathology.patient.pages import write_folder
    from pathology.patient.patient_summary import summarise_record
    from pathology.patient.record import (
        build_records,
        patient_table,
        read_radiology_results,
        read_slide_results,
    )

    columns = {}
    for text in column or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--column: expected NAME=COLUMN, got '{text}'")
        columns[name.strip()] = value.strip()
    records, report = build_records(
        slides=None if slides is None else read_slide_results(slides),
        imaging=None if radiology is None else read_radiology_results(radiology),
        clinical=None if clinical is None else read_clinical(clinical, columns=columns),
        pseudonyms=None if hash_ids is None else Pseudonyms.from_file(hash_ids),
    )
    notes: list[str] = []
    for folder in survival or []:
        from pathology.patient.survival import add_predictions
        from pathology.survival.models.registry import load_model

        records, found = add_predictions(records, load_model(folder), folder.name)
        notes += found
    report = report.model_copy(update={"warnings": (*report.warnings, *notes)})
    summaries = [summarise_record(record) for record in records]
    if explain_with is not None:
        try:
            settings = LanguageModelSettings(address=explain_with, model=explain_model)
        except ValidationError as error:
            raise UsageError(str(error.errors()[0]["msg"])) from error
        key = os.environ.get("PATHOLOGY_LANGUAGE_MODEL_KEY")
        summaries = [
            None if summary is None else reword(record, summary, settings, key=key)
            for record, summary in zip(records, summaries, strict=True)
        ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        patient_table(records).to_parquet(out / "patients.parquet", index=False)
        write_folder(out, records, report, summaries)
    except OSError as error:
        raise OutputError(f"the records cannot be written ({error})", where=out) from error
    typer.echo(
        f"{report.patients} patients: {report.with_slides} with slides, {report.with_imaging} with imaging, "
        f"{report.with_clinical} with clinical data, {report.complete} with all supplied sources."
    )
    for what, entries in report.findings():
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        typer.echo(f"{len(entries)} {what}: {'; '.join(entries[:5])}{more}")
    typer.echo(f"{out / 'index.html'}. Research use only.")


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="Output folder of 'pathology patient build'.", show_default=False)],
    patient: Annotated[str, typer.Argument(help="Patient ID.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole record as JSON.")] = False,
) -> None:
    """Print one patient's record."""
    from pathology.errors import UsageError
    from pathology.patient.record import PatientRecord, read_record

    record = (
        read_record(folder / "patients" / PatientRecord(patient_id=patient).folder / "record.json")
        if (folder / "patients" / PatientRecord(patient_id=patient).folder).is_dir()
        else None
    )
    if record is None:
        known = sorted(p.name for p in (folder / "patients").glob("*") if p.is_dir())
        raise UsageError(
            f"patient '{patient}' not found",
            where=folder,
            remedy=f"Available: {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}"
            if known
            else "Run 'pathology patient build' first",
        )
    if as_json:
        typer.echo(record.model_dump_json(indent=2))
        return
    typer.echo(f"Patient {record.patient_id}{' (pseudonym)' if record.hashed else ''}")
    for note in record.notes:
        typer.echo(f"  note: {note}")
    for name, value in record.clinical.items():
        typer.echo(f"  {name}: {value:g}" if isinstance(value, float) else f"  {name}: {value}")
    for slide in record.slides:
        outcome = slide.prediction or slide.status
        score = slide.probabilities.get(slide.prediction or "")
        typer.echo(f"  slide {slide.slide_id}: {outcome}{f' ({score:.3f})' if score is not None else ''}")
    for study in record.imaging:
        findings = f"{len(study.findings)} findings" if study.status == "done" else study.status
        predicted = f"{study.prediction}, " if study.prediction else ""
        typer.echo(f"  {study.study} {study.modality}: {predicted}{findings}")
    for p in record.survival:
        survival = ", ".join(f"{time} {100 * v:.0f} %" for time, v in p.survival.items())
        typer.echo(f"  {p.outcome} by {p.model} ({p.kind}): {p.group} risk; event-free {survival}")
    typer.echo("Research use only.")

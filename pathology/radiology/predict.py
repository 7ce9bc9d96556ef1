"""Apply a trained bundle to a cohort; failures are isolated per patient, and finished patients are not recomputed.

::

    OUT/run.json                      command, inputs and versions
    OUT/results.csv                   one row per patient: patient_id, study, modality, status, numbers..., error
    OUT/index.html                    the report
    OUT/studies/<patient>/study.json  all results, next to masks and figures
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pathology._version import __version__
from pathology.atomic_files import write_text
from pathology.errors import PathologyError, StoreError
from pathology.input_files import files_below, read_json, require_regular
from pathology.path_text import path_text
from pathology.radiology.io.clinical import require_columns
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.io.errors import StudyError
from pathology.radiology.models.bundle import RadiologyCard, read_radiology_card
from pathology.radiology.models.registry import predict_case, recipe_of
from pathology.reports.html import data_uri
from pathology.reports.page import Cell, Picture, Section, Table, write_report

__all__ = ["predict_cohort"]

_CAPTIONS = {
    "attention.png": "Where the network looked (Grad-CAM)",
    "inputs.png": "Network input",
    "montage.png": "Slices with contours",
    "nomogram.png": "Nomogram",
}
"""Figure captions on the page."""
_HEADS = {
    "patient_id": "patient",
    "volume_cm3": "volume, cm³",
    "points": "points,",
    "probabilities": "probability of",
    "spread": "SD over images,",
    "values": "value of",
    "votes": "images predicted",
}
"""Table headings that differ from the column names."""


def predict_cohort(
    model: Path,
    cohort: Cohort,
    out: Path,
    *,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Apply a bundle to every patient.

    Parameters
    ----------
    model
        Radiology bundle folder.
    cohort
        Patients.
    out
        Results folder; patients finished with the same model and images are not recomputed.
    device
        ``cpu`` or ``cuda``.
    progress
        Called with patient ID, completed patients and total patients.

    Returns
    -------
    pandas.DataFrame
        The rows of ``results.csv``.

    Raises
    ------
    BundleError
        If the bundle cannot be used; errors of single patients are reported in their rows.
    InputTableError
        If the bundle predicts from clinical columns that the cohort's table does not have.
    """
    card = read_radiology_card(model)
    require_columns(cohort.clinical, recipe_of(card).clinical_columns(card))
    rows = []
    for number, case in enumerate(cohort.cases):
        folder = out / "studies" / case.patient_id
        rows.append(_one(model, card, cohort.with_values(case), folder, device))
        if progress is not None:
            progress(case.patient_id, number + 1, len(cohort))
    rows += [{"patient_id": p, "status": "failed", "error": why} for p, why in cohort.problems.items()]
    table = pd.DataFrame([_flat(r) for r in rows])
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "results.csv", table.to_csv(index=False))
    write_text(out / "run.json", json.dumps(_run(card, device, len(rows)), indent=1) + "\n")
    _report(out, card, rows)
    return table


def _one(model: Path, card: RadiologyCard, case: Case, folder: Path, device: str) -> dict[str, Any]:
    record = folder / "study.json"
    row: dict[str, Any] = {"patient_id": case.patient_id, "status": "failed", "key": ""}
    try:
        row["key"] = _key(card, case)
        earlier = _finished(record)
        if earlier.get("key") == row["key"]:
            return earlier
        row |= predict_case(model, case, folder, device=device) | {"status": "done"}
    except PathologyError as error:
        row |= {"error": str(error)}
    except Exception as error:  # an unexpected error in one patient must not stop the others
        row |= {"error": f"unexpected {type(error).__name__}: {error}"}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    return row


def _finished(record: Path) -> dict[str, Any]:
    """Return the row of an earlier run if the patient was finished; otherwise nothing."""
    try:
        earlier = read_json(record, StoreError)
    except StoreError:
        return {}
    return earlier if isinstance(earlier, dict) and earlier.get("status") == "done" else {}


def _key(card: RadiologyCard, case: Case) -> str:
    """Hash of the model, its clinical inputs and the image files; an equal hash means the result is still valid."""
    digest = hashlib.sha256(f"{__version__} {card.weights_sha256} {card.recipe_settings}".encode())
    used = recipe_of(card).clinical_columns(card)
    digest.update(repr([(name, str(case.clinical.get(name))) for name in used]).encode())
    for path in [*_files(case.images), *_files(case.masks)]:
        require_regular(path, StudyError)
        digest.update(path_text(path.name).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _files(group: Mapping[str, Path] | Mapping[str, tuple[Path, ...]]) -> list[Path]:
    found: list[Path] = []
    for _, value in sorted(group.items()):
        for path in value if isinstance(value, tuple) else (value,):
            found += files_below(path, StudyError) if path.is_dir() else [path]
    return found


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested numbers to columns such as ``probabilities.high``."""
    flat: dict[str, Any] = {"patient_id": row["patient_id"], "study": row.get("sequence", "imaging")}
    flat |= {"modality": row.get("modality", ""), "status": row["status"]}
    excluded = {"files", "key", "intended_use", "sequence", "error", *flat}
    for name, value in row.items():
        if name in excluded:
            continue
        if isinstance(value, dict):
            flat |= {f"{name}.{k}": v for k, v in value.items() if isinstance(v, int | float)}
        elif isinstance(value, list):
            flat[name] = "; ".join(map(str, value))
        else:
            flat[name] = value
    return flat | {"error": row.get("error", "")}


def _run(card: RadiologyCard, device: str, patients: int) -> dict[str, Any]:
    return {
        "program": f"pathology {__version__}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": f"{card.name} {card.version}",
        "model_sha256": card.weights_sha256,
        "system": card.system,
        "recipe": card.recipe_settings,
        "device": device,
        "python": platform.python_version(),
        "patients": patients,
        "intended_use": card.intended_use,
    }


def _report(out: Path, card: RadiologyCard, rows: list[dict[str, Any]]) -> None:
    done = [r for r in rows if r["status"] == "done"]
    flat = [_flat(r) for r in rows]
    # Error messages are sentences: shown above the table, not in a cell.
    hidden = ("study", "modality", "model", "system", "notes", "error")
    columns = [c for c in dict.fromkeys(c for r in flat for c in r) if c not in hidden]
    table = Table(
        head=tuple(_heading(c) for c in columns),
        rows=tuple(tuple(Cell(value=_format(r.get(c, ""))) for c in columns) for r in flat),
    )
    measured = Table(
        head=("Metric", "Value", "n", "Data"),
        rows=tuple(
            (
                Cell(value=f.metric),
                Cell(
                    value="not available" if f.value is None else f"{f.value:.3f}",
                    ci="" if f.interval is None else f"{f.interval[0]:.3f}-{f.interval[1]:.3f}",
                ),
                Cell(value=f"{f.n} {f.unit}"),
                Cell(value=f.data, ci=f.note),
            )
            for f in card.metrics
        ),
    )
    sections = [
        Section(heading="Patients", table=table),
        *(_study(out, r) for r in done),
        Section(heading="Model", text=card.title, table=measured, note="Limits: " + " ".join(card.limits)),
    ]
    warnings = [f"{r['patient_id']}: {r['error']}" for r in rows if r["status"] != "done"]
    warnings += [f"{r['patient_id']}: {note}." for r in done for note in r.get("notes", [])]
    if card.constructed:
        warnings.insert(0, "The model was trained on constructed data: its predictions have no clinical meaning.")
    write_report(
        out / "index.html",
        f"{card.name} {card.version}",
        f"{len(done)} of {len(rows)} patients; {card.intended_use}",
        sections,
        warnings=warnings,
    )


def _study(out: Path, row: dict[str, Any]) -> Section:
    folder = out / "studies" / row["patient_id"]
    pictures = tuple(
        Picture(
            caption=_CAPTIONS.get(name, name), address=data_uri((folder / name).read_bytes(), "image/png"), width=720
        )
        for name in row.get("files", [])
        if name.endswith(".png") and (folder / name).exists()
    )
    return Section(heading=row["patient_id"], pictures=pictures)


def _heading(column: str) -> str:
    """Return the heading of a column: ``probabilities.high`` becomes ``probability of high``."""
    group, _, member = column.partition(".")
    named = _HEADS.get(group, group.replace("_", " "))
    return f"{named} {member}" if member else named


def _format(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return str(value)

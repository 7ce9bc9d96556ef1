"""``pathology export``, ``import-review`` and ``heatmap``: results for other programs, and reviewed results back."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathology.outputs.export.exports import ExportSettings
    from pathology.outputs.results.results_folder import Results, SlideFolder

__all__ = ["draw_heatmap", "import_review", "run"]


def run(
    results: Path,
    formats: list[str],
    *,
    to: Path | None,
    slides: list[str],
    class_name: str | None,
    width: int,
    smooth: float | None,
) -> int:
    """Export and return the exit status: 0 all written, 1 some slides could not be exported."""
    from pathology.errors import UsageError
    from pathology.folder_lock import locked_folder
    from pathology.outputs.export.exports import BATCH_FORMATS, FORMATS, ExportSettings
    from pathology.outputs.results.results_folder import open_results

    known = {**{n: f.what for n, f in FORMATS.items()}, **{n: f.what for n, f in BATCH_FORMATS.items()}}
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        listed = "; ".join(f"{name} ({what})" for name, what in known.items())
        problem = f"unknown format {unknown[0]!r}" if unknown else "no format given"
        raise UsageError(problem, remedy=f"Give --format one or more times: {listed}")
    if smooth is not None and not smooth > 0:
        raise UsageError(f"--smooth is {smooth:g}; it must be above 0 µm")
    batch = open_results(results)
    chosen = [batch[name] for name in slides] if slides else list(batch)
    settings = ExportSettings(class_name=class_name, longest=width, smooth_um=smooth)
    folder = to or results / "exports"
    with locked_folder(folder):
        problems = _export(batch, chosen, formats, folder, settings)
    print("Research use only.")
    return 1 if problems else 0


def _export(
    batch: Results, slides: list[SlideFolder], formats: list[str], folder: Path, settings: ExportSettings
) -> int:
    """Write the files and return how many could not be made."""
    from pathology.errors import OutputError, PathologyError
    from pathology.outputs.export.exports import BATCH_FORMATS, export_batch, export_slide

    problems = 0
    for name in formats:
        if name in BATCH_FORMATS:
            print(export_batch(batch, name, folder))
    for slide in slides:
        for name in formats:
            if name in BATCH_FORMATS:
                continue
            try:
                print(export_slide(slide, name, folder, settings))
            except OutputError:
                raise  # further files could not be written either
            except PathologyError as error:
                problems += 1
                print(f"{slide.slide_id}: not exported as {name}: {error.what}", file=sys.stderr)
    return problems


def import_review(results: Path, slide_id: str, reviewed: Path, missing: str | None) -> None:
    """Import a review made in QuPath or in a spreadsheet, save it with the results, and say what became of it."""
    from pathology.errors import UsageError
    from pathology.outputs.export.detection_table import read_detection_table
    from pathology.outputs.export.geojson import read_objects
    from pathology.outputs.export.qupath_review import read_review
    from pathology.outputs.results.detection_file import write_decisions
    from pathology.outputs.results.results_folder import open_results

    slide = open_results(results)[slide_id]
    if slide.detections is None:
        raise UsageError("this slide has no detections: the model is not a detector", where=slide.folder)
    if not reviewed.is_file():
        raise UsageError("file not found", where=reviewed)
    earlier = slide.decisions()
    if missing not in (None, "rejected", "unchanged"):
        raise UsageError(f"--missing is {missing!r}", remedy="Choose rejected or unchanged")
    said = []
    if reviewed.suffix.lower() in (".csv", ".tsv"):
        decisions = read_detection_table(reviewed, slide.detections, earlier)
    else:
        review = read_review(
            read_objects(reviewed),
            slide.detections,
            earlier,
            mpp=slide.record.mpp,
            dimensions=slide.dimensions if slide.record.width else None,
            missing=missing,  # type: ignore[arg-type]
        )
        decisions = review.decisions
        said = [f"Objects: {review.summary()}.", *(f"  not understood: {line}" for line in review.not_understood)]
    write_decisions(slide.folder, slide.detections, decisions.values())
    before, after = slide.count_with(earlier), slide.count_with(decisions)
    assert before is not None
    assert after is not None
    if said:
        print("\n".join(said))
    print(
        f"{slide_id}: {after.accepted} accepted, {after.rejected} rejected, {after.added} added; "
        f"count {before.total} before review, {after.total} now."
    )
    if after.hotspot is not None:
        low, high = after.hotspot.per_mm2_interval
        print(f"Hotspot: {after.hotspot.basis}; {after.hotspot.per_mm2:.1f} per mm² ({low:.1f}-{high:.1f}).")
    print("Research use only.")


def draw_heatmap(
    slide: Path,
    model: str,
    out: Path,
    *,
    class_name: str | None,
    width: int,
    mpp: float | None,
    engine: str,
    device: str | None,
) -> None:
    """Score the slide in a temporary folder and draw its heatmap."""
    from pathology.atomic_files import write_bytes
    from pathology.bundle.catalogue import load_bundle
    from pathology.cli.display import shown_progress
    from pathology.errors import OutputError, SlideError, UsageError
    from pathology.outputs.export.exports import ExportSettings, export_slide
    from pathology.outputs.results.results_folder import open_results
    from pathology.scoring.batch import score

    if out.suffix.lower() != ".png":
        raise UsageError(f"the image must be a .png file, not {out.name!r}", remedy="Give --out NAME.png")
    if not out.absolute().parent.is_dir():
        raise OutputError("this folder does not exist", where=out.absolute().parent, remedy="Create it first")
    bundle = load_bundle(model)
    if class_name is not None and class_name not in bundle.card.classes:
        raise UsageError(
            f"unknown class {class_name!r}", remedy=f"The model's classes are: {', '.join(bundle.card.classes)}"
        )
    with tempfile.TemporaryDirectory(prefix="pathology-") as scratch, shown_progress() as display:
        batch = score([slide], model, scratch, mpp=mpp, engine=engine, device=device, progress=display)
        result = batch.slides[0]
        if result.status == "failed":
            raise SlideError(result.error, where=slide)
        scored = open_results(batch.out)[result.slide_id]
        drawn = export_slide(scored, "overlay", Path(scratch), ExportSettings(class_name=class_name, longest=width))
        write_bytes(out, drawn.read_bytes())
    print(f"{out}: {result.summary}; {result.patches} patches scored. Research use only.")

"""``pathology heatmap``: one slide, one picture."""

from __future__ import annotations

import tempfile
from pathlib import Path

__all__ = ["run"]


def run(
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
    """Score the slide in a scratch folder and draw its heatmap."""
    from pathology.atomic_files import write_bytes
    from pathology.bundle.catalogue import load_bundle
    from pathology.cli.display import shown_progress
    from pathology.errors import OutputError, SlideError, UsageError
    from pathology.outputs.export.exports import ExportSettings, export_slide
    from pathology.outputs.results.results_folder import open_results
    from pathology.scoring.batch import score

    if out.suffix.lower() != ".png":
        raise UsageError(f"the picture must be a .png file, not {out.name!r}", remedy="Give --out NAME.png")
    if not out.absolute().parent.is_dir():
        raise OutputError("this folder does not exist", where=out.absolute().parent, remedy="Make it first")
    bundle = load_bundle(model)
    if class_name is not None and class_name not in bundle.card.classes:
        raise UsageError(
            f"there is no class {class_name!r}", remedy=f"The model's classes are: {', '.join(bundle.card.classes)}"
        )
    with tempfile.TemporaryDirectory(prefix="pathology-") as scratch, shown_progress() as display:
        batch = score([slide], model, scratch, mpp=mpp, engine=engine, device=device, progress=display)
        result = batch.slides[0]
        if result.status == "failed":
            raise SlideError(result.error, where=slide)
        scored = open_results(batch.out)[result.slide_id]
        drawn = export_slide(scored, "overlay", Path(scratch), ExportSettings(class_name=class_name, longest=width))
        write_bytes(out, drawn.read_bytes())
    print(f"{out}: {result.prediction} leads; {result.patches} patches scored. Research use only.")

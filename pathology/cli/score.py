"""``pathology score``: score a batch of slides and show progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathology.cli.display import shown_progress

__all__ = ["run"]


def run(given: Mapping[str, Any], out: Path, *, config: Path | None, options: Mapping[str, str], verbose: bool) -> int:
    """Score and return the exit status: 0 all scored, 1 some failed.

    Parameters
    ----------
    given
        Fields of :class:`pathology.settings.ScoreConfig` given on the command line.
    out
        The results folder.
    config
        YAML file with further fields.
    options
        The command line's option for each field.
    verbose
        Print how many stored tiles were decoded and reused.
    """
    from pathology.cli.classifiers.score_head import is_head, run_head
    from pathology.configuration import configured
    from pathology.scoring.batch import score
    from pathology.settings import ScoreConfig

    requested = configured(ScoreConfig, given, file=config, options=options)
    if is_head(requested.model):
        return run_head(requested, out, given)
    settings = requested.scoring
    if settings.region is not None:
        # Workers may run in another folder.
        results = str(Path(settings.region.results).absolute())
        settings = settings.model_copy(update={"region": settings.region.model_copy(update={"results": results})})
    started = time.monotonic()
    with shown_progress() as display:
        batch = score(
            requested.slides,
            requested.model,
            out,
            settings=settings,
            progress=display,
            **requested.run.model_dump(mode="json"),
        )
    failed = batch.failed
    abstained = sum(result.abstained for result in batch)
    scored = len(batch) - len(failed) - abstained
    if batch.unchanged == len(batch):
        print(f"Nothing to do: all {len(batch)} slides are already scored and unchanged.")
    print(f"{scored} scored, {abstained} abstained, {len(failed)} failed, in {time.monotonic() - started:.1f} s.")
    warned = sum(bool(result.warnings) for result in batch if result.status != "failed")
    if warned:
        print(f"  {warned} with warnings: see the column warnings of results.csv, or the reports")
    for result in failed:
        print(f"  failed: {result.slide_id}: {result.error}")
    if failed and batch.unchanged:
        print("  (add --retry-failed to retry slides that failed in an earlier run)")
    if verbose:
        for slide_id, tiles in batch.tiles.items():
            print(f"  {slide_id}: stored tiles: {tiles}")
    print(f"Table:  {out / 'results.csv'}\nReport: {out / 'index.html'}\nResearch use only.")
    return 1 if failed else 0

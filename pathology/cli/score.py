"""``pathology score``: the batch with its progress shown."""

from __future__ import annotations

import time
from pathlib import Path

from pathology.cli.display import shown_progress
from pathology.settings import ScoreSettings

__all__ = ["run"]


def run(
    slides: list[Path],
    model: str,
    out: Path,
    *,
    mpp: float | None,
    workers: int | None,
    scheduler: str | None,
    slurm: Path | None,
    readers: int | None,
    stride: int | None,
    min_tissue: float | None,
    tumour_map: Path | None,
    tumour_class: list[str],
    quality: bool,
    engine: str,
    device: str | None,
    precision: str,
    aggregator: str,
    retry_failed: bool,
    verbose: bool,
) -> int:
    """Score and return the exit status: 0 all scored, 1 some failed."""
    from pydantic import ValidationError

    from pathology.errors import UsageError
    from pathology.scoring.batch import score

    if (tumour_map is not None) != bool(tumour_class):
        raise UsageError(
            "a tumour map and the classes in it that are tumour are given together",
            remedy='Give both, such as: --tumour-map RESULTS --tumour-class "viable tumour"',
        )
    region = None if tumour_map is None else {"results": str(tumour_map.absolute()), "classes": tumour_class}
    try:
        settings = ScoreSettings.model_validate(
            {
                "stride": stride,
                "min_tissue": min_tissue,
                "precision": precision,
                "quality": {} if quality else None,
                "aggregator": aggregator,
                "region": region,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from error
    began = time.monotonic()
    with shown_progress() as display:
        batch = score(
            slides,
            model,
            out,
            settings=settings,
            mpp=mpp,
            workers=workers,
            scheduler=scheduler,
            slurm=slurm,
            readers=readers,
            engine=engine,
            device=device,
            retry_failed=retry_failed,
            progress=display,
        )
    failed = batch.failed
    abstained = sum(result.abstained for result in batch)
    scored = len(batch) - len(failed) - abstained
    if batch.unchanged == len(batch):
        print(f"Nothing to do: all {len(batch)} slides were finished before and have not changed.")
    print(f"{scored} scored, {abstained} abstained, {len(failed)} failed, in {time.monotonic() - began:.1f} s.")
    for result in failed:
        print(f"  failed: {result.slide_id}: {result.error}")
    if failed and batch.unchanged:
        print("  (slides that failed before are tried again with --retry-failed)")
    if verbose:
        for slide_id, tiles in batch.tiles.items():
            print(f"  {slide_id}: stored tiles: {tiles}")
    print(f"Table:  {out / 'results.csv'}\nReport: {out / 'index.html'}\nResearch use only.")
    return 1 if failed else 0

"""``pathology tile``: slides into patch stores."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

__all__ = ["run"]


def run(
    slides: list[Path],
    out: Path,
    *,
    patch: int,
    target_mpp: float,
    stride: int | None,
    min_tissue: float,
    pixels: str,
    mpp: float | None,
    workers: int | None,
    verbose: bool,
) -> int:
    """Tile and return the exit status: 0 all done, 1 some failed."""
    from pydantic import ValidationError

    from pathology.cli.display import shown_progress
    from pathology.errors import UsageError
    from pathology.scoring.stores import tile
    from pathology.settings import GridSettings
    from pathology.tiling.store import StoreMode

    modes = get_args(StoreMode)
    if pixels not in modes:
        raise UsageError(f"--pixels {pixels!r} does not exist", remedy=f"Choose one of: {', '.join(modes)}")
    try:
        settings = GridSettings(patch=patch, mpp=target_mpp, stride=stride or patch, min_tissue=min_tissue)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{str(first['loc'][0]) if first['loc'] else 'stride'}: {first['msg']}") from error
    with shown_progress() as display:
        tiled, decoded = tile(
            slides, out, settings, mode=cast(StoreMode, pixels), mpp=mpp, workers=workers, progress=display
        )
    failed = [result for result in tiled if result.error]
    for result in tiled:
        if result.error:
            print(f"failed: {result.slide_id}: {result.error}")
        else:
            print(f"{result.store}: {result.patches} patches{' (finished before)' if result.unchanged else ''}")
    if verbose:
        print(f"Stored tiles decoded for patches: {decoded}.")
    return 1 if failed else 0

"""``pathology tile``: cut slides into patch stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

__all__ = ["run"]


def run(
    slides: list[Path],
    out: Path,
    *,
    patch: int,
    target_mpp: str,
    stride: int | None,
    min_tissue: float,
    pixels: str,
    stain: str,
    quality: bool,
    mpp: float | None,
    workers: int | None,
    verbose: bool,
) -> int:
    """Tile and return the exit status: 0 all done, 1 some failed."""
    from pydantic import ValidationError

    from pathology.cli.display import shown_progress
    from pathology.errors import UsageError
    from pathology.scoring.tile import tile
    from pathology.settings import GridSettings, QualitySettings
    from pathology.slide.stain.normalise import StainMethod
    from pathology.tiling.store import StoreMode

    modes, stains = get_args(StoreMode), ("none", *get_args(StainMethod))
    for name, value, allowed in (("pixels", pixels, modes), ("stain", stain, stains)):
        if value not in allowed:
            raise UsageError(f"--{name}: unknown value {value!r}", remedy=f"Choose one of: {', '.join(allowed)}")
    native = target_mpp == "native"
    try:
        grid: dict[str, Any] = {"patch": patch, "stride": stride or patch, "min_tissue": min_tissue}
        settings = GridSettings.model_validate(grid if native else {**grid, "mpp": target_mpp})
    except ValidationError as error:
        first = error.errors()[0]
        name = {"mpp": "target-mpp"}.get(str(first["loc"][0]), str(first["loc"][0])) if first["loc"] else "stride"
        raise UsageError(f"--{name.replace('_', '-')}: {first['msg']}") from error
    with shown_progress() as display:
        tiled = tile(
            slides,
            out,
            settings,
            mode=cast(StoreMode, pixels),
            native=native,
            quality=QualitySettings() if quality else None,
            stain=cast(Any, stain),
            mpp=mpp,
            workers=workers,
            progress=display,
        )
    for result in tiled:
        if result.error:
            print(f"failed: {result.slide_id}: {result.error}")
            continue
        excluded = f", {result.excluded} excluded for artefacts" if result.excluded else ""
        print(f"{result.store}: {result.patches} patches{excluded}{' (already done)' if result.unchanged else ''}")
        if verbose:
            print(f"  stored tiles: {result.tiles}")
    return 1 if any(result.error for result in tiled) else 0

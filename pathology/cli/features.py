"""``pathology features``: feature vectors of slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["run"]


def run(slides: list[Path], encoders: list[str], out: Path, *, layout: str, quality: bool, **options: Any) -> int:
    """Compute the features and return the exit status: 0 all done, 1 some failed."""
    from pydantic import ValidationError

    from pathology.cli.display import shown_progress
    from pathology.errors import UsageError
    from pathology.scoring.features import check_format, encode_slides
    from pathology.settings import QualitySettings

    chosen = check_format(layout)
    with shown_progress() as display:
        try:
            encoded = encode_slides(
                slides,
                encoders,
                out,
                format=chosen,
                quality=QualitySettings() if quality else None,
                progress=display,
                **options,
            )
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "stride"
            option = {"mpp": "target-mpp"}.get(name, name).replace("_", "-")
            raise UsageError(f"--{option}: {first['msg']}") from error
    for slide in encoded:
        if slide.error:
            print(f"failed: {slide.slide_id}: {slide.error}")
            continue
        missing = f", {slide.unreadable} unreadable and left out" if slide.unreadable else ""
        done = " (already done)" if slide.unchanged else ""
        for path in slide.files:
            print(f"{path}: {slide.patches} patches{missing}{done}")
    print("Research use only.")
    return 1 if any(slide.error for slide in encoded) else 0

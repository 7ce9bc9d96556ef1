"""``pathology info``: properties of a slide."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["print_readers", "run"]


def print_readers() -> None:
    """Print the readers in the order in which they are tried: this program's own, then those of other packages."""
    from pathology.slide.open import BACKENDS, SLIDE_SUFFIXES
    from pathology.slide.readers.outside import outside_readers

    print(f"own: {', '.join(BACKENDS)}; a file's content decides which")
    print(f"     {' '.join(sorted(SLIDE_SUFFIXES))} .zarr .zarr.zip .ozx")
    for reader in outside_readers():
        said = f"cannot be used: {reader.problem}" if reader.problem else " ".join(sorted(reader.suffixes))
        print(f"{reader.name} ({reader.package}): {said}")


def run(slide: Path, *, mpp: float | None, as_json: bool) -> None:
    """Print a slide's levels, scale, format and scanner."""
    from pathology.errors import SlideError
    from pathology.slide.open import open_reader
    from pathology.slide.scale import resolve_mpp

    with open_reader(slide) as reader:
        try:
            scale = resolve_mpp(reader, option=mpp, manifest=None)
            scale_text = f"{scale.mpp:.4g} µm per pixel (from: {scale.source})" + (
                f"; {scale.warning}" if scale.warning else ""
            )
            value: float | None = scale.mpp
        except SlideError as error:
            scale_text, value = error.what + (f". {error.remedy}" if error.remedy else ""), None
        if as_json:
            about = {
                "path": str(slide),
                "reader": reader.backend,
                "vendor": reader.vendor,
                "mpp": value,
                "scale": scale_text,
                "objective_power": reader.objective_power,
                "fingerprint": reader.fingerprint,
                "icc_profile": reader.icc_profile is not None,
                "levels": [
                    {
                        "width": level.width,
                        "height": level.height,
                        "downsample": level.downsample,
                        "tile_size": list(level.tile_size),
                    }
                    for level in reader.levels
                ],
                "properties": dict(reader.properties),
                "warnings": list(reader.warnings),
            }
            print(json.dumps(about, indent=1, ensure_ascii=False))
            return
        width, height = reader.dimensions
        print(f"{slide.name}")
        print(
            f"  size       {width:,} x {height:,} pixels"
            + (f", {width * value / 1000:.2f} x {height * value / 1000:.2f} mm" if value else "")
        )
        print(f"  scale      {scale_text}")
        print(f"  objective  {f'{reader.objective_power:g}x' if reader.objective_power else 'not stated'}")
        print(f"  format     {reader.vendor or 'unknown'}, read by {reader.backend}")
        for number, level in enumerate(reader.levels):
            print(
                f"  level {number}    {level.width:,} x {level.height:,}, downsample {level.downsample:.4g}, "
                f"tiles {level.tile_size[0]} x {level.tile_size[1]}"
            )
        for warning in reader.warnings:
            print(f"  warning    {warning}")
        print(f"  colour     {'ICC profile embedded' if reader.icc_profile else 'no ICC profile'}")
        for name, content in reader.properties.items():
            print(f"  {name}: {content}")

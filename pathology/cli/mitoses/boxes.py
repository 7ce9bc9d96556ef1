"""``pathology boxes``: check annotated mitoses against their slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathology.annotations.check import Meaning

__all__ = ["BoxSize", "ClassMeanings", "SkipMissing", "Whole", "boxes_command", "meanings"]

ClassMeanings = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        help="What a class of the boxes means: NAME=mitosis, look-alike, region or ignore; repeatable.",
        show_default=False,
    ),
]
BoxSize = Annotated[
    float | None,
    typer.Option("--box-size", min=4, max=60, help="Side of the box around a point, in µm.", show_default=False),
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out annotations of slides that are not given.")
]
Whole = Annotated[bool, typer.Option("--whole", help="Slides without a region were looked at as a whole.")]


def boxes_command(
    slides: Annotated[
        list[Path],
        typer.Option("--slides", "-s", help="Slide, field, folder or CSV manifest; repeatable.", show_default=False),
    ],
    boxes: Annotated[
        list[Path],
        typer.Option(
            "--boxes",
            "-b",
            help="COCO or MIDOG JSON, YOLO folder, Pascal VOC, QuPath GeoJSON, ASAP or ImageScope XML, CSV, or a "
            "results folder with a review; repeatable.",
            show_default=False,
        ),
    ],
    classes: ClassMeanings = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="Level-0 micrometres per pixel, for all slides.", show_default=False)
    ] = None,
    box_size: BoxSize = None,
    whole: Whole = False,
    skip_missing: SkipMissing = False,
) -> None:
    """Check annotated mitoses against their slides, and list everything that is broken."""
    from pathology.annotations.check import check_boxes
    from pathology.annotations.read import read_boxes
    from pathology.scoring.select import select_slides

    files, entries = read_boxes(boxes), select_slides(slides)
    found = check_boxes(
        files,
        entries,
        classes=meanings(classes or ()),
        mpp=mpp,
        box_um=box_size,
        whole=whole,
        skip_missing=skip_missing,
    )
    for slide in found:
        regions = "all of it" if slide.whole else f"{len(slide.regions)} regions"
        print(
            f"{slide.entry.slide_id}: {len(slide.mitoses)} mitoses, {len(slide.look_alikes)} look-alikes, "
            f"looked at: {regions}, {slide.mpp:g} µm per pixel"
        )
    mitoses, others = (sum(map(len, each)) for each in zip(*((s.mitoses, s.look_alikes) for s in found), strict=True))
    print(
        f"{len(found)} slides, {mitoses} mitoses, {others} look-alikes; {', '.join(sorted({f.form for f in files}))}."
    )
    given = {slide.entry.slide_id for slide in found}
    if rest := [entry.slide_id for entry in entries if entry.slide_id not in given]:
        print(f"{len(rest)} slides have no annotations and are left out; first: {rest[0]}")
    named = len({(file.source, image) for file in files for image in file.images})
    if skip_missing and named > len(found):
        print(f"{named} images are annotated; those that are not among the slides are left out.")


def meanings(given: Sequence[str]) -> dict[str, Meaning]:
    """Read ``NAME=MEANING``."""
    from typing import get_args

    from pathology.annotations.check import Meaning
    from pathology.errors import UsageError

    result: dict[str, Meaning] = {}
    for text in given:
        name, _, said = text.rpartition("=")
        meaning = next((known for known in get_args(Meaning) if known == said.strip()), None)
        if not name.strip() or meaning is None:
            raise UsageError(
                f"--class {text!r} is not NAME=MEANING",
                remedy=f"The meaning is {', '.join(get_args(Meaning)[:-1])} or {get_args(Meaning)[-1]}",
            )
        result[name.strip()] = meaning
    return result

"""The ``pathology`` command.

Every subcommand imports what it needs when it runs, so that ``pathology --help`` answers at once.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathology._version import __version__
from pathology.cli.settings_options import Config, given_settings, option_names, settings_command
from pathology.errors import PathologyError

if TYPE_CHECKING:
    from pathology.settings import Record

__all__ = ["app", "main"]

app = typer.Typer(
    name="pathology",
    help="Score whole-slide images of soft tissue sarcomas. Research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Slides = Annotated[
    list[Path], typer.Argument(help="Slide files, folders of slides, or CSV manifests.", show_default=False)
]
Slide = Annotated[Path, typer.Argument(help="A slide file, or the folder of a DICOM series.", show_default=False)]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Name of a model bundle, or its folder; or tiatoolbox:NAME for a patch classifier of TIAToolbox's zoo.",
        show_default=False,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        help="Micrometres per pixel of the slide's finest level, overriding what the file says.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Local worker processes; by default one a GPU, else one.", show_default=False),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride", help="Pixels between patches at the target scale; by default patches touch.", show_default=False
    ),
]
MinTissue = Annotated[
    float, typer.Option("--min-tissue", min=0, max=1, help="Smallest share of a patch that must be tissue.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; by default CUDA where there is a device.", show_default=False),
]
Engine = Annotated[str, typer.Option("--engine", help="Inference engine: auto, torch, openvino.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: tiles decoded, reader, timings.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"pathology {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _score_config() -> type[Record]:
    from pathology.settings import ScoreConfig

    return ScoreConfig


@app.command(
    "score",
    cls=settings_command(
        _score_config,
        arguments=("slides",),
        named={
            "model": "--model -m",
            "quality": "--quality/--no-quality",
            "region.results": "--tumour-map",
            "region.classes": "--tumour-class",
        },
    ),
)
def score_command(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Results folder; the same command again resumes.", show_default=False)
    ],
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Score slides: a table, a heatmap and a report for each."""
    from pathology.cli.score import run

    raise typer.Exit(run(given_settings(context), out, config=config, options=option_names(context), verbose=verbose))


@app.command("info")
def info_command(
    slide: Slide,
    mpp: Mpp = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a slide is: levels, scale, reader, scanner."""
    from pathology.cli.info import run

    run(slide, mpp=mpp, as_json=as_json)


@app.command("tile")
def tile_command(
    slides: Slides,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the patch stores, one <slide>.zarr each.", show_default=False),
    ],
    patch: Annotated[int, typer.Option("--patch", help="Side of a patch in pixels.")] = 224,
    target_mpp: Annotated[
        str,
        typer.Option(
            "--target-mpp", help="Micrometres per pixel of the patches, or native: as in each slide's finest level."
        ),
    ] = "1.0",
    stride: Stride = None,
    min_tissue: MinTissue = 0.5,
    pixels: Annotated[
        str,
        typer.Option(
            "--pixels",
            help="reference: coordinates only; encoded: the slide's own compressed tiles, where the patches are these; "
            "decoded: pixels.",
        ),
    ] = "reference",
    stain: Annotated[
        str, typer.Option("--stain", help="Stain normalisation: none, macenko, reinhard, vahadane.")
    ] = "none",
    quality: Annotated[
        bool,
        typer.Option("--quality/--no-quality", help="Leave out patches spoilt by pen, blur, folds, bubbles, dirt."),
    ] = True,
    mpp: Mpp = None,
    workers: Workers = None,
    verbose: Verbose = False,
) -> None:
    """Cut slides into patch stores (zarr)."""
    from pathology.cli.tile import run

    raise typer.Exit(
        run(
            slides,
            out,
            patch=patch,
            target_mpp=target_mpp,
            stride=stride,
            min_tissue=min_tissue,
            pixels=pixels,
            stain=stain,
            quality=quality,
            mpp=mpp,
            workers=workers,
            verbose=verbose,
        )
    )


@app.command("heatmap")
def heatmap_command(
    slide: Slide,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write (.png).", show_default=False)],
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", help="Show this class's probability; by default the leading class.", show_default=False
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=64, help="Longer side of the picture in pixels.")] = 1600,
    mpp: Mpp = None,
    engine: Engine = "auto",
    device: Device = None,
) -> None:
    """Draw one slide's heatmap over the slide."""
    from pathology.cli.export import draw_heatmap

    draw_heatmap(slide, model, out, class_name=class_name, width=width, mpp=mpp, engine=engine, device=device)


@app.command("view")
def view_command(
    results: Annotated[
        list[Path],
        typer.Argument(help="Results folders of pathology score; several to compare models.", show_default=False),
    ],
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slides", help="Folder where slides are now, if they were moved.", show_default=False),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option("--patients", help="Folder of pathology patient build, to link to its pages.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Look at results in the browser: table, slides, heatmaps, detections."""
    from pathology.cli.view import run

    run(results, slides=slides or [], patients=patients, port=port, browser=browser)


@app.command("export")
def export_command(
    results: Annotated[Path, typer.Argument(help="A results folder of pathology score.", show_default=False)],
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            "-f",
            help="QuPath: geojson, detections, patches. To decide in: detections-csv; then count. "
            "Maps: ome-zarr, ome-tiff, npz, overlay. DICOM: dicom-tissue, "
            "dicom-regions, dicom-probabilities, dicom-report. Reports: pdf, batch-pdf, excel. May be repeated.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to write to; by default RESULTS/exports.", show_default=False)
    ] = None,
    slides: Annotated[
        list[str] | None, typer.Option("--slide", help="Only this slide; may be repeated.", show_default=False)
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Draw this class alone (overlay).", show_default=False)
    ] = None,
    width: Annotated[int, typer.Option("--width", min=64, help="Longer side of an overlay in pixels.")] = 1600,
    smooth: Annotated[
        float | None, typer.Option("--smooth", help="Smooth maps with a Gaussian of this many µm.", show_default=False)
    ] = None,
) -> None:
    """Write results for QuPath, napari, PACS, spreadsheets and scripts."""
    from pathology.cli.export import run

    raise typer.Exit(
        run(results, formats, to=to, slides=slides or [], class_name=class_name, width=width, smooth=smooth)
    )


@app.command("import-review")
def import_review_command(
    results: Annotated[Path, typer.Argument(help="A results folder of pathology score.", show_default=False)],
    slide: Annotated[str, typer.Argument(help="Name of the slide.", show_default=False)],
    reviewed: Annotated[
        Path,
        typer.Argument(
            help="Reviewed detections: GeoJSON exported from QuPath, or the edited table (CSV).", show_default=False
        ),
    ],
) -> None:
    """Import detections reviewed in QuPath or in a spreadsheet: accepted, rejected or deleted."""
    from pathology.cli.export import import_review

    import_review(results, slide, reviewed)


@app.command("doctor")
def doctor_command() -> None:
    """Check what is installed, which devices and codecs work, and what to do about what does not."""
    from pathology.cli.doctor import run

    raise typer.Exit(run())


@app.command("systems")
def systems_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the published systems: what they are, what their authors report, what was measured here."""
    from pathology.cli.systems import run

    run(as_json=as_json)


def _add_groups() -> None:
    from pathology.cli.classifiers import add_commands
    from pathology.cli.cohort import app as cohort
    from pathology.cli.grade import app as grade
    from pathology.cli.methylation import app as methylation
    from pathology.cli.models import app as models
    from pathology.cli.patient import app as patient
    from pathology.cli.radiology import app as radiology
    from pathology.cli.survival import app as survival

    add_commands(app)
    app.add_typer(models, name="models")
    app.add_typer(grade, name="grade")
    app.add_typer(patient, name="patient")
    app.add_typer(survival, name="survival")
    app.add_typer(radiology, name="radiology")
    app.add_typer(methylation, name="methylation")
    app.add_typer(cohort, name="cohort")


_add_groups()


def main() -> None:
    """Run the command; errors made on purpose become one line and an exit status, and warnings go to stderr."""
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("pathology: %(levelname)s: %(message)s"))
    shown.setLevel(logging.WARNING)
    logging.getLogger("pathology").addHandler(shown)
    try:
        app()
    except PathologyError as error:
        typer.echo(f"pathology: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        typer.echo("pathology: stopped; the same command again goes on from here", err=True)
        sys.exit(130)

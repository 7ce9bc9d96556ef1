"""The ``pathology`` command.

Subcommands import what they need when they run, so that ``pathology --help`` responds immediately.
"""

from __future__ import annotations

import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathology.cli.requirements import CheckedGroup
from pathology.cli.settings_options import Config, given_settings, option_names, settings_command
from pathology.errors import PathologyError

if TYPE_CHECKING:
    from pathology.settings import Record

__all__ = ["app", "main"]

app = typer.Typer(
    name="pathology",
    cls=CheckedGroup,
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
        help="Name or folder of a model bundle, or tiatoolbox:NAME for a patch classifier of the TIAToolbox model zoo.",
        show_default=False,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        help="Micrometres per pixel of the slide at level 0; overrides the value in the file.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Number of local worker processes; by default one per GPU, or one without a GPU.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        help="Distance between patches in pixels at the target scale; by default the patch size.",
        show_default=False,
    ),
]
MinTissue = Annotated[
    float, typer.Option("--min-tissue", min=0, max=1, help="Smallest tissue fraction of a patch, 0 to 1.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; by default CUDA if available.", show_default=False),
]
Engine = Annotated[str, typer.Option("--engine", help="Inference engine: auto, torch or openvino.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print details: reader, stored tiles decoded, timings.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from pathology._version import __version__

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
        Path,
        typer.Option(
            "--out", "-o", help="Results folder. Repeat the command to resume an interrupted run.", show_default=False
        ),
    ],
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Score slides and write a table, heatmaps and reports."""
    from pathology.cli.score import run

    raise typer.Exit(run(given_settings(context), out, config=config, options=option_names(context), verbose=verbose))


@app.command("merge")
def merge_command(
    out: Annotated[Path, typer.Argument(help="Results folder of score --part.", show_default=False)],
) -> None:
    """Put together a batch that was scored in parts."""
    from pathology.scoring.bookkeeping.merge import merge_parts

    slides, failed = merge_parts(out)
    print(f"{slides - failed} scored, {failed} failed.\nTable:  {out / 'results.csv'}\nReport: {out / 'index.html'}")
    print("Research use only.")
    raise typer.Exit(1 if failed else 0)


def _readers(wanted: bool) -> None:
    if wanted:
        from pathology.cli.info import print_readers

        print_readers()
        raise typer.Exit


@app.command("info")
def info_command(
    slide: Slide,
    mpp: Mpp = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    readers: Annotated[
        bool,
        typer.Option(
            "--readers", help="List the readers, in the order they are tried.", is_eager=True, callback=_readers
        ),
    ] = False,
) -> None:
    """Show a slide's levels, scale, format and scanner."""
    del readers
    from pathology.cli.info import run

    run(slide, mpp=mpp, as_json=as_json)


@app.command("tile")
def tile_command(
    slides: Slides,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the patch stores, one <slide>.zarr per slide.", show_default=False
        ),
    ],
    patch: Annotated[int, typer.Option("--patch", help="Side length of a patch in pixels.")] = 224,
    target_mpp: Annotated[
        str,
        typer.Option("--target-mpp", help="Micrometres per pixel of the patches, or native for each slide's level 0."),
    ] = "1.0",
    stride: Stride = None,
    min_tissue: MinTissue = 0.5,
    pixels: Annotated[
        str,
        typer.Option(
            "--pixels",
            help="reference: coordinates only; encoded: the slide's compressed tiles, if patches coincide with tiles; "
            "decoded: pixels.",
        ),
    ] = "reference",
    stain: Annotated[
        str, typer.Option("--stain", help="Stain normalisation: none, macenko, reinhard, vahadane.")
    ] = "none",
    quality: Annotated[
        bool,
        typer.Option(
            "--quality/--no-quality", help="Exclude patches with artefacts: pen marks, blur, folds, bubbles, dirt."
        ),
    ] = True,
    mpp: Mpp = None,
    workers: Workers = None,
    verbose: Verbose = False,
) -> None:
    """Cut slides into patches and save them in zarr stores."""
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


@app.command("features")
def features_command(
    slides: Slides,
    encoders: Annotated[
        list[str],
        typer.Option(
            "--encoder",
            "-e",
            help="Patch encoder; see pathology encoders list. May be repeated: patches are read once.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the features. Repeat the command to resume.", show_default=False),
    ],
    layout: Annotated[
        str, typer.Option("--format", help="zarr, or the HDF5 files that TRIDENT or STAMP reads: trident, stamp.")
    ] = "zarr",
    patch: Annotated[
        int | None,
        typer.Option("--patch", help="Side length of a patch in pixels; by default the encoder's.", show_default=False),
    ] = None,
    target_mpp: Annotated[
        float | None,
        typer.Option(
            "--target-mpp", help="Micrometres per pixel of the patches; by default the encoder's.", show_default=False
        ),
    ] = None,
    stride: Stride = None,
    min_tissue: MinTissue = 0.5,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality/--no-quality", help="Exclude patches with artefacts: pen marks, blur, folds, bubbles, dirt."
        ),
    ] = False,
    mpp: Mpp = None,
    engine: Engine = "auto",
    device: Device = None,
    precision: Annotated[str, typer.Option("--precision", help="fast, or exact for fp32 throughout.")] = "fast",
    workers: Workers = None,
) -> None:
    """Compute the feature vectors of slides' patches with a patch encoder."""
    from pathology.cli.features import run

    raise typer.Exit(
        run(
            slides,
            encoders,
            out,
            layout=layout,
            quality=quality,
            patch=patch,
            target_mpp=target_mpp,
            stride=stride,
            min_tissue=min_tissue,
            mpp=mpp,
            engine=engine,
            device=device,
            precision=precision,
            workers=workers,
        )
    )


@app.command("heatmap")
def heatmap_command(
    slide: Slide,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file to write.", show_default=False)],
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Show the probability of this class; by default the predicted class of each patch.",
            show_default=False,
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=64, help="Longer side of the image in pixels.")] = 1600,
    mpp: Mpp = None,
    engine: Engine = "auto",
    device: Device = None,
) -> None:
    """Score one slide and draw its heatmap over the slide."""
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
        typer.Option("--slides", help="New folder of the slides, if they were moved.", show_default=False),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients",
            help="Output folder of pathology patient build, to link to the patient pages.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 selects a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Browse results: table, slides, heatmaps and detections."""
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
            help="QuPath: geojson, detections, patches. Review in a spreadsheet: detections-csv; then count. "
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
        str | None, typer.Option("--class", help="Draw only this class (overlay).", show_default=False)
    ] = None,
    width: Annotated[int, typer.Option("--width", min=64, help="Longer side of an overlay in pixels.")] = 1600,
    smooth: Annotated[
        float | None,
        typer.Option("--smooth", help="Smooth maps with a Gaussian filter of this width in µm.", show_default=False),
    ] = None,
) -> None:
    """Export results for QuPath, napari, PACS, spreadsheets and scripts."""
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
            help="Review: GeoJSON exported from QuPath, also gzipped, or the edited table (CSV).", show_default=False
        ),
    ],
    missing: Annotated[
        str | None,
        typer.Option(
            "--missing",
            help="Detections that the file does not contain: rejected (deleted in QuPath) or unchanged (not exported). "
            "By default rejected, unless more than half are missing.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Import a review made in QuPath or in a spreadsheet: detections accepted, rejected or deleted, mitoses added."""
    from pathology.cli.export import import_review

    import_review(results, slide, reviewed, missing)


@app.command("doctor")
def doctor_command(
    extras: Annotated[
        list[str] | None,
        typer.Argument(help="Extras that must work, such as training; the others are only listed.", show_default=False),
    ] = None,
) -> None:
    """Check libraries, devices, codecs and extras, and explain how to fix problems."""
    from pathology.cli.doctor import run

    raise typer.Exit(run(extras or ()))


@app.command("systems")
def systems_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List published systems with their reported performance and the performance measured here."""
    from pathology.cli.systems import run

    run(as_json=as_json)


def _add_groups() -> None:
    from pathology.cli.classifiers import add_commands
    from pathology.cli.cohort import app as cohort
    from pathology.cli.encoders import app as encoders
    from pathology.cli.methylation import app as methylation
    from pathology.cli.mitoses.boxes import boxes_command
    from pathology.cli.mitoses.grade import app as grade
    from pathology.cli.models import app as models
    from pathology.cli.patient import app as patient
    from pathology.cli.radiology import app as radiology
    from pathology.cli.survival import app as survival

    add_commands(app)
    app.command("boxes")(boxes_command)
    app.add_typer(models, name="models")
    app.add_typer(encoders, name="encoders")
    app.add_typer(grade, name="grade")
    app.add_typer(patient, name="patient")
    app.add_typer(survival, name="survival")
    app.add_typer(radiology, name="radiology")
    app.add_typer(methylation, name="methylation")
    app.add_typer(cohort, name="cohort")


_add_groups()


def main() -> None:
    """Run the command: expected errors are printed as one line with an exit status, and warnings go to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("pathology: %(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    logging.getLogger("pathology").addHandler(handler)
    received: list[int] = []
    for number, standard in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        # A shell starts what runs in the background with SIGINT ignored; that stays.
        if signal.getsignal(number) == standard:
            signal.signal(number, partial(_stop, received))
    try:
        app()
    except PathologyError as error:
        typer.echo(f"pathology: {error}", err=True)
        sys.exit(error.exit_status)
    finally:
        if received:
            sys.exit(128 + received[0])


def _stop(received: list[int], number: int, _frame: object) -> None:
    """Say it at once and end as after Ctrl-C: workers are stopped, locks and temporary folders removed."""
    if not received:
        typer.echo("pathology: interrupted; repeat the command to resume", err=True)
    received.append(number)
    raise KeyboardInterrupt

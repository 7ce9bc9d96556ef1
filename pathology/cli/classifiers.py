"""The commands ``pathology train``, ``evaluate`` and ``readers``; implementations are imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["add_commands"]

Slides = Annotated[
    list[Path],
    typer.Option(
        "--slides", "-s", help="Slide file, folder of slides or CSV manifest; repeatable.", show_default=False
    ),
]
Labels = Annotated[
    Path,
    typer.Option(
        "--labels",
        "-l",
        help="CSV with slide_id, patient_id, label; optionally site, set, regions and other columns.",
        show_default=False,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option("--mpp", help="Level-0 micrometres per pixel, for all slides.", show_default=False),
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Number of worker processes for tiling.", show_default=False)
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; CUDA by default if available.", show_default=False),
]


def train_command(
    system: Annotated[
        str, typer.Argument(help="Published classifier, such as foersch-2021; list them with 'pathology systems'.")
    ],
    slides: Slides,
    labels: Labels,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Output bundle folder; repeat the command to resume.", show_default=False),
    ],
    init: Annotated[
        str, typer.Option("--init", help="Initial weights: imagenet, random, a safetensors file or a bundle.")
    ] = "imagenet",
    classes: Annotated[
        str | None, typer.Option("--classes", help="Classes, if not the published ones: a,b,c.", show_default=False)
    ] = None,
    target_mpp: Annotated[
        float | None,
        typer.Option("--target-mpp", help="Patch resolution in micrometres per pixel.", show_default=False),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a recipe setting: patch=299, epochs=10; repeatable.", show_default=False),
    ] = None,
    folds: Annotated[
        int, typer.Option("--folds", help="Folds of a nested cross-validation; 0: a single test set.")
    ] = 0,
    aggregator: Annotated[
        str | None,
        typer.Option(
            "--aggregator",
            help="Slide aggregation: mean, share, majority or top; attention and transformer are trained.",
            show_default=False,
        ),
    ] = None,
    keep_sites: Annotated[
        bool, typer.Option("--keep-sites", help="Keep each hospital (column site) in one set.")
    ] = False,
    pixels: Annotated[
        str,
        typer.Option(
            "--pixels",
            help="decoded: store patches on disk; reference: decode slides in every epoch.",
        ),
    ] = "decoded",
    mpp: Mpp = None,
    device: Device = None,
    loaders: Annotated[
        int | None,
        typer.Option("--loaders", help="Data loader processes; 0: load in the main process.", show_default=False),
    ] = None,
    workers: Workers = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Random seed for split, sampling, augmentation and initial weights.")
    ] = 0,
    data_name: Annotated[str, typer.Option("--data-name", help="Name of the data set, for the model card.")] = (
        "own slides"
    ),
    data_source: Annotated[str, typer.Option("--data-source", help="Source of the data set.")] = "not stated",
    data_licence: Annotated[str, typer.Option("--data-licence", help="Licence of the data set.")] = "not stated",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the trained weights.")] = "not stated",
) -> None:
    """Train a published classifier on labelled slides and write a bundle with its metrics.

    On several GPUs: torchrun --nproc-per-node N -m pathology train ...
    """
    from pathology.cli.train import run

    raise typer.Exit(
        run(
            system,
            slides,
            labels,
            out,
            start=init,
            classes=classes,
            target_mpp=target_mpp,
            changes=[*(changes or []), *([f"aggregator={aggregator}"] if aggregator else [])],
            folds=folds,
            keep_sites=keep_sites,
            pixels=pixels,
            mpp=mpp,
            device=device,
            loaders=loaders,
            workers=workers,
            seed=seed,
            data_name=data_name,
            data_source=data_source,
            data_licence=data_licence,
            licence=licence,
        )
    )


def evaluate_command(
    model: Annotated[str, typer.Option("--model", "-m", help="Model bundle name or folder.", show_default=False)],
    slides: Slides,
    labels: Labels,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; repeat the command to resume.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the evaluation.")] = "external",
    data: Annotated[str, typer.Option("--data-name", help="Name of the data set.")] = "own slides",
    mpp: Mpp = None,
    min_tissue: Annotated[
        float, typer.Option("--min-tissue", min=0, max=1, help="Minimum tissue fraction of a patch.")
    ] = 0.5,
    workers: Workers = None,
    device: Device = None,
    aggregator: Annotated[
        str | None,
        typer.Option(
            "--aggregator",
            help="Slide aggregation; defaults to the model's own.",
            show_default=False,
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Follow-up time column, for a risk model.", show_default=False)
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", help="Event column: 1 observed, 0 censored.", show_default=False)
    ] = None,
    covariates: Annotated[
        str | None, typer.Option("--covariates", help="Adjustment covariates, such as age,sex.", show_default=False)
    ] = None,
) -> None:
    """Evaluate a bundle on labelled slides, next to its internal evaluation."""
    from pathology.cli.evaluate import run

    raise typer.Exit(
        run(
            model,
            slides,
            labels,
            out,
            name=name,
            data=data,
            mpp=mpp,
            min_tissue=min_tissue,
            workers=workers,
            device=device,
            aggregator=aggregator,
            time=time,
            event=event,
            covariates=covariates,
        )
    )


def readers_command(
    table: Annotated[
        Path, typer.Argument(help="CSV with columns reader, case, truth, unaided, aided.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the accuracy of readers with and without AI assistance."""
    from pathology.cli.evaluate import run_readers

    run_readers(table, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("train")(train_command)
    app.command("evaluate")(evaluate_command)
    app.command("readers")(readers_command)

"""``pathology train``, ``evaluate`` and ``readers`` as commands; what they do is imported when they run."""

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
        help="CSV with slide_id, patient_id, label; optionally site, set, regions and further columns.",
        show_default=False,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option("--mpp", help="Micrometres per pixel of every slide's finest level.", show_default=False),
]
Workers = Annotated[int | None, typer.Option("--workers", help="Processes that read slides.", show_default=False)]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N; by default CUDA where there is a device.", show_default=False),
]


def train_command(
    system: Annotated[str, typer.Argument(help="Id of a classifier, such as foersch-2021; see: pathology systems.")],
    slides: Slides,
    labels: Labels,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the new bundle; the same command again resumes.", show_default=False
        ),
    ],
    init: Annotated[
        str, typer.Option("--init", help="Weights to start from: imagenet, random, a safetensors file or a bundle.")
    ] = "imagenet",
    classes: Annotated[
        str | None, typer.Option("--classes", help="Other classes than the published ones: a,b,c.", show_default=False)
    ] = None,
    target_mpp: Annotated[
        float | None,
        typer.Option("--target-mpp", help="Micrometres per pixel of the patches.", show_default=False),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a setting of the recipe: patch=299, epochs=10; repeatable.", show_default=False
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option("--folds", help="Folds of a nested cross-validation; 0: one set of test patients.")
    ] = 0,
    aggregator: Annotated[
        str | None,
        typer.Option(
            "--aggregator",
            help="From patches to a slide: mean, share, majority, top; attention and transformer are trained.",
            show_default=False,
        ),
    ] = None,
    keep_sites: Annotated[
        bool, typer.Option("--keep-sites", help="Never put one hospital on two sides of a split (column site).")
    ] = False,
    pixels: Annotated[
        str,
        typer.Option(
            "--pixels",
            help="decoded: patches are stored; reference: slides are decoded in every epoch, no disk needed.",
        ),
    ] = "decoded",
    mpp: Mpp = None,
    device: Device = None,
    loaders: Annotated[
        int | None,
        typer.Option("--loaders", help="Processes that read and change patches; 0: none.", show_default=False),
    ] = None,
    workers: Workers = None,
    seed: Annotated[int, typer.Option("--seed", help="Of split, order, changes and random weights.")] = 0,
    data_name: Annotated[str, typer.Option("--data-name", help="What the slides are called on the card.")] = (
        "slides of the user's own"
    ),
    data_source: Annotated[str, typer.Option("--data-source", help="Where they are from.")] = "not stated",
    data_licence: Annotated[str, typer.Option("--data-licence", help="Their licence.")] = "not stated",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the trained weights.")] = "not stated",
) -> None:
    """Train a published classifier on labelled slides and write a bundle with its figures.

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
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a model bundle, or its folder.", show_default=False)
    ],
    slides: Slides,
    labels: Labels,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the report; the same command resumes.", show_default=False)
    ],
    name: Annotated[str, typer.Option("--name", help="What this evaluation is called.")] = "external",
    data: Annotated[str, typer.Option("--data-name", help="Which slides these are.")] = "slides of the user's own",
    mpp: Mpp = None,
    min_tissue: Annotated[
        float, typer.Option("--min-tissue", min=0, max=1, help="Smallest share of a patch that must be tissue.")
    ] = 0.5,
    workers: Workers = None,
    device: Device = None,
    aggregator: Annotated[
        str | None,
        typer.Option(
            "--aggregator",
            help="How patches become a slide; by default what the model was fitted for.",
            show_default=False,
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Column of follow-up, for a model of risk.", show_default=False)
    ] = None,
    event: Annotated[
        str | None, typer.Option("--event", help="Column that is 1 where the event was seen.", show_default=False)
    ] = None,
    covariates: Annotated[
        str | None, typer.Option("--covariates", help="Columns to adjust for: age,sex.", show_default=False)
    ] = None,
) -> None:
    """Measure a bundle on labelled slides, beside the figures of its training."""
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
    table: Annotated[Path, typer.Argument(help="CSV with reader, case, truth, unaided, aided.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare readers' accuracy without and with a model's help."""
    from pathology.cli.evaluate import run_readers

    run_readers(table, as_json=as_json)


def add_commands(app: typer.Typer) -> None:
    """Give the commands to the program."""
    app.command("train")(train_command)
    app.command("evaluate")(evaluate_command)
    app.command("readers")(readers_command)

"""The commands ``pathology train``, ``evaluate`` and ``readers``; implementations are imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from pathology.cli.mitoses.boxes import BoxSize, ClassMeanings, SkipMissing, Whole
from pathology.cli.settings_options import Config, SettingsCommand, given_settings, option_names, settings_command

if TYPE_CHECKING:
    from pathology.settings import Record

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


def _train_settings() -> type[Record]:
    from pathology.training.classifier.settings import TrainSettings

    return TrainSettings


def train_command(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Output bundle folder; repeat the command to resume.", show_default=False),
    ],
    config: Config = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a recipe setting: patch=299, epochs=10; repeatable.", show_default=False),
    ] = None,
    target_mpp: Annotated[
        float | None,
        typer.Option("--target-mpp", help="Patch resolution in micrometres per pixel.", show_default=False),
    ] = None,
    aggregator: Annotated[
        str | None,
        typer.Option(
            "--aggregator",
            help="Slide aggregation: mean, share, majority or top; attention and transformer are trained.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train a published classifier on labelled slides and write a bundle with its metrics.

    On several GPUs: torchrun --nproc-per-node N -m pathology train ...
    """
    from pathology.cli.classifiers.train import run

    changes = [
        *([] if target_mpp is None else [f"mpp={target_mpp}"]),
        *(changes or []),
        *([f"aggregator={aggregator}"] if aggregator else []),
    ]
    raise typer.Exit(run(given_settings(context), out, config=config, options=option_names(context), changes=changes))


def _head_settings() -> type[Record]:
    from pathology.training.heads.settings import HeadSettings

    return HeadSettings


def train_subtypes_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output bundle folder.", show_default=False)],
    config: Config = None,
) -> None:
    """Train a classifier on features of slides: pathology train subtypes."""
    from pathology.cli.classifiers.train_subtypes import run

    raise typer.Exit(run(given_settings(context), out, config=config, options=option_names(context)))


def evaluate_command(
    model: Annotated[str, typer.Option("--model", "-m", help="Model bundle name or folder.", show_default=False)],
    slides: Slides,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Output folder; repeat the command to resume.", show_default=False)
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            "-l",
            help="For a classifier: CSV with slide_id, patient_id, label; optionally site and other columns.",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[
        list[Path] | None,
        typer.Option(
            "--boxes",
            "-b",
            help="For a detector: annotated mitoses, in any format that 'pathology boxes' reads; repeatable.",
            show_default=False,
        ),
    ] = None,
    classes: ClassMeanings = None,
    box_size: BoxSize = None,
    whole: Whole = False,
    skip_missing: SkipMissing = False,
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
    """Evaluate a bundle on labelled or annotated slides, next to its own figures."""
    from pathology.cli.classifiers.evaluate import run, run_detector
    from pathology.errors import UsageError

    if boxes:
        if labels is not None:
            raise UsageError("--labels and --boxes exclude each other", remedy="Give --boxes for a detector")
        given = {"--aggregator": aggregator, "--time": time, "--event": event, "--covariates": covariates}
        if stray := [option for option, value in given.items() if value is not None]:
            raise UsageError(f"{stray[0]} is for classifiers", remedy="Omit it with --boxes")
        raise typer.Exit(
            run_detector(
                model,
                slides,
                boxes,
                out,
                classes=classes or [],
                box_size=box_size,
                whole=whole,
                skip_missing=skip_missing,
                name=name,
                data=data,
                mpp=mpp,
                min_tissue=min_tissue,
                workers=workers,
                device=device,
            )
        )
    if labels is None:
        raise UsageError(
            "what to compare with is missing", remedy="Give --labels for a classifier, --boxes for a detector"
        )

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
    from pathology.cli.classifiers.evaluate import run_readers

    run_readers(table, as_json=as_json)


class _TrainCommand(SettingsCommand):
    """``train``; with ``subtypes`` in the place of a system, the options of :func:`train_subtypes_command`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse with the command that the first argument names."""
        if args[:1] == ["subtypes"] and parent is not None and isinstance(parent.command, click.Group):
            command = parent.command.get_command(parent, "train-subtypes")
            assert command is not None
            return command.make_context("train subtypes", args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


def add_commands(app: typer.Typer) -> None:
    """Register the commands."""
    named = {"slides": "--slides -s", "labels": "--labels -l"}
    train = settings_command(_train_settings, arguments=("system",), named=named)
    app.command("train", cls=type("Train", (_TrainCommand, train), {}))(train_command)
    subtypes = settings_command(_head_settings, named={"features": "--features -f", "labels": "--labels -l"})
    app.command("train-subtypes", cls=subtypes, hidden=True)(train_subtypes_command)
    app.command("evaluate")(evaluate_command)
    app.command("readers")(readers_command)

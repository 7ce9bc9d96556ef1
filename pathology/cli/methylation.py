"""``pathology methylation``: histone marks at promoters from DNA methylation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Histone marks at promoters, predicted from DNA methylation (MethylationToActivity). Research use only.",
    no_args_is_help=True,
)

Calls = Annotated[
    Path, typer.Argument(help="Methylation calls: tab-separated, columns chrom, pos, mval.", show_default=False)
]
Promoters = Annotated[
    Path,
    typer.Argument(help="Transcripts: tab-separated, columns EnsmblID_T, Strand, Chr, Start, End.", show_default=False),
]
Weights = Annotated[
    Path,
    typer.Option(
        "--weights",
        "-w",
        help="Published weight file (.h5), or one from 'pathology methylation transfer'.",
        show_default=False,
    ),
]


@app.command("predict")
def predict(
    calls: Calls,
    promoters: Promoters,
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output table (.csv).", show_default=False)],
) -> None:
    """Predict the log2 enrichment of a histone mark at every promoter."""
    from pathology.errors import OutputError
    from pathology.omics.activity import published_mark
    from pathology.omics.methylation import WINDOW_SIZES, WINDOWS
    from pathology.systems.survival.williams_2021 import run

    found = run(calls, promoters, weights)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.to_csv(out, index=False)
    except OSError as error:
        raise OutputError(f"the table cannot be written ({error})", where=out) from error
    mark = published_mark(weights)
    windows = len(WINDOW_SIZES) * WINDOWS
    empty = int((found["windows_with_calls"] == 0).sum())
    typer.echo(f"{len(found)} promoters, {f'{mark}, published weights' if mark else 'custom weights'}.")
    if empty:
        typer.echo(
            f"{empty} of them have no methylation call in any of their {windows} windows; ignore their predictions."
        )
    typer.echo(f"{out}. Research use only.")


@app.command("transfer")
def transfer(
    calls: Calls,
    promoters: Promoters,
    signals: Annotated[
        Path,
        typer.Argument(
            help="Histone ChIP signals of the same sample: tab-separated, columns EnsmblID_T, chip, control.",
            show_default=False,
        ),
    ],
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output weight file (.safetensors).", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", help="Random seed for the held-out promoters.")] = 0,
) -> None:
    """Fine-tune the last layers on a sample with measured histone signals, as published."""
    from pathology.errors import UsageError
    from pathology.systems.survival.williams_2021 import adapt

    if out.suffix != ".safetensors":
        raise UsageError(
            f"--out: expected a .safetensors file, got '{out.name}'", remedy="Use a file name that ends in .safetensors"
        )
    result = adapt(calls, promoters, signals, weights, out, seed=seed)
    typer.echo(
        f"{result.promoters} training promoters, {result.held_out} held out, {result.epochs} epochs. "
        f"Held-out mean squared error {result.before:.4f} before, {result.after:.4f} after; "
        "optimistic, because it selected the epoch."
    )
    typer.echo(f"{out}. Research use only.")

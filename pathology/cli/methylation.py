"""``pathology methylation``: histone marks at promoters from DNA methylation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(
    help="Histone marks at promoters from DNA methylation (MethylationToActivity). Research use only.",
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
        help="The authors' weight file (.h5), or one that 'methylation transfer' wrote.",
        show_default=False,
    ),
]


@app.command("predict")
def predict(
    calls: Calls,
    promoters: Promoters,
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write (.csv).", show_default=False)],
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
    typer.echo(f"{len(found)} promoters, {f'{mark} by the published weights' if mark else 'weights of your own'}.")
    if empty:
        typer.echo(f"{empty} of them have no call in any of their {windows} windows: their prediction says nothing.")
    typer.echo(f"{out}. Research use only.")


@app.command("transfer")
def transfer(
    calls: Calls,
    promoters: Promoters,
    signals: Annotated[
        Path,
        typer.Argument(
            help="Histone signals of the same sample: tab-separated, columns EnsmblID_T, chip, control.",
            show_default=False,
        ),
    ],
    weights: Weights,
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights to write (.safetensors).", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", help="Decides which promoters are held out.")] = 0,
) -> None:
    """Train the last layers on a sample with known histone signals, as published."""
    from pathology.errors import UsageError
    from pathology.systems.survival.williams_2021 import adapt

    if out.suffix != ".safetensors":
        raise UsageError(f"--out is '{out.name}'", remedy="Give a name that ends in .safetensors")
    result = adapt(calls, promoters, signals, weights, out, seed=seed)
    typer.echo(
        f"{result.promoters} promoters trained, {result.held_out} held out, {result.epochs} epochs. "
        f"Held-out mean squared error {result.before:.4f} before, {result.after:.4f} after; "
        "it chose the epoch, so it flatters."
    )
    typer.echo(f"{out}. Research use only.")

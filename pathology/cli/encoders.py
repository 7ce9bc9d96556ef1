"""``pathology encoders``: list, show and add patch encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["app"]

app = typer.Typer(help="List, show and add patch encoders.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        help="A published encoder, timm:NAME, torchvision:NAME, or a classifier bundle.", show_default=False
    ),
]


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the published encoders and those added on this machine."""
    from pathology.encoders.installed import list_encoders

    rows = list_encoders()
    if as_json:
        found = [{**s.model_dump(mode="json"), "added": e.identity() if e is not None else None} for s, e in rows]
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for specification, encoder in rows:
        access = "gated" if specification.gated else "open" if specification.hub else "local"
        state = f"added, SHA-256 {encoder.weights_sha256[:12]}" if encoder is not None else f"not added ({access})"
        print(
            f"{specification.name}: {specification.vector} numbers per patch of {specification.patch} px at"
            f" {specification.mpp:g} µm/px; {state}; licence: {specification.licence}"
        )


@app.command("show")
def show_command(name: Name) -> None:
    """Print how an encoder is built and fed, its licence, and what is on this machine.  Fetches nothing."""
    import yaml

    from pathology.encoders.installed import describe_encoder

    print(yaml.safe_dump(describe_encoder(name), sort_keys=False, allow_unicode=True, width=110), end="")


@app.command("add")
def add_command(
    name: Name,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--from",
            help="Weights file, or a folder as the hub lays it out; by default from the hub.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--revision",
            help="Commit, branch or tag of the hub's repository; by default the newest.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an encoder added before.")] = False,
) -> None:
    """Add an encoder: convert its weights to safetensors and record their hash."""
    from pathology.encoders.installed import add_encoder

    encoder = add_encoder(name, source=source, revision=revision, replace=replace)
    at = f", revision {encoder.revision}" if encoder.revision else ""
    print(f"{encoder.name}: {encoder.directory}\nSHA-256 {encoder.weights_sha256}{at}")
    print(f"Licence: {encoder.specification.licence}\nResearch use only.")

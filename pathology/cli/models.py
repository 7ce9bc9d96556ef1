"""``pathology models``: the catalogue of model bundles."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="List, show and verify model bundles.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a bundle, or its folder.", show_default=False)]


@app.command("list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the bundles on the search path."""
    from pathology.bundle.catalogue import list_bundles, search_path

    bundles = list_bundles()
    if as_json:
        rows = [
            {
                "name": b.name,
                "directory": str(b.directory),
                "title": b.card.title if b.card else None,
                "error": str(b.error) if b.error else None,
            }
            for b in bundles
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if not bundles:
        print("No models in: " + ", ".join(map(str, search_path())))
    for bundle in bundles:
        if bundle.card is None:
            print(f"{bundle.name}: unusable: {bundle.error}")
            continue
        card = bundle.card
        hidden = f" (hidden by {bundle.hidden_by})" if bundle.hidden_by else ""
        network = f"{card.architecture}, {card.patch} px at {card.mpp:g} µm/px"
        print(f"{card.name} {card.version}: {card.title} [{network}]{hidden}")


@app.command("show")
def show_command(name: Name) -> None:
    """Print a bundle's card as Markdown."""
    from pathology.bundle.card_page import card_markdown
    from pathology.bundle.catalogue import load_bundle

    print(card_markdown(load_bundle(name).card))


@app.command("verify")
def verify_command(name: Name) -> None:
    """Check a bundle: card, hash, network, parameters, outputs."""
    from pathology.bundle.catalogue import verify_bundle

    checks = verify_bundle(name)
    for check in checks:
        print(f"{'ok  ' if check.error is None else 'FAIL'} {check.what}" + (f": {check.error or check.found}"))
    if checks[-1].error is not None:
        raise typer.Exit(2)

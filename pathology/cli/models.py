"""``pathology models``: manage model bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["app"]

app = typer.Typer(help="List, show, verify, export and import model bundles.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a model bundle, or its folder.", show_default=False)]


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
                "kind": "head" if b.head else b.card.task if b.card else None,
                "title": b.head.title if b.head else b.card.title if b.card else None,
                "error": str(b.error) if b.error else None,
            }
            for b in bundles
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if not bundles:
        print("No models in: " + ", ".join(map(str, search_path())))
    for bundle in bundles:
        hidden = f" (hidden by {bundle.hidden_by})" if bundle.hidden_by else ""
        if bundle.head is not None:
            head = bundle.head
            takes = f"{head.head} on {head.encoder.name or 'features'}, {head.encoder.vector} numbers per patch"
            print(f"{head.name} {head.version}: {head.title} [{takes}]{hidden}")
            continue
        if bundle.card is None:
            print(f"{bundle.name}: unusable: {bundle.error}")
            continue
        card = bundle.card
        network = f"{card.architecture}, {card.patch} px at {card.mpp:g} µm/px"
        print(f"{card.name} {card.version}: {card.title} [{network}]{hidden}")


@app.command("show")
def show_command(name: Name) -> None:
    """Print a bundle's card as Markdown."""
    from pathology.bundle.card_page import card_markdown
    from pathology.bundle.catalogue import find_bundle_folder, load_bundle
    from pathology.bundle.head_card import is_head_bundle, read_head_card
    from pathology.bundle.head_page import head_markdown

    folder = find_bundle_folder(name)
    if is_head_bundle(folder):
        print(head_markdown(read_head_card(folder)))
        return
    print(card_markdown(load_bundle(name).card))


@app.command("verify")
def verify_command(name: Name) -> None:
    """Check a bundle: card, hash, network, parameters, outputs."""
    from pathology.bundle.verify import verify_bundle

    checks = verify_bundle(name)
    for check in checks:
        print(f"{'ok  ' if check.error is None else 'FAIL'} {check.what}" + (f": {check.error or check.found}"))
    if checks[-1].error is not None:
        raise typer.Exit(2)


@app.command("export")
def export_command(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="Zip file to write, or a folder.", show_default=False)],
) -> None:
    """Write a bundle as one zip file."""
    from pathology.bundle.export import export_bundle

    print(export_bundle(name, out))


@app.command("import")
def import_command(
    source: Annotated[
        Path, typer.Argument(help="An exported zip file, a bundle folder, or a .safetensors file.", show_default=False)
    ],
    card: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option("--card", help="Model card (YAML) for a .safetensors file without one.", show_default=False),
    ] = None,
    names: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--names", help="YAML file that maps the file's tensor names to the network's.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--into", help="Folder for bundles; by default the user's bundle folder.", show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of the same name.")] = False,
) -> None:
    """Validate a model, from its card to its outputs, and install it."""
    from pathology.bundle.card import CARD_NAME, read_card
    from pathology.bundle.export import install
    from pathology.bundle.head_card import is_head_bundle, read_head_card
    from pathology.errors import InputTableError
    from pathology.input_files import read_yaml

    mapping = None
    if names is not None:
        mapping = read_yaml(names, InputTableError, what="cannot read the tensor names")
        if not isinstance(mapping, dict):
            raise InputTableError("the file does not map tensor names to tensor names", where=names)
    installed = install(source, folder=folder, card=card, names=mapping, replace=replace)
    found = read_head_card(installed) if is_head_bundle(installed) else read_card(installed / CARD_NAME)
    print(f"{found.name} {found.version}: {installed}")


@app.command("convert")
def convert_command(name: Name) -> None:
    """Add the network for OpenVINO to a bundle, which then runs without torch; saved only if it agrees with torch."""
    from pathology.inference.engines.portable import add_graph

    graph = add_graph(name).card.graph
    assert graph is not None
    print(f"{name}: network.xml, made by {graph.made_by}; mean difference from torch {graph.mean_difference:.1e}")


@app.command("quantise")
def quantise_command(
    name: Name,
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="Slides, folders or CSV manifests; some are used for calibration, the rest for validation.",
            show_default=False,
        ),
    ],
    new_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--name", help="Name of the new bundle; by default the model's name with -int8.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--into", help="Folder for bundles; by default the user's bundle folder.", show_default=False),
    ] = None,
    stride: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--stride", help="Distance between patches in pixels; by default the model's.", show_default=False
        ),
    ] = None,
    mpp: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--mpp", help="Micrometres per pixel of every slide's finest level.", show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a bundle of the same name.")] = False,
) -> None:
    """Quantise a classifier to int8; saved only if it agrees with fp32 on patches not used for calibration."""
    import sys

    from pathology.scoring.quantise import quantise_bundle

    def say(what: str) -> None:
        print(f"{what} ...", file=sys.stderr, flush=True)

    made = quantise_bundle(
        name, slides, name=new_name, folder=folder, stride=stride, mpp=mpp, replace=replace, progress=say
    )
    int8 = made.card.int8
    assert int8 is not None
    found = int8.agreement
    print(
        f"Against fp32, {found.patches:,} patches of {len(found.slides)} slides: mean difference"
        f" {found.mean_difference:.4f}, same class {found.same_class:.2%} ({found.same_class_alone:.2%} before"
        f" rechecking near ties), {found.computed_again:.1%} recomputed (margin {int8.margin:.3f}), largest difference"
        f" of a slide's mean {found.slide_difference:.4f}"
    )
    print(f"{made.card.name} {made.card.version}: {made.directory}\nResearch use only.")

"""The bundle files with the learned aggregators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathology.bundle.card import Card, LearnedAggregator
from pathology.bundle.weights import check_weights, load_weights, read_state_dict, write_state_dict
from pathology.errors import BundleError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AGGREGATOR_NAMES", "aggregator_path", "learned_aggregator", "read_aggregator", "write_aggregator"]

_KINDS: Final = ("attention", "transformer")
AGGREGATOR_NAMES: Final = tuple(f"aggregator-{kind}.safetensors" for kind in _KINDS)


def aggregator_path(directory: Path, name: str) -> Path:
    """Return the file of the aggregator of this name."""
    return directory / f"aggregator-{name}.safetensors"


def learned_aggregator(card: Card, name: str, *, where: Path | None = None) -> LearnedAggregator:
    """Return the card's entry of this name.

    Raises
    ------
    BundleError
        If the card has none; the message lists those it has.
    """
    for aggregator in card.aggregators:
        if aggregator.name == name:
            return aggregator
    known = ", ".join(["mean", *(aggregator.name for aggregator in card.aggregators)])
    raise BundleError(
        f"{card.name} has no aggregator {name!r}", where=where, remedy=f"Choose one of: {known}; or train one"
    )


def write_aggregator(
    network: nn.Module, directory: Path, name: str, *, training: str, **options: float
) -> LearnedAggregator:
    """Write a trained aggregator and return its entry for the card.

    Parameters
    ----------
    network
        One of :mod:`pathology.networks.mil`.
    directory
        The bundle's folder.
    name
        Name it was built under.
    training
        What it was trained on, and how it was evaluated.
    options
        Options it was built with, besides features and classes.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from torch.nn import Linear

    # The first layer of each kind embeds the features.
    sha256 = write_state_dict(network.state_dict(), aggregator_path(directory, name), half=False)
    return LearnedAggregator.model_validate(
        {
            "name": name,
            "features": next(m.in_features for m in network.modules() if isinstance(m, Linear)),
            "options": options,
            "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
            "sha256": sha256,
            "training": training,
        }
    )


def read_aggregator(directory: Path, card: Card, name: str) -> nn.Module:
    """Build an aggregator with its weights, in evaluation mode.

    Raises
    ------
    WeightsHashError
        If the file's hash differs from the card's.
    BundleError
        If the card has none of this name, the file is missing, or it does not fit.
    """
    from pathology.networks.mil import build_aggregator

    entry, path = learned_aggregator(card, name, where=directory), aggregator_path(directory, name)
    if not path.is_file():
        raise BundleError(f"the bundle has no {path.name}", where=directory, remedy="Copy the complete bundle again")
    check_weights(path, entry.sha256)
    network = build_aggregator(name, entry.features, len(card.classes), **entry.options)
    found = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if found != entry.parameters:
        raise BundleError(f"the card says {entry.parameters:,} parameters, the aggregator has {found:,}", where=path)
    load_weights(network, read_state_dict(path), where=path)
    return network.eval()

"""Radiology model bundles: a card and weights, as for pathology models, with radiology inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from pathology.atomic_files import write_text
from pathology.bundle.card import CARD_NAME, WEIGHTS_NAME, Metric, TrainingData
from pathology.bundle.weights import check_weights, load_weights, read_state_dict, weights_path, write_state_dict
from pathology.errors import BundleError, OutputError, UnknownArchitectureError
from pathology.input_files import read_yaml
from pathology.networks.radiology_registry import build_radiology_network, radiology_architectures
from pathology.settings import Record

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CardText", "RadiologyCard", "load_network", "read_radiology_card", "save_radiology_bundle"]


class CardText(Record):
    """Card entries that only the user can provide."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """The bundle's folder name."""
    title: str
    """Title, one line."""
    training_data: Annotated[tuple[TrainingData, ...], Field(min_length=1)]
    """All training data."""
    limits: Annotated[tuple[str, ...], Field(min_length=1)]
    """Limitations."""
    intended_use: str = "Research use only. Not for decisions about a patient."
    """Intended use."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""


class RadiologyCard(CardText):
    """A validated card of a radiology model."""

    model_config = ConfigDict(protected_namespaces=())

    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "1.0.0"
    """Version of the bundle, not of the program."""
    system: str
    """Published system it follows, by its name in the catalogue, such as ``holbrook-2020``."""
    recipe: str
    """Kind of recipe."""
    recipe_settings: dict[str, Any]
    """All recipe settings: sequences, preprocessing, network, training."""
    architecture: str
    """Name in the registry of radiology networks, or ``signature``."""
    parameters: Annotated[int, Field(ge=0)]
    """Learnable parameters; checked against the network built."""
    classes: tuple[str, ...]
    """Class names, in output order; a single name for a segmentation."""
    fitted: dict[str, Any] = Field(default_factory=dict)
    """Other fitted parameters, such as signature columns or calibration."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``weights.safetensors``."""
    initialisation: str
    """Initial weights."""
    split: str
    """Separation of training and evaluation data."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """Metrics; a single one without a value if not evaluated."""
    constructed: bool
    """Whether the data were constructed, in which case no clinical claim is possible."""

    @model_validator(mode="after")
    def _says_constructed(self) -> RadiologyCard:
        if self.constructed and not any("constructed" in limit.lower() for limit in self.limits):
            raise ValueError("limits: a model trained on constructed data must state this")
        return self


def save_radiology_bundle(folder: Path, state: Mapping[str, Tensor], **fields: Any) -> RadiologyCard:
    """Write weights and card.

    Parameters
    ----------
    folder
        Made if missing; must not hold a bundle already.
    state
        Weights by name.
    **fields
        Everything on the card but the hash.

    Raises
    ------
    OutputError
        If there is a bundle already or it cannot be written.
    """
    if (folder / CARD_NAME).exists():
        raise OutputError("the folder already contains a bundle", where=folder, remedy="Choose another folder")
    sha256 = write_state_dict(state, folder / WEIGHTS_NAME, half=False)
    card = RadiologyCard(weights_sha256=sha256, **fields)
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    write_text(folder / CARD_NAME, text)
    return card


def read_radiology_card(folder: Path) -> RadiologyCard:
    """Read and validate the card of a bundle.

    Raises
    ------
    BundleError
        If it is missing, is no YAML, or a field is missing or wrong.
    """
    path = folder / CARD_NAME
    if not path.exists():
        raise BundleError(
            "card.yaml not found", where=folder, remedy="Use a bundle folder from 'pathology radiology train'"
        )
    fields = read_yaml(path, BundleError, what="the card is not valid YAML")
    try:
        return RadiologyCard.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise BundleError(
            f"{field}: {first['msg']}", where=path, remedy="Use a card from 'pathology radiology train'"
        ) from error


def read_bundle_state(folder: Path, card: RadiologyCard) -> dict[str, Tensor]:
    """Read the weights after their hash is checked.

    Raises
    ------
    WeightsHashError, UnsafeWeightsError, BundleError
        If they are not the card's, are a pickle, or are missing.
    """
    path = weights_path(folder)
    check_weights(path, card.weights_sha256)
    return read_state_dict(path)


def load_network(folder: Path, card: RadiologyCard, options: Mapping[str, Any]) -> nn.Module:
    """Build a bundle's network and load its weights.

    Raises
    ------
    UnknownArchitectureError
        If this version has no such network.
    BundleError
        If the weights do not fit or are not the card's.
    """
    if card.architecture not in radiology_architectures():
        raise UnknownArchitectureError(f"unknown radiology network '{card.architecture}'", where=folder)
    network = build_radiology_network(card.architecture, len(card.classes), **options)
    count = sum(p.numel() for p in network.parameters())
    if count != card.parameters:
        raise BundleError(f"the network has {count:,} parameters, its card says {card.parameters:,}", where=folder)
    load_weights(network, read_bundle_state(folder, card), where=folder)
    return network.eval()

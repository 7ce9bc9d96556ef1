"""A trained radiology model on disk: a card and weights, as for pathology models, with inputs of its own kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from pathology.bundle.card import CARD_NAME, WEIGHTS_NAME, Metric, TrainingData
from pathology.bundle.weights import check_weights, load_weights, read_state_dict, weights_path, write_state_dict
from pathology.errors import BundleError, OutputError, UnknownArchitectureError
from pathology.networks.radiology_registry import build_radiology_network, radiology_architectures
from pathology.settings import Record

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CardText", "RadiologyCard", "load_network", "read_radiology_card", "save_radiology_bundle"]


class CardText(Record):
    """What only the person who trains can say."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """The bundle's folder name."""
    title: str
    """One line for people."""
    training_data: Annotated[tuple[TrainingData, ...], Field(min_length=1)]
    """All data that shaped the weights."""
    limits: Annotated[tuple[str, ...], Field(min_length=1)]
    """What it cannot do, has never seen, or does badly."""
    intended_use: str = "Research use only. Not for decisions about a patient."
    """What it is for."""
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
    """Kind of recipe: how it was trained and is applied."""
    recipe_settings: dict[str, Any]
    """Everything the recipe was given: sequences, preparation, network, training."""
    architecture: str
    """Name in the registry of radiology networks, or ``signature``."""
    parameters: Annotated[int, Field(ge=0)]
    """Learnable parameters; checked against the network built."""
    classes: tuple[str, ...]
    """In the order of the outputs; one name for a segmentation."""
    fitted: dict[str, Any] = Field(default_factory=dict)
    """What was learnt beside the weights: columns of a signature, a calibration line."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``weights.safetensors``."""
    initialisation: str
    """What the training started from."""
    split: str
    """How training and evaluation data were kept apart."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """Measured figures; one without a value where nothing was measured."""
    constructed: bool
    """Whether the data were constructed: then no clinical claim of any kind is possible."""

    @model_validator(mode="after")
    def _says_constructed(self) -> RadiologyCard:
        if self.constructed and not any("constructed" in limit.lower() for limit in self.limits):
            raise ValueError("limits: a model trained on constructed data must say so")
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
        raise OutputError("there is a bundle here already", where=folder, remedy="Choose another folder")
    sha256 = write_state_dict(state, folder / WEIGHTS_NAME, half=False)
    card = RadiologyCard(weights_sha256=sha256, **fields)
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    (folder / CARD_NAME).write_text(text, encoding="utf-8")
    return card


def read_radiology_card(folder: Path) -> RadiologyCard:
    """Read and validate the card of a bundle.

    Raises
    ------
    BundleError
        If it is missing, is no YAML, or a field is missing or wrong.
    """
    path = folder / CARD_NAME
    try:
        return RadiologyCard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BundleError(
            "the folder holds no card.yaml", where=folder, remedy="Give a folder that 'train' wrote"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError("the card is no valid YAML", where=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise BundleError(f"{field}: {first['msg']}", where=path, remedy="Use a card that 'train' wrote") from error


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
        raise UnknownArchitectureError(f"there is no radiology network '{card.architecture}'", where=folder)
    network = build_radiology_network(card.architecture, len(card.classes), **options)
    count = sum(p.numel() for p in network.parameters())
    if count != card.parameters:
        raise BundleError(f"the network has {count:,} parameters, its card says {card.parameters:,}", where=folder)
    load_weights(network, read_bundle_state(folder, card), where=folder)
    return network.eval()

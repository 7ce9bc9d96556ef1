"""Bundles of slide-level heads: a card that names the encoder, and the head's arrays; never the encoder's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import Field, ValidationError

from pathology.bundle.card import Metric, TrainingData, Trust, read_card_fields
from pathology.bundle.domain import read_domain
from pathology.bundle.weights import check_weights, file_sha256, load_weights, read_tensors
from pathology.errors import BundleError, OutputError
from pathology.networks.dense_head import DenseHead
from pathology.settings import Record

if TYPE_CHECKING:
    from torch import nn

    from pathology.stats.out_of_distribution import FeatureDomain

__all__ = [
    "HEAD_CARD_NAME",
    "HEAD_WEIGHTS_NAME",
    "EncoderReference",
    "HeadCard",
    "is_head_bundle",
    "read_head",
    "read_head_card",
    "read_head_domain",
    "write_head",
    "write_head_card",
]

HEAD_CARD_NAME: Final = "head.yaml"
HEAD_WEIGHTS_NAME: Final = "head.safetensors"


class EncoderReference(Record):
    """The encoder whose features a head takes; its weights are not part of the bundle."""

    name: str
    """Name for ``--encoder``, or as the feature files state it; empty if they do not."""
    hub: str = ""
    """Repository on the Hugging Face hub."""
    revision: str = ""
    """Commit of the weights; empty if the feature files do not state it."""
    weights_sha256: str = ""
    """SHA-256 of the weights; empty if the feature files do not state it."""
    licence: str
    """Licence of the encoder, as its source states it."""
    vector: Annotated[int, Field(ge=1)]
    """Numbers per patch."""
    mpp: float | None = None
    """Micrometres per pixel of the patches; ``None``: unknown."""


class HeadCard(Record):
    """A validated card of a head."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """The bundle's folder name."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    """Version of the bundle."""
    title: str
    """One line for people."""
    head: Literal["mean", "sampler", "mlp", "attention", "transformer"]
    """What it is."""
    setting: dict[str, Any] = Field(default_factory=dict)
    """Chosen by the inner folds."""
    patient: Literal["average", "bag"]
    """Several slides of a patient: averaged predictions, or one bag."""
    patches: Annotated[int, Field(ge=1)]
    """Largest number of patches of a slide, evenly spread, that the head sees."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """In the order of the outputs."""
    encoder: EncoderReference
    """Whose features it takes."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``head.safetensors``."""
    temperature: Annotated[float, Field(gt=0)]
    """Logits are divided by it."""
    trust: Trust
    """Prediction sets and out-of-distribution limit."""
    training_data: Annotated[tuple[TrainingData, ...], Field(min_length=1)]
    """All data used to fit the head."""
    split: str
    """How it was evaluated."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """Measured on held-out patients."""
    intended_use: str
    """Intended use."""
    limits: Annotated[tuple[str, ...], Field(min_length=1)]
    """Known limits."""
    licence: str
    """Licence of the head; the encoder's is beside its name."""
    made_by: str = ""
    """Program and command."""


def is_head_bundle(folder: Path) -> bool:
    """Return whether a folder is the bundle of a head."""
    return (folder / HEAD_CARD_NAME).is_file()


def read_head_card(folder: Path) -> HeadCard:
    """Read and validate the card.

    Raises
    ------
    BundleError
        If it is missing, or a field is missing or wrong; the message names the field.
    """
    path = folder / HEAD_CARD_NAME
    fields = read_card_fields(path)
    try:
        return HeadCard.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(
            f"{'.'.join(map(str, first['loc'])) or 'card'}: {first['msg']}",
            where=path,
            remedy="Copy the complete bundle again, or train it again",
        ) from error


def write_head_card(card: HeadCard, folder: Path) -> None:
    """Write the card, atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / HEAD_CARD_NAME
    partial = path.with_name(f"{path.name}.partial")
    text = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the card cannot be written ({error.strerror or error})", where=path) from error


def write_head(model: DenseHead | nn.Module, folder: Path) -> str:
    """Write the head's arrays and return the file's SHA-256.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from safetensors.numpy import save_file

    path = folder / HEAD_WEIGHTS_NAME
    arrays: dict[str, Any] = (
        dict(model.arrays())
        if isinstance(model, DenseHead)
        else {name: value.detach().cpu().contiguous().numpy() for name, value in model.state_dict().items()}
    )
    partial = path.with_name(f"{path.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the head cannot be written ({error.strerror or error})", where=path) from error
    return file_sha256(path)


def read_head(folder: Path, card: HeadCard) -> DenseHead | nn.Module:
    """Read the head's arrays, checked against the card.

    Raises
    ------
    WeightsHashError
        If the file's hash differs from the card's.
    BundleError
        If the file is missing or does not fit.
    """
    from pathology.networks.mil import AGGREGATORS, build_aggregator

    path = folder / HEAD_WEIGHTS_NAME
    if not path.is_file():
        raise BundleError(f"the bundle has no {path.name}", where=folder, remedy="Copy the complete bundle again")
    check_weights(path, card.weights_sha256)
    tensors = read_tensors(path)
    if card.head in AGGREGATORS:
        network = build_aggregator(card.head, card.encoder.vector, len(card.classes))
        load_weights(network, tensors, where=path)
        return network.eval()
    try:
        return DenseHead.of({name: tensor.numpy() for name, tensor in tensors.items()})
    except KeyError as error:
        raise BundleError(f"the head has no {error}", where=path, remedy="Copy the complete bundle again") from error


def read_head_domain(folder: Path, card: HeadCard) -> FeatureDomain | None:
    """Read the distribution of the training features; ``None`` if nothing was fitted.

    Raises
    ------
    WeightsHashError, BundleError
        As :func:`pathology.bundle.domain.read_domain`.
    """
    rule = card.trust.out_of_domain
    return None if rule is None else read_domain(folder, rule)

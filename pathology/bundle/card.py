"""The model card: everything about a model except its weights.

A card is a YAML file, validated against this schema before anything is loaded.  Fields that a reader of a report needs
(training data, limits, metrics with their sample sizes) are required.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from pathology.errors import BundleError, OutputError
from pathology.input_files import read_yaml
from pathology.settings import Record
from pathology.stats.conformal import ConformalRule
from pathology.stats.out_of_distribution import OutOfDomainRule

__all__ = [
    "Abstention",
    "Card",
    "Detection",
    "Int8",
    "Int8Agreement",
    "LearnedAggregator",
    "Metric",
    "Normalisation",
    "TrainingData",
    "Trust",
    "read_card",
    "read_card_fields",
    "validate_card",
    "write_card",
]

CARD_NAME = "card.yaml"
WEIGHTS_NAME = "weights.safetensors"

_CORRECT = "Correct the card; docs/bundles.md describes every field"


class Normalisation(Record):
    """How uint8 RGB becomes the network's input: ``(value / 255 - mean) / std`` per channel."""

    mean: tuple[float, float, float]
    """Per channel, of values scaled to 0..1."""
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    """Per channel, of values scaled to 0..1."""


class TrainingData(Record):
    """One source of training data."""

    name: str
    """Name as published."""
    source: str
    """Citation or address."""
    licence: str
    """The licence as its source states it."""
    patients: Annotated[int, Field(ge=1)] | None = None
    """Number of patients (or cases), where known."""
    images: Annotated[int, Field(ge=1)] | None = None
    """Number of slides, tiles or crops used, where known."""
    used_for: str
    """Pre-training, training, calibration."""


class Metric(Record):
    """One measured metric, with its sample size, interval and data."""

    metric: str
    """The metric's usual name, such as ``balanced accuracy``."""
    value: float | None
    """The estimate; ``None`` where the design cannot estimate it, with the reason in ``note``."""
    interval: tuple[float, float] | None
    """Confidence interval; ``None`` only together with ``value``."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of the interval."""
    method: str
    """How the interval was computed."""
    n: Annotated[int, Field(ge=0)]
    """Number of units evaluated."""
    unit: str
    """What was counted: patches, tiles, slides, patients."""
    data: str
    """The evaluation data and its split."""
    note: str = ""
    """What a reader must know to interpret the value."""

    @model_validator(mode="after")
    def _interval_with_value(self) -> Metric:
        if (self.value is None) != (self.interval is None):
            raise ValueError(f"{self.metric}: a value and its interval come together or not at all")
        if self.value is None and not self.note:
            raise ValueError(f"{self.metric}: a metric without a value needs a note with the reason")
        return self


class Abstention(Record):
    """When the model abstains."""

    method: str
    """How thresholds were found, and on which data."""
    min_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    """Slide-level probability of the predicted class below which the model abstains."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further fitted parameters, by the method's own names."""


class Trust(Record):
    """Prediction sets and out-of-distribution limit; fitted on patients not used for training."""

    conformal: ConformalRule | None = None
    """Prediction sets with a stated coverage; the model abstains if a set has more or fewer than one class."""
    out_of_domain: OutOfDomainRule | None = None
    """When a slide is outside what the model was trained on."""
    aggregator: str = "mean"
    """Aggregator the sets were fitted with; with another one they are not used."""
    note: str = ""
    """What a reader must know to interpret the rules."""


class LearnedAggregator(Record):
    """A network that aggregates a slide's patches (multiple-instance learning)."""

    name: Literal["attention", "transformer"]
    """Its name for ``--aggregator``; see :mod:`pathology.networks.mil`."""
    features: Annotated[int, Field(ge=1)]
    """Number of penultimate features per patch."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of its network."""
    parameters: Annotated[int, Field(gt=0)]
    """Number of learnable parameters."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``aggregator-<name>.safetensors``."""
    training: str
    """What it was trained on, and how it was evaluated."""


class Detection(Record):
    """How a detector's boxes become findings."""

    threshold: Annotated[float, Field(ge=0, le=1)]
    """Score from which a box counts without review; chosen on validation data."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Smallest score of a box kept as a candidate for review."""
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Boxes that overlap by more (intersection over union) are one object."""
    distance_um: Annotated[float, Field(ge=0)] = 3.75
    """Boxes whose centres are closer, in µm, are one object."""

    @model_validator(mode="after")
    def _candidates_hold_what_counts(self) -> Detection:
        if self.threshold < self.floor:
            raise ValueError(f"threshold: {self.threshold:g} is below the smallest score kept, {self.floor:g}")
        return self


class Int8Agreement(Record):
    """Agreement of the int8 network with fp32, on patches not used for calibration."""

    patches: Annotated[int, Field(ge=1)]
    """Patches compared."""
    slides: Annotated[tuple[str, ...], Field(min_length=1)]
    """Ids of their slides."""
    apart: Literal["patients", "slides", "places"]
    """How they differ from the calibration data: other patients, other slides, or other locations of the only slide."""
    stride: Annotated[int, Field(ge=1)]
    """Distance between patches in pixels; below the patch's side they overlap."""
    mean_difference: Annotated[float, Field(ge=0)]
    """Mean absolute difference of the class probabilities."""
    largest_difference: Annotated[float, Field(ge=0)]
    """Largest difference of a probability."""
    same_class: Annotated[float, Field(ge=0, le=1)]
    """Share of patches with the same predicted class."""
    same_class_alone: Annotated[float, Field(ge=0, le=1)]
    """The same before near ties were recomputed."""
    computed_again: Annotated[float, Field(ge=0, le=1)]
    """Share of patches recomputed in fp32 as near ties."""
    slide_difference: Annotated[float, Field(ge=0)]
    """Largest difference of a slide's mean probability.  Slides with fewer patches than ``smallest_slide`` are pooled
    into one."""
    smallest_slide: Annotated[int, Field(ge=1)]
    """Number of patches from which a slide is compared on its own."""
    domain_difference: Annotated[float, Field(ge=0)] | None = None
    """Largest relative difference of such a slide's out-of-distribution score; ``None``: the model has no such rule."""


class Int8(Record):
    """The network in 8-bit integers for CPUs, stored beside the weights."""

    graph_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``int8.xml``."""
    constants_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``int8.bin``."""
    margin: Annotated[float, Field(gt=0, lt=1)]
    """Patches whose top two probabilities differ by less are recomputed in fp32; chosen on the calibration
    patches."""
    calibration_slides: Annotated[tuple[str, ...], Field(min_length=1)]
    """Ids of the slides it was calibrated on."""
    calibration_patches: Annotated[int, Field(ge=1)]
    """Patches it was calibrated on."""
    made_by: str
    """The programs that made it."""
    agreement: Int8Agreement
    """Agreement with fp32."""


class NetworkGraph(Record):
    """The network for OpenVINO, stored beside the weights."""

    graph_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``network.xml``."""
    constants_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``network.json``."""
    identity: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of what it was made for: weights, network, input, calibration, out-of-distribution rule."""
    made_by: str
    """The program that converted it."""
    mean_difference: Annotated[float, Field(ge=0)]
    """Mean absolute difference from torch in fp32 when it was made, on the patches of
    :func:`pathology.bundle.graph.check_patches`."""


class Card(Record):
    """A validated model card."""

    model_config = ConfigDict(protected_namespaces=())

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """The bundle's folder name."""
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    """Version of the bundle, not of the program."""
    title: str
    """One line for people."""
    task: Literal["classification", "detection"] = "classification"
    """What the network gives for a patch."""
    architecture: str
    """Name in the network registry, such as ``densenet121``."""
    architecture_options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the network beside the number of classes."""
    parameters: Annotated[int, Field(gt=0)]
    """Number of learnable parameters; checked against the network built."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """In the order of the network's outputs."""
    colours: tuple[Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")], ...] = ()
    """Display colour per class; empty for the standard palette."""
    mpp: Annotated[float, Field(gt=0)]
    """Micrometres per pixel at which patches are taken."""
    patch: Annotated[int, Field(ge=16)]
    """Side of a patch in pixels at ``mpp``."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Default distance between patches, in pixels at ``mpp``; ``None``: patches touch."""
    normalisation: Normalisation
    """Input normalisation; part of the compiled network."""
    stain: Literal["none", "macenko", "reinhard", "vahadane"] = "none"
    """Stain normalisation applied to patches."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``weights.safetensors``."""
    initialisation: str
    """Initial weights of the training."""
    training_data: Annotated[tuple[TrainingData, ...], Field(min_length=1)]
    """All data used to fit the weights."""
    split: str
    """How training and evaluation data were separated."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """Measured metrics of the model and its baseline."""
    calibration: dict[str, Any] = Field(default_factory=dict)
    """Fitted calibration parameters (``temperature``), empty if none."""
    abstention: Abstention | None = None
    """When to abstain; ``None``: never."""
    trust: Trust | None = None
    """Prediction sets and out-of-distribution limit; ``None``: nothing was fitted."""
    aggregators: tuple[LearnedAggregator, ...] = ()
    """Learned aggregators, in addition to the mean over patches."""
    detection: Detection | None = None
    """For detectors: which boxes count."""
    int8: Int8 | None = None
    """The network in 8-bit integers, if there is one."""
    graph: NetworkGraph | None = None
    """The network for OpenVINO, with which the model runs without torch; ``None``: it is converted from torch."""
    intended_use: str
    """Intended use."""
    limits: Annotated[tuple[str, ...], Field(min_length=1)]
    """Known limits and populations never seen."""
    licence: str
    """Licence of the weights."""
    reference: str = ""
    """The publication whose method it follows, if any."""
    made_by: str = ""
    """The program and command that made the weights."""

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: two have the same name")
        if (self.detection is not None) != (self.task == "detection"):
            raise ValueError("detection: required for detectors, invalid for other models")
        if self.detection is not None and self.aggregators:
            raise ValueError("aggregators: valid for classifiers only")
        self._check_trust()
        if self.detection is not None and self.int8 is not None:
            raise ValueError("int8: valid for classifiers only; boxes have no near ties to recompute")
        if len({aggregator.name for aggregator in self.aggregators}) != len(self.aggregators):
            raise ValueError("aggregators: two have the same name")
        if self.colours and len(self.colours) != len(self.classes):
            raise ValueError(f"colours: {len(self.colours)} given for {len(self.classes)} classes")
        return self

    def _check_trust(self) -> None:
        """Reject rules that the kind of model cannot apply."""
        if self.trust is None:
            return
        domain = self.trust.out_of_domain
        if self.detection is None:
            if domain is not None and domain.cell is not None:
                raise ValueError("trust.out_of_domain.cell: valid for detectors only")
            return
        if self.trust.conformal is not None:
            raise ValueError("trust.conformal: valid for classifiers only; a count has no classes to exclude")
        if domain is not None and domain.layer != "stem":
            raise ValueError("trust.out_of_domain.layer: must be stem for a detector")
        if domain is not None and self.patch % (domain.cell or self.patch):
            raise ValueError(f"trust.out_of_domain.cell: {domain.cell} does not divide the patch, {self.patch} px")


def read_card(path: Path) -> Card:
    """Read and validate a card.

    Raises
    ------
    BundleError
        If the file is missing or not valid YAML, or a field is missing or wrong; the message names the field.

    Examples
    --------
    >>> card = read_card(bundle_path / "card.yaml")
    >>> card.architecture, card.classes
    ('densenet121', ('a', 'b', 'c'))
    """
    return validate_card(read_card_fields(path), path)


def read_card_fields(path: Path) -> dict[str, Any]:
    """Read a card's YAML without validating its fields.

    Raises
    ------
    BundleError
        If the file is missing or not a YAML mapping.
    """
    if not path.exists():
        raise BundleError(f"the bundle has no {path.name}", where=path.parent, remedy="Copy the complete bundle again")
    content = read_yaml(path, BundleError, what="the card is not valid YAML")
    if not isinstance(content, dict):
        raise BundleError("the card is empty or not a mapping of fields", where=path, remedy=_CORRECT)
    return content


def validate_card(fields: dict[str, Any], where: Path) -> Card:
    """Check fields against the schema.

    Parameters
    ----------
    fields
        By the names of :class:`Card`.
    where
        The file, for the error message.

    Raises
    ------
    BundleError
        If a field is missing, superfluous or wrong; the message names the first.
    """
    try:
        return Card.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "card"
        raise BundleError(
            f"{field}: {first['msg']}" + (f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""),
            where=where,
            remedy=_CORRECT,
        ) from error


def write_card(card: Card, path: Path) -> None:
    """Write a card as YAML in the order of the schema, without empty fields; atomically.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    content = card.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the card cannot be written ({error.strerror or error})", where=path) from error

"""Encoders that are no published pathology encoders: any network of timm or torchvision, and bodies of bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pathology.encoders.specification import EncoderSpecification
from pathology.errors import UsageError

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = ["LIBRARY_PREFIXES", "library_encoder", "of_bundle"]

LIBRARY_PREFIXES: Final = ("timm:", "torchvision:")
"""What stands before a network's name in its library."""

_LICENCE: Final = "as its publisher states it; read it before use"


def library_encoder(name: str) -> EncoderSpecification | None:
    """Return the specification of ``timm:NAME`` or ``torchvision:NAME``; ``None`` for any other name.

    Patches are read at 0.5 µm per pixel, in the size that the library states as the network's input.

    Raises
    ------
    UsageError
        If the library has no such network.
    MissingDependencyError
        If timm is not installed.
    """
    library, _, architecture = name.partition(":")
    if f"{library}:" not in LIBRARY_PREFIXES:
        return None
    return _of_timm(name, architecture) if library == "timm" else _of_torchvision(name, architecture)


def _of_timm(name: str, architecture: str) -> EncoderSpecification:
    import torch

    from pathology.encoders.network import timm_library

    timm = timm_library()
    if not timm.is_model(architecture):
        raise _no_network("timm", architecture, timm.list_models(f"*{architecture[:6]}*"))
    with torch.device("meta"):
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
    stated: dict[str, Any] = timm.data.resolve_data_config(network.pretrained_cfg)
    side = int(stated["input_size"][1])
    return EncoderSpecification(
        name=name,
        hub=str(network.pretrained_cfg.get("hf_hub_id") or ""),
        architecture=architecture,
        patch=side,
        resize=side,
        input=side,
        interpolation="bicubic" if stated["interpolation"] == "bicubic" else "bilinear",
        pooling="network",
        vector=int(network.num_features),
        mean=tuple(stated["mean"]),
        std=tuple(stated["std"]),
        licence=_LICENCE,
    )


def _of_torchvision(name: str, architecture: str) -> EncoderSpecification:
    import torch
    from torchvision.models import list_models

    from pathology.encoders.network import build_body

    known = set(list_models())
    if architecture not in known:
        raise _no_network("torchvision", architecture, sorted(known))
    side = 299 if architecture == "inception_v3" else 224
    given = EncoderSpecification(
        name=name,
        library="torchvision",
        architecture=architecture,
        options={"init_weights": False} if architecture in ("inception_v3", "googlenet") else {},
        patch=side,
        resize=side,
        input=side,
        pooling="network",
        vector=1,
        licence=_LICENCE,
    )
    with torch.device("meta"):
        vector = build_body(given).eval()(torch.zeros(1, 3, side, side)).shape[1]
    return given.model_copy(update={"vector": int(vector)})


def _no_network(library: str, architecture: str, known: list[str]) -> UsageError:
    import difflib

    close = difflib.get_close_matches(architecture, known, n=3)
    return UsageError(
        f"{library} has no network called {architecture!r}",
        remedy=f"Close names: {', '.join(close)}" if close else f"Choose one that {library} lists",
    )


def of_bundle(card: Card) -> EncoderSpecification:
    """Return the body of a classifier bundle as an encoder: its penultimate features.

    Raises
    ------
    UsageError
        If the bundle is no classifier.
    """
    if card.task != "classification":
        raise UsageError(f"{card.name} is not a classifier and has no features")
    import torch

    from pathology.bundle.catalogue import build_card_network
    from pathology.networks.penultimate import split_classifier

    with torch.device("meta"):
        _, head = split_classifier(build_card_network(card))
    return EncoderSpecification(
        name=card.name,
        library="bundle",
        architecture=card.architecture,
        options=card.architecture_options,
        patch=card.patch,
        mpp=card.mpp,
        resize=card.patch,
        input=card.patch,
        pooling="network",
        vector=head.in_features,
        mean=card.normalisation.mean,
        std=card.normalisation.std,
        stain=card.stain,
        licence=card.licence,
        reference=card.reference,
    )

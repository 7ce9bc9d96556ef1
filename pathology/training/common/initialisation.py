"""Initial weights of a classifier: random, torchvision's ImageNet weights, a file or a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

from torch import Tensor, nn
from torchvision.models import get_model_weights

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.weights import file_sha256, read_state_dict
from pathology.errors import MissingDependencyError, PathologyError
from pathology.training.common.body_weights import load_body

__all__ = ["InitialWeights", "imagenet_state", "resolve_start"]

_PUBLISHED: Final = {
    "densenet121": "densenet121",
    "densenet121-foersch": "densenet121",
    "inception-v3": "inception_v3",
}
"""Torchvision name of each architecture."""


class InitialWeights:
    """Initial weights, read and validated before training.

    Attributes
    ----------
    description
        Description for the model card.
    digest
        Hash of the weights; part of the training identity.
    """

    def __init__(self, description: str, digest: str, state: Mapping[str, Tensor] | None) -> None:
        self.description, self.digest, self._state = description, digest, state

    def load(self, network: nn.Module) -> str:
        """Load the weights, if they hold the network's whole body; see :func:`load_body`.

        Returns
        -------
        str
            Description for the model card.

        Raises
        ------
        BundleError
            If a tensor that the body needs is missing.
        """
        return self.description if self._state is None else load_body(network, self._state, self.description)


def resolve_start(start: str, architecture: str) -> InitialWeights:
    """Read initial weights.

    Parameters
    ----------
    start
        ``random``; ``imagenet``: torchvision's weights, downloaded or from its cache; a safetensors file; a
        bundle name or folder.
    architecture
        Name in the network registry.

    Raises
    ------
    MissingDependencyError
        If ImageNet weights are not available.
    PathologyError
        If the file or bundle cannot be read.
    """
    if start == "random":
        return InitialWeights("random weights", "random", None)
    if start == "imagenet":
        description, state = imagenet_state(_PUBLISHED[architecture])
        return InitialWeights(description, description, state)
    path = Path(start)
    if path.is_file():
        return InitialWeights(f"weights of {path.name}", file_sha256(path), read_state_dict(path))
    try:
        bundle = load_bundle(start)
    except PathologyError as error:
        error.remedy = "Use random, imagenet, a safetensors file or a bundle"
        raise
    card = bundle.card
    network = bundle.network()
    description = f"weights of the bundle {card.name} {card.version} ({card.initialisation.split('.')[0]})"
    return InitialWeights(description, card.weights_sha256, network.state_dict())


def imagenet_state(architecture: str) -> tuple[str, Mapping[str, Tensor]]:
    """Return the name of torchvision's default ImageNet weights, and the weights.

    Parameters
    ----------
    architecture
        Torchvision name, such as ``densenet121``.

    Raises
    ------
    MissingDependencyError
        If the download fails.
    """
    weights = get_model_weights(architecture).DEFAULT
    try:
        # Tensors only: executable content is rejected.
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise MissingDependencyError(
            f"torchvision's ImageNet weights of {architecture} are not available ({error})",
            remedy="Use a safetensors file with the weights, or random initialisation",
        ) from error
    return f"torchvision's ImageNet weights ({weights})", state

"""Where a classifier's weights start: at random, at torchvision's published weights, at a file, or at a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

from torch import Tensor, nn
from torchvision.models import get_model_weights

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.weights import file_sha256, read_state_dict
from pathology.errors import BundleError, MissingDependencyError, PathologyError

__all__ = ["InitialWeights", "imagenet_state", "resolve_start"]

_PUBLISHED: Final = {
    "densenet121": ("densenet121", ""),
    "densenet121-foersch": ("densenet121", "0.0."),
    "inception-v3": ("inception_v3", ""),
}
"""Torchvision's name of each architecture, and what its names in the body begin with here."""


class InitialWeights:
    """Weights to start from, read and checked before any work.

    Attributes
    ----------
    description
        What it is, for the model card.
    digest
        Changes with the weights; part of a training's identity.
    """

    def __init__(self, description: str, digest: str, state: Mapping[str, Tensor] | None) -> None:
        self.description, self.digest, self._state = description, digest, state

    def load(self, network: nn.Module) -> str:
        """Load what fits by name and shape; the rest stays random.

        Returns
        -------
        str
            What was done, for the model card.

        Raises
        ------
        BundleError
            If nothing fits.
        """
        if self._state is None:
            return self.description
        own = network.state_dict()
        fitting = {k: v for k, v in self._state.items() if k in own and own[k].shape == v.shape}
        if not any(own[name].ndim > 1 for name in fitting):
            raise BundleError(f"no layer of the network fits ({self.description})", remedy="Choose another --init")
        network.load_state_dict(fitting, strict=False)
        left = len(own) - len(fitting)
        return f"{self.description}: {len(fitting)} of {len(own)} tensors" + (f", {left} at random" if left else "")


def resolve_start(start: str, architecture: str) -> InitialWeights:
    """Read the weights to start from.

    Parameters
    ----------
    start
        ``random``; ``imagenet``: torchvision's, where they can be fetched or lie in its cache; a safetensors file; a
        bundle's name or folder.
    architecture
        Name in the network registry.

    Raises
    ------
    MissingDependencyError
        If ImageNet weights cannot be had.
    PathologyError
        If the file or bundle cannot be read.
    """
    if start == "random":
        return InitialWeights("random weights", "random", None)
    if start == "imagenet":
        name, prefix = _PUBLISHED[architecture]
        description, state = imagenet_state(name)
        named = {f"{prefix}{k.removeprefix('features.') if prefix else k}": v for k, v in state.items()}
        return InitialWeights(description, description, named)
    path = Path(start)
    if path.is_file():
        return InitialWeights(f"weights of {path.name}", file_sha256(path), read_state_dict(path))
    try:
        bundle = load_bundle(start)
    except PathologyError as error:
        error.remedy = "Give random, imagenet, a safetensors file, or a bundle"
        raise
    card = bundle.card
    network = bundle.network()
    description = f"weights of the bundle {card.name} {card.version} ({card.initialisation.split('.')[0]})"
    return InitialWeights(description, card.weights_sha256, network.state_dict())


def imagenet_state(architecture: str) -> tuple[str, Mapping[str, Tensor]]:
    """Return what torchvision's default ImageNet weights are called, and the weights.

    Parameters
    ----------
    architecture
        Torchvision's name, such as ``densenet121``.

    Raises
    ------
    MissingDependencyError
        If they cannot be fetched.
    """
    weights = get_model_weights(architecture).DEFAULT
    try:
        # Tensors only: what the file would have executed is refused.
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise MissingDependencyError(
            f"torchvision's ImageNet weights of {architecture} cannot be had ({error})",
            remedy="Give a safetensors file with the weights, or start at random",
        ) from error
    return f"torchvision's ImageNet weights ({weights})", state

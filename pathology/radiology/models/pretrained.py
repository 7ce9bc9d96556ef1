"""Initial weights of a radiology network: random, torchvision's ImageNet weights or a file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pathology.bundle.weights import read_state_dict
from pathology.training.common.body_weights import load_body
from pathology.training.common.initialisation import imagenet_state

__all__ = ["start_from"]


def start_from(network: nn.Module, architecture: str, start: str) -> str:
    """Load initial weights into the whole body of a network; its head stays as it is.

    Parameters
    ----------
    network
        Network with random weights; modified in place.
    architecture
        Its torchvision name, such as ``resnet50``.
    start
        ``random``, ``imagenet``, or the path of a safetensors file.

    Returns
    -------
    str
        Description for the model card.

    Raises
    ------
    MissingDependencyError
        If ImageNet weights cannot be fetched (no network).
    BundleError
        If a tensor that the body needs is missing.
    """
    if start == "random":
        return "random weights"
    if start == "imagenet":
        source, state = imagenet_state(architecture)
    else:
        state = read_state_dict(Path(start))
        source = f"weights of {Path(start).name}"
    return load_body(network, state, source)

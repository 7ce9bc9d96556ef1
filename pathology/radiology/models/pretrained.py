"""Initial weights of a radiology network: random, torchvision's ImageNet weights or a file."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pathology.bundle.weights import read_state_dict
from pathology.errors import BundleError
from pathology.training.common.initialisation import imagenet_state

__all__ = ["start_from"]


def start_from(network: nn.Module, architecture: str, start: str) -> str:
    """Load initial weights that match by name and shape; the others (the last layer) are unchanged.

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
        If no layer matches the file.
    """
    if start == "random":
        return "random weights"
    if start == "imagenet":
        source, state = imagenet_state(architecture)
    else:
        state = read_state_dict(Path(start))
        source = f"weights of {Path(start).name}"
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise BundleError(f"no layer of {architecture} matches", where=start if start != "imagenet" else None)
    network.load_state_dict(fitting, strict=False)
    return f"{source}: {len(fitting)} of {len(own)} tensors, the rest at random"

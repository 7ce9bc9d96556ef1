"""Split a classifier into the body up to its penultimate features and the last fully connected layer."""

from __future__ import annotations

from torch import nn

__all__ = ["split_classifier"]


def split_classifier(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Split off the last fully connected layer of a classifier.

    The network is modified in place: the layer becomes an identity.  In evaluation mode ``head(body(x))`` equals the
    original output, and ``body(x)`` are its penultimate features.

    Parameters
    ----------
    network
        Any classifier of :mod:`pathology.networks` whose last layer, in the order of registration, is fully connected
        and outputs the logits.  Features: 1024 for DenseNet121, 512 for the head of Foersch et al., 2048 for
        InceptionV3.

    Returns
    -------
    tuple
        The body, ``(B, 3, H, W)`` to ``(B, F)``, and the head, ``(B, F)`` to ``(B, C)``.

    Raises
    ------
    TypeError
        If the network does not end in a fully connected layer.
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = list(network.modules())[-1]
    if not found or (last is not found[-1][1] and not isinstance(last, nn.Identity)):
        raise TypeError(f"{type(network).__name__} does not end in a fully connected layer")
    name, head = found[-1]
    parent, _, place = name.rpartition(".")
    setattr(network.get_submodule(parent), place, nn.Identity())
    return network, head

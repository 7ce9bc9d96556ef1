"""A classifier in two parts: all up to its penultimate features, and the last fully connected layer."""

from __future__ import annotations

from torch import nn

__all__ = ["split_classifier"]


def split_classifier(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Take the last fully connected layer off a classifier.

    The network is changed: in the layer's place it now passes features on.  In evaluation mode ``head(body(x))`` is
    what the network gave before, and ``body(x)`` are its penultimate features.

    Parameters
    ----------
    network
        Any classifier of :mod:`pathology.networks` whose last layer, in the order of registration, is fully connected
        and gives the logits.  Features: 1024 of DenseNet121, 512 of the head of Foersch et al., 2048 of InceptionV3.

    Returns
    -------
    tuple
        The body, ``(B, 3, H, W)`` to ``(B, F)``, and the head, ``(B, F)`` to ``(B, C)``.

    Raises
    ------
    TypeError
        If the network has no fully connected layer at its end.
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = list(network.modules())[-1]
    if not found or (last is not found[-1][1] and not isinstance(last, nn.Identity)):
        raise TypeError(f"{type(network).__name__} does not end in a fully connected layer")
    name, head = found[-1]
    parent, _, place = name.rpartition(".")
    setattr(network.get_submodule(parent), place, nn.Identity())
    return network, head

"""Networks by name: build the architecture named on a model card with random weights."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

__all__ = ["architectures", "build_from", "build_network"]

# Names, not functions, so that listing them does not import torch.
_BUILDERS: Final[dict[str, tuple[str, str]]] = {
    "densenet121": ("pathology.networks.densenet", "densenet121"),
    "densenet121-foersch": ("pathology.networks.densenet", "densenet121_foersch"),
    "inception-v3": ("pathology.networks.inception", "inception_v3"),
    "pooled-backbone": ("pathology.networks.pooled_backbone", "pooled_backbone"),
    "ultralytics": ("pathology.networks.ultralytics_detectors", "ultralytics_detector"),
    "yolov4": ("pathology.networks.yolov4", "yolov4"),
    "yolov4-csp": ("pathology.networks.yolov4", "yolov4_csp"),
}


def architectures() -> tuple[str, ...]:
    """Return the names accepted by :func:`build_network`, in alphabetical order.

    Examples
    --------
    >>> "densenet121" in architectures()
    True
    """
    return tuple(sorted(_BUILDERS))


def build_network(architecture: str, classes: int, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Parameters
    ----------
    architecture
        One of :func:`architectures`.
    classes
        Number of outputs ``C``.
    options
        Keyword arguments of that architecture, documented on its builder.

    Returns
    -------
    torch.nn.Module
        Maps normalised ``(B, 3, H, W)`` float to ``(B, C)`` logits.

    Raises
    ------
    LookupError
        If the architecture is unknown.
    TypeError
        If the architecture does not accept the option.
    ValueError
        If ``classes`` is below 1.

    Examples
    --------
    >>> import torch
    >>> build_network("densenet121", 3).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 3])
    """
    return build_from(_BUILDERS, architecture, classes, "network", **options)


def build_from(
    builders: Mapping[str, tuple[str, str]],
    architecture: str,
    classes: int,
    what: str,
    **options: Any,  # each builder documents its own
) -> nn.Module:
    """Build a network from a table of builders; for an unknown name, list the known ones.

    Parameters
    ----------
    builders
        Module and function by name.
    architecture, classes, options
        As in :func:`build_network`.
    what
        What the table contains, for the message.

    Raises
    ------
    LookupError, TypeError, ValueError
        As in :func:`build_network`.
    """
    if classes < 1:
        raise ValueError(f"classes: expected at least 1, got {classes}")
    try:
        module, function = builders[architecture]
    except KeyError:
        known = ", ".join(sorted(builders))
        raise LookupError(f"unknown {what} {architecture!r}; choose from {known}") from None
    build = cast("Callable[..., nn.Module]", getattr(import_module(module), function))
    return build(classes, **options)

"""Radiology networks by name.  Separate from the pathology registry: inputs are volumes or slices, not RGB patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pathology.networks.registry import build_from

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_radiology_network", "radiology_architectures"]

_CLASSIFIERS = "pathology.networks.torchvision_classifiers"
# Names, not functions, so that listing them does not import torch.
_BUILDERS: Final[dict[str, tuple[str, str]]] = {
    "alexnet": (_CLASSIFIERS, "alexnet"),
    "attention-unet": ("pathology.networks.unet", "attention_unet"),
    "densenet161": (_CLASSIFIERS, "densenet161"),
    "resnet18": (_CLASSIFIERS, "resnet18"),
    "resnet34": (_CLASSIFIERS, "resnet34"),
    "resnet50": (_CLASSIFIERS, "resnet50"),
    "two-stream-petct": ("pathology.networks.petct", "two_stream_petct"),
    "unet": ("pathology.networks.unet", "unet"),
    "vgg19": (_CLASSIFIERS, "vgg19"),
}


def radiology_architectures() -> tuple[str, ...]:
    """Return the names accepted by :func:`build_radiology_network`, in alphabetical order.

    Examples
    --------
    >>> "attention-unet" in radiology_architectures()
    True
    """
    return tuple(sorted(_BUILDERS))


def build_radiology_network(architecture: str, classes: int, **options: Any) -> nn.Module:
    """Build a network with random weights.

    Parameters
    ----------
    architecture
        One of :func:`radiology_architectures`.
    classes
        Number of outputs.
    options
        Keyword arguments of that architecture, documented on its builder.

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
    >>> type(build_radiology_network("resnet18", 2)).__name__
    'ResNet'
    """
    return build_from(_BUILDERS, architecture, classes, "radiology network", **options)

"""An encoder as a torch network: built by timm or torchvision, pooled to one vector, with its normalisation inside."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from pathology.errors import BundleError
from pathology.extras import missing_extra

if TYPE_CHECKING:
    from pathology.encoders.specification import EncoderSpecification, Pooling

__all__ = ["PatchEncoder", "build_body", "timm_library"]


def build_body(specification: EncoderSpecification) -> nn.Module:
    """Build an encoder's network with random weights, on the current default device.

    Parameters
    ----------
    specification
        Of an encoder of timm or torchvision.

    Returns
    -------
    torch.nn.Module
        Its output for ``(B, 3, H, W)`` is what :class:`PatchEncoder` pools.

    Raises
    ------
    MissingDependencyError
        If timm is not installed.
    BundleError
        If the library has no such network, or it does not take the options.
    """
    build = {"timm": _timm, "torchvision": _torchvision}[specification.library]
    try:
        return build(specification.architecture, **_options(specification.options))
    except (RuntimeError, TypeError, ValueError) as error:
        raise BundleError(
            f"{specification.library} cannot build {specification.architecture} for {specification.name}"
            f" ({str(error).splitlines()[0]})",
            remedy="Use the tested version of the library, named in constraints.txt",
        ) from error


def timm_library() -> Any:  # noqa: ANN401 - partly typed, and exports less than it documents
    """Return the module ``timm``.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return import_module("timm")
    except ImportError as error:
        raise missing_extra("encoders are built by timm, which is not installed", "encoders") from error


def _timm(architecture: str, **options: Any) -> nn.Module:
    network: nn.Module = timm_library().create_model(architecture, pretrained=False, num_classes=0, **options)
    return network


def _torchvision(architecture: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    from pathology.networks.penultimate import split_classifier

    network = get_model(architecture, weights=None, **options)
    try:
        return split_classifier(network)[0]
    except TypeError as error:
        raise ValueError(str(error)) from error


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """Replace layers that are given by name."""
    return {name: _LAYERS[value]() if value in _LAYERS else value for name, value in options.items()}


# timm takes these as classes, not by name; a specification is data.
_LAYERS: Final[dict[object, Any]] = {
    "swiglu-packed": lambda: timm_library().layers.SwiGLUPacked,
    "silu": lambda: nn.SiLU,
    "layer-norm-1e-12": lambda: partial(nn.LayerNorm, eps=1e-12),
}


class PatchEncoder(nn.Module):
    """A network with its input normalisation and pooling built in.

    Parameters
    ----------
    body
        Takes normalised ``(B, 3, H, W)`` floats; gives ``(B, D)``, or tokens ``(B, T, D)``.
    mean, std
        Per channel, for values scaled to 0..1.
    pooling
        How tokens become one vector.
    prefix_tokens
        Tokens before the patch tokens.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        pooling: Pooling = "network",
        prefix_tokens: int = 1,
    ) -> None:
        super().__init__()
        self.body = body
        self._pooling = pooling
        self._prefix = prefix_tokens
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalised(self, patches: Tensor) -> Tensor:
        """Turn ``(B, H, W, 3)`` uint8 into ``(B, 3, H, W)`` input, in the order of torchvision's own operations.

        One multiplication and one addition would be faster by nothing that counts here, and differ in the last digit.
        """
        return (patches.permute(0, 3, 1, 2).to(self.mean.dtype) / 255 - self.mean) / self.std

    def forward(self, patches: Tensor) -> Tensor:
        """Turn ``(B, H, W, 3)`` uint8 patches into ``(B, D)`` float32 vectors."""
        found: Tensor = self.body(self.normalised(patches))
        if found.ndim == 3:
            token = found[:, 0]
            if self._pooling == "token+mean":
                token = torch.cat([token, found[:, self._prefix :].mean(dim=1)], dim=1)
            found = token
        return found.flatten(1).float()

"""What an encoder is: its network, its input and its vector, as data without code."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathology.settings import Record

__all__ = ["EncoderSpecification", "Pooling"]

Pooling = Literal["token", "token+mean", "network"]
"""How a network's output becomes one vector: the class token, the class token followed by the mean of the patch tokens,
or what the network itself gives."""

_Channels = tuple[float, float, float]


class EncoderSpecification(Record):
    """How an encoder is built and fed.

    A patch of ``patch`` pixels at ``mpp`` is resized to ``resize`` pixels, its centre of ``input`` pixels is cut out,
    and values of 0 to 1 are normalised with ``mean`` and ``std``.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:_-]*$")]
    """Name for ``--encoder``."""
    aliases: tuple[str, ...] = ()
    """Names that other programs write into feature files for the same encoder."""
    hub: str = ""
    """Repository on the Hugging Face hub; empty if it has none."""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    """Weights files to look for in the repository, in this order."""
    library: Literal["timm", "torchvision", "bundle"] = "timm"
    """Who builds the network."""
    architecture: str
    """The network's name in that library."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the network; layers by name."""
    key_names: Literal["timm", "transformers-vit", "transformers-dinov2"] = "timm"
    """How the published file names its tensors."""
    patch: Annotated[int, Field(ge=16)] = 224
    """Side of a patch in pixels at ``mpp``, as read from the slide."""
    mpp: Annotated[float, Field(gt=0)] = 0.5
    """Micrometres per pixel of a patch."""
    resize: Annotated[int, Field(ge=16)] = 224
    """Side in pixels to which a patch is resized."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How it is resized, with antialiasing, as Pillow does."""
    input: Annotated[int, Field(ge=16)] = 224
    """Side in pixels of the centre that the network sees."""
    pooling: Pooling = "token"
    """How the network's output becomes one vector."""
    prefix_tokens: Annotated[int, Field(ge=0)] = 1
    """Tokens before the patch tokens: the class token and registers."""
    vector: Annotated[int, Field(ge=1)]
    """Length of the vector."""
    mean: _Channels = (0.485, 0.456, 0.406)
    """Per channel, of values of 0 to 1; by default ImageNet's."""
    std: _Channels = (0.229, 0.224, 0.225)
    """Per channel, of values of 0 to 1; by default ImageNet's."""
    stain: Literal["none", "macenko", "reinhard", "vahadane"] = "none"
    """Stain normalisation of patches."""
    licence: str
    """Licence of the weights."""
    gated: bool = False
    """Whether the hub asks for consent before it gives out the weights."""
    reference: str = ""
    """Publication."""

    @model_validator(mode="after")
    def _crop_within(self) -> EncoderSpecification:
        if self.input > self.resize:
            raise ValueError(f"input: {self.input} px cannot be cut out of {self.resize} px")
        return self

    def names(self) -> frozenset[str]:
        """Return all names the encoder goes by, in lower case."""
        return frozenset({self.name, self.hub.lower(), *(alias.lower() for alias in self.aliases)}) - {""}

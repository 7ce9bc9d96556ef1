"""Names of tensors: from what a published file calls them to what timm's network calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pathology.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

    from pathology.encoders.specification import EncoderSpecification

__all__ = ["named_as_timm"]

_WRAPPERS: Final = ("module.", "model.", "backbone.", "encoder.", "teacher.backbone.", "vit.", "dinov2.")
"""What training programs put in front of every name."""

_HEADS: Final = ("head.", "fc.", "classifier.", "pooler.")
"""Beginnings of the names of layers that an encoder does not use."""

_OF_TRANSFORMERS: Final = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers?)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.layer_scale1\.lambda1$", ".ls1.gamma"),
    (r"\.layer_scale2\.lambda1$", ".ls2.gamma"),
    (r"^layernorm\.", "norm."),
)
"""Names of ViT and DINOv2 in transformers 4 and 5, as regular expressions, and timm's."""

_UNUSED: Final = "embeddings.mask_token"
"""Masks patches in pre-training; no output depends on it."""


def named_as_timm(
    state: Mapping[str, Tensor], specification: EncoderSpecification, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a published file under the network's own names.

    Parameters
    ----------
    state
        As in the file.
    specification
        Says how the file names its tensors.
    expected
        The network's own state dict.

    Raises
    ------
    BundleError
        If query, key and value of a block are not all there.
    """
    bare = _without_wrapper(state, specification, expected)
    if specification.key_names != "timm":
        bare = _of_transformers(bare)
    return {n: t for n, t in bare.items() if n in expected or not n.startswith(_HEADS)}


def _without_wrapper(
    state: Mapping[str, Tensor], specification: EncoderSpecification, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    marks = expected if specification.key_names == "timm" else {"embeddings.cls_token": None}
    best: dict[str, Tensor] = dict(state)
    for wrapper in _WRAPPERS:
        found = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
        if len(found) == len(state) and sum(n in marks for n in found) > sum(n in marks for n in best):
            best = found
    return best


def _of_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == _UNUSED:
            continue
        for pattern, replacement in _OF_TRANSFORMERS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    joined: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        if ".attn.q." in name:
            parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
            if missing := [part for part in parts if part not in renamed]:
                raise BundleError(f"the file has {name} and lacks {missing[0]}", remedy="Download it again")
            joined[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([renamed[part] for part in parts])
        elif ".attn.k." not in name and ".attn.v." not in name:
            joined[name] = tensor
    return joined

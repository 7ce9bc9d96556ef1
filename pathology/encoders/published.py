"""Published pathology encoders, as their authors describe them.

Every network is built by timm.  Layers that timm cannot take by name are named here and filled in by
:mod:`pathology.encoders.network`.  The checkpoints of Phikon, Phikon-v2 and Midnight name their tensors as transformers
does; :mod:`pathology.encoders.key_names` renames them.
"""

from __future__ import annotations

import difflib
from typing import Any, Final

from pathology.encoders.specification import EncoderSpecification
from pathology.errors import UnknownModelError

__all__ = ["PUBLISHED", "find_published", "unknown_encoder"]

_NON_COMMERCIAL: Final = "CC BY-NC-ND 4.0: no commercial use; its terms are accepted on the hub"
_APACHE_GATED: Final = "Apache-2.0; its terms are accepted on the hub"
_HUB: Final = "as stated on the hub's page of the model; read it before use"

_SWIGLU: Final = {"mlp_layer": "swiglu-packed", "act_layer": "silu"}
_HALF: Final = (0.5, 0.5, 0.5)
_OPTIMUS: Final[dict[str, Any]] = {
    "architecture": "vit_giant_patch14_reg4_dinov2",
    "options": {"img_size": 224, "init_values": 1e-5, "global_pool": "token", "dynamic_img_size": False},
    "prefix_tokens": 5,
    "vector": 1536,
    "mean": (0.707223, 0.578729, 0.703617),
    "std": (0.211883, 0.230117, 0.177517),
    "gated": True,
}
_VIRCHOW: Final[dict[str, Any]] = {
    "architecture": "vit_huge_patch14_224",
    "options": {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU},
    "interpolation": "bicubic",
    "pooling": "token+mean",
    "vector": 2560,
    "gated": True,
}
# transformers' ViT and DINOv2 normalise with these epsilons; timm's ViT has 1e-6 throughout.
_VIT_EPSILON: Final = {"norm_layer": "layer-norm-1e-12"}


def _kaiko(name: str, architecture: str, vector: int, *, size: int = 224, prefix: int = 1) -> EncoderSpecification:
    return EncoderSpecification(
        name=f"kaiko-{name}",
        hub=f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms",
        architecture=architecture,
        options={"img_size": size, "dynamic_img_size": True},
        patch=256,
        prefix_tokens=prefix,
        vector=vector,
        mean=_HALF,
        std=_HALF,
        licence=_HUB,
        reference="Aben et al. 2024, arXiv 2404.15217",
    )


PUBLISHED: Final = (
    EncoderSpecification(
        name="uni",
        aliases=("uni_v1",),
        hub="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        options={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        patch=256,
        vector=1024,
        licence=_NON_COMMERCIAL,
        gated=True,
        reference="Chen et al. 2024, Nature Medicine 30:850",
    ),
    EncoderSpecification(
        name="uni2-h",
        aliases=("uni_v2", "uni2"),
        hub="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        options={
            "img_size": 224,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
            **_SWIGLU,
        },
        patch=256,
        prefix_tokens=9,
        vector=1536,
        licence=_NON_COMMERCIAL,
        gated=True,
        reference="Chen et al. 2024, Nature Medicine 30:850",
    ),
    EncoderSpecification(
        name="virchow",
        hub="paige-ai/Virchow",
        licence=_APACHE_GATED,
        reference="Vorontsov et al. 2024, Nature Medicine 30:2924",
        **_VIRCHOW,
    ),
    EncoderSpecification(
        name="virchow2",
        hub="paige-ai/Virchow2",
        licence=_NON_COMMERCIAL,
        reference="Zimmermann et al. 2024, arXiv 2408.00738",
        prefix_tokens=5,
        **(_VIRCHOW | {"options": {**_VIRCHOW["options"], "reg_tokens": 4}}),
    ),
    EncoderSpecification(
        name="prov-gigapath",
        aliases=("gigapath",),
        hub="prov-gigapath/prov-gigapath",
        architecture="vit_giant_patch14_dinov2",
        options={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
        patch=256,
        resize=256,
        interpolation="bicubic",
        vector=1536,
        licence=_APACHE_GATED,
        gated=True,
        reference="Xu et al. 2024, Nature 630:181",
    ),
    EncoderSpecification(
        name="h-optimus-0",
        aliases=("hoptimus0", "h_optimus_0"),
        hub="bioptimus/H-optimus-0",
        licence=_APACHE_GATED,
        reference="Saillard et al. 2024, github.com/bioptimus/releases",
        **_OPTIMUS,
    ),
    EncoderSpecification(
        name="h-optimus-1",
        aliases=("hoptimus1", "h_optimus_1"),
        hub="bioptimus/H-optimus-1",
        licence=_NON_COMMERCIAL,
        reference="Bioptimus 2025, huggingface.co/bioptimus/H-optimus-1",
        **_OPTIMUS,
    ),
    EncoderSpecification(
        name="h0-mini",
        aliases=("h0mini", "h0_mini"),
        hub="bioptimus/H0-mini",
        architecture="vit_base_patch14_reg4_dinov2",
        options={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, **_SWIGLU},
        prefix_tokens=5,
        vector=768,
        mean=_OPTIMUS["mean"],
        std=_OPTIMUS["std"],
        licence=_NON_COMMERCIAL,
        gated=True,
        reference="Filiot et al. 2025, arXiv 2501.16239",
    ),
    _kaiko("vits8", "vit_small_patch8_224", 384),
    _kaiko("vits16", "vit_small_patch16_224", 384),
    _kaiko("vitb8", "vit_base_patch8_224", 768),
    _kaiko("vitb16", "vit_base_patch16_224", 768),
    _kaiko("vitl14", "vit_large_patch14_reg4_dinov2", 1024, size=518, prefix=5),
    EncoderSpecification(
        name="lunit-vits8",
        aliases=("lunit", "lunit_vits8"),
        hub="1aurent/vit_small_patch8_224.lunit_dino",
        architecture="vit_small_patch8_224",
        options={"img_size": 224, "dynamic_img_size": True},
        interpolation="bicubic",
        vector=384,
        mean=(0.70322989, 0.53606487, 0.66096631),
        std=(0.21716536, 0.26081574, 0.20723464),
        licence="non-commercial, as Lunit states it; read it on the hub's page before use",
        reference="Kang et al. 2023, CVPR, arXiv 2212.04690",
    ),
    EncoderSpecification(
        name="gpfm",
        hub="majiabo/GPFM",
        files=("model.safetensors", "GPFM.pth", "pytorch_model.bin"),
        architecture="vit_large_patch14_dinov2",
        options={"img_size": 224, "init_values": 1e-5},
        vector=1024,
        licence=_HUB,
        reference="Ma et al. 2025, Nature Biomedical Engineering",
    ),
    EncoderSpecification(
        name="phikon",
        hub="owkin/phikon",
        architecture="vit_base_patch16_224",
        options={"img_size": 224, **_VIT_EPSILON},
        key_names="transformers-vit",
        vector=768,
        licence="Owkin's non-commercial licence; read it on the hub's page before use",
        reference="Filiot et al. 2023, medRxiv 2023.07.21.23292757",
    ),
    EncoderSpecification(
        name="phikon-v2",
        aliases=("phikon_v2",),
        hub="owkin/phikon-v2",
        architecture="vit_large_patch16_224",
        options={"img_size": 224, "init_values": 1e-5},
        key_names="transformers-dinov2",
        vector=1024,
        licence="Owkin's non-commercial licence; read it on the hub's page before use",
        reference="Filiot et al. 2024, arXiv 2409.09173",
    ),
    EncoderSpecification(
        name="midnight",
        aliases=("midnight12k", "midnight-12k"),
        hub="kaiko-ai/midnight",
        architecture="vit_giant_patch14_dinov2",
        options={"img_size": 224, "init_values": 1e-5},
        key_names="transformers-dinov2",
        vector=1536,
        mean=_HALF,
        std=_HALF,
        licence="MIT",
        reference="Karasikov et al. 2025, arXiv 2504.05186",
    ),
    EncoderSpecification(
        name="midnight-mean",
        hub="kaiko-ai/midnight",
        architecture="vit_giant_patch14_dinov2",
        options={"img_size": 224, "init_values": 1e-5, "global_pool": ""},
        key_names="transformers-dinov2",
        pooling="token+mean",
        vector=3072,
        mean=_HALF,
        std=_HALF,
        licence="MIT",
        reference="Karasikov et al. 2025, arXiv 2504.05186",
    ),
)
"""All published encoders known here."""


def find_published(name: str) -> EncoderSpecification | None:
    """Return a published encoder by its name, an alias or its repository, in any case; ``None`` if none has it.

    Examples
    --------
    >>> find_published("UNI_v2").name
    'uni2-h'
    """
    wanted = name.lower()
    exact = next((encoder for encoder in PUBLISHED if encoder.name == wanted), None)
    return exact or next((encoder for encoder in PUBLISHED if wanted in encoder.names()), None)


def unknown_encoder(name: str) -> UnknownModelError:
    """Return the error for a name that is no encoder; it names the closest."""
    known = [encoder.name for encoder in PUBLISHED]
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return UnknownModelError(
        f"no encoder is called {name!r}; published: {', '.join(known)}; others: timm:NAME, torchvision:NAME, or the"
        " name of a classifier bundle",
        remedy=f"The closest name is {close[0]}" if close else "See: pathology encoders list",
    )

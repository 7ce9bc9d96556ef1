"""The networks of the published encoders: names and shapes of their tensors, and their vectors."""

import re

import pytest
import torch

from pathology.encoders.key_names import named_as_timm
from pathology.encoders.network import PatchEncoder, build_body
from pathology.encoders.published import PUBLISHED, find_published
from pathology.errors import BundleError, UnknownModelError

pytest.importorskip("timm")

# Parameters; tensors; blocks; embedding of places; registers; first and second layer of a block's network.  From the
# authors' model cards (parameters) and what their constructions imply; ViT-g with SwiGLU has 8192 and 4096, ViT-H 6832
# and 3416.
SHAPES = {
    "uni": (303_350_784, 342, 24, (1, 197, 1024), 0, (4096, 1024), (1024, 4096)),
    "uni2-h": (681_394_176, 343, 24, (1, 256, 1536), 8, (8192, 1536), (1536, 4096)),
    "virchow": (631_229_184, 454, 32, (1, 257, 1280), 0, (6832, 1280), (1280, 3416)),
    "virchow2": (631_239_424, 455, 32, (1, 261, 1280), 4, (6832, 1280), (1280, 3416)),
    "prov-gigapath": (1_134_953_984, 566, 40, (1, 197, 1536), 0, (8192, 1536), (1536, 4096)),
    "h-optimus-0": (1_134_774_272, 567, 40, (1, 256, 1536), 4, (8192, 1536), (1536, 4096)),
    "h-optimus-1": (1_134_774_272, 567, 40, (1, 256, 1536), 4, (8192, 1536), (1536, 4096)),
    "h0-mini": (85_739_520, 175, 12, (1, 256, 768), 4, (4096, 768), (768, 2048)),
    "kaiko-vits8": (21_670_272, 150, 12, (1, 785, 384), 0, (1536, 384), (384, 1536)),
    "kaiko-vits16": (21_665_664, 150, 12, (1, 197, 384), 0, (1536, 384), (384, 1536)),
    "kaiko-vitb8": (85_807_872, 150, 12, (1, 785, 768), 0, (3072, 768), (768, 3072)),
    "kaiko-vitb16": (85_798_656, 150, 12, (1, 197, 768), 0, (3072, 768), (768, 3072)),
    "kaiko-vitl14": (304_370_688, 343, 24, (1, 1369, 1024), 4, (4096, 1024), (1024, 4096)),
    "lunit-vits8": (21_670_272, 150, 12, (1, 785, 384), 0, (1536, 384), (384, 1536)),
    "gpfm": (303_227_904, 342, 24, (1, 257, 1024), 0, (4096, 1024), (1024, 4096)),
    "phikon": (85_798_656, 150, 12, (1, 197, 768), 0, (3072, 768), (768, 3072)),
    "phikon-v2": (303_350_784, 342, 24, (1, 197, 1024), 0, (4096, 1024), (1024, 4096)),
    "midnight": (1_134_769_664, 566, 40, (1, 257, 1536), 0, (8192, 1536), (1536, 4096)),
    "midnight-mean": (1_134_769_664, 566, 40, (1, 257, 1536), 0, (8192, 1536), (1536, 4096)),
}


def test_every_published_encoder_is_tested():
    assert [encoder.name for encoder in PUBLISHED] == list(SHAPES)


_built = {}


def body_of(encoder):
    """Build a network without memory, once for encoders that differ in their weights alone."""
    key = repr((encoder.architecture, encoder.options))
    if key not in _built:
        with torch.device("meta"):
            _built[key] = build_body(encoder)
    return _built[key]


@pytest.mark.parametrize("encoder", PUBLISHED, ids=lambda encoder: encoder.name)
def test_names_and_shapes(encoder):
    """Without memory: on the meta device."""
    parameters, tensors, blocks, places, registers, first, second = SHAPES[encoder.name]
    with torch.device("meta"):
        network = PatchEncoder(
            body_of(encoder),
            encoder.mean,
            encoder.std,
            pooling=encoder.pooling,
            prefix_tokens=encoder.prefix_tokens,
        ).eval()
        found = network(torch.zeros((2, encoder.input, encoder.input, 3), dtype=torch.uint8))
    state = network.body.state_dict()
    assert found.shape == (2, encoder.vector)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(state) == tensors
    assert {int(name.split(".")[1]) for name in state if name.startswith("blocks.")} == set(range(blocks))
    assert state["pos_embed"].shape == places
    assert encoder.prefix_tokens == 1 + registers
    assert ("reg_token" in state) == bool(registers)
    if registers:
        assert state["reg_token"].shape == (1, registers, places[2])
    assert state["blocks.0.mlp.fc1.weight"].shape == first
    assert state["blocks.0.mlp.fc2.weight"].shape == second
    # No head, and the norm before it as the published files have it, not the one after pooling.
    outside = {name for name in state if not name.startswith("blocks.")} - {"reg_token"}
    assert outside == {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "norm.weight",
        "norm.bias",
    }


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("phikon", "vit"),
        ("phikon-v2", "dinov2"),
        ("midnight", "dinov2-swiglu"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_files_of_transformers_give_what_transformers_gives(name, make, tmp_path):
    """Small networks of the same kind: timm's with the file's tensors under new names, and transformers' own."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 16}
    if make == "vit":
        theirs = transformers.ViTModel(transformers.ViTConfig(**small, intermediate_size=384), add_pooling_layer=False)
    else:
        theirs = transformers.Dinov2Model(transformers.Dinov2Config(**small, use_swiglu_ffn="swiglu" in make))
    theirs.eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    published = find_published(name)
    hidden = (int(96 * 4 * 2 / 3) + 7) // 8 * 8  # DINOv2's own rule
    options = {
        **published.options,
        "img_size": 32,
        "patch_size": 16,
        "embed_dim": 96,
        "depth": 2,
        "num_heads": 4,
        **({"mlp_ratio": 2 * hidden / 96 + 1e-4} if "swiglu" in make else {}),
    }
    ours = build_body(published.model_copy(update={"options": options})).eval()
    for file in (load_file(tmp_path / "model.safetensors"), theirs.state_dict()):
        ours.load_state_dict(named_as_timm(file, published, ours.state_dict()))
        with torch.no_grad():
            images = torch.randn(3, 3, 32, 32)
            expected = theirs(images).last_hidden_state[:, 0]
            assert (ours(images) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_names_as_transformers_4_wrote_them():
    """The published files are older than transformers 5, which names a ViT's layers anew."""
    published = find_published("phikon")
    block = "encoder.layer.7."
    old = {
        "embeddings.cls_token": torch.zeros(1, 1, 4),
        f"{block}attention.attention.query.weight": torch.full((4, 4), 1.0),
        f"{block}attention.attention.key.weight": torch.full((4, 4), 2.0),
        f"{block}attention.attention.value.weight": torch.full((4, 4), 3.0),
        f"{block}attention.output.dense.bias": torch.zeros(4),
        f"{block}intermediate.dense.weight": torch.zeros(16, 4),
        f"{block}output.dense.weight": torch.zeros(4, 16),
        f"{block}layernorm_before.weight": torch.zeros(4),
        "layernorm.bias": torch.zeros(4),
        "pooler.dense.weight": torch.zeros(4, 4),
    }
    found = named_as_timm(old, published, {})
    assert set(found) == {
        "cls_token",
        "blocks.7.attn.qkv.weight",
        "blocks.7.attn.proj.bias",
        "blocks.7.mlp.fc1.weight",
        "blocks.7.mlp.fc2.weight",
        "blocks.7.norm1.weight",
        "norm.bias",
    }
    assert found["blocks.7.attn.qkv.weight"][:, 0].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    del old[f"{block}attention.attention.key.weight"]
    with pytest.raises(BundleError, match=r"lacks blocks\.7\.attn\.k\.weight"):
        named_as_timm(old, published, {})


def test_names_and_aliases_are_unambiguous():
    seen = {}
    for encoder in PUBLISHED:
        for name in encoder.names() - {encoder.hub.lower()}:
            assert seen.setdefault(name, encoder.name) == encoder.name
            assert find_published(name.upper()) is encoder
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", encoder.hub) for encoder in PUBLISHED)
    assert find_published("bioptimus/h-optimus-1").name == "h-optimus-1"


def test_an_unknown_name_brings_the_closest():
    from pathology.encoders.installed import load_encoder

    with pytest.raises(UnknownModelError, match="closest name is uni2-h"):
        load_encoder("uni2-hh")

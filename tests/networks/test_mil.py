"""Learned aggregators: sizes, the published arithmetic, and that the order of patches does not matter."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from pathology.networks.mil import ClamSingleBranch, SetTransformer, build_aggregator


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_parameters():
    # Of the published code, size "small": 1024-512, gates 512-256 twice, 256-1, 512-C, and C times 512-2.
    assert count(ClamSingleBranch(1024, 2)) == 790_791
    assert count(ClamSingleBranch(1024, 3)) == 790_791 + 513 + 1_026
    block = 4 * (256 * 256 + 256) + 2 * 2 * 256
    induced = 2 * block + 16 * 256
    assert count(SetTransformer(1024, 2)) == 1024 * 256 + 256 + 2 * induced + 256 + block + 257 * 2 == 1_592_322


@pytest.mark.parametrize("name", ["attention", "transformer"])
def test_attention_sums_to_one_and_order_does_not_matter(name):
    network = build_aggregator(name, 32, 4).eval()
    features = torch.randn(50, 32)
    order = torch.randperm(50)
    with torch.inference_mode():
        first, second = network(features), network(features[order])
    assert float(first.attention.sum()) == pytest.approx(1, abs=1e-5)
    assert first.logits.shape == (4,)
    torch.testing.assert_close(second.logits, first.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.attention, first.attention[order], rtol=1e-4, atol=1e-6)


def test_gated_attention_by_hand():
    network = ClamSingleBranch(6, 2).eval()
    x = np.random.default_rng(0).normal(size=(5, 6))
    w = {name: value.detach().numpy().astype(float) for name, value in network.named_parameters()}
    h = np.maximum(x @ w["embed.0.weight"].T + w["embed.0.bias"], 0)
    gate = np.tanh(h @ w["signal.0.weight"].T + w["signal.0.bias"]) / (
        1 + np.exp(-(h @ w["openness.0.weight"].T + w["openness.0.bias"]))
    )
    score = (gate @ w["weight.weight"].T + w["weight.bias"])[:, 0]
    a = np.exp(score) / np.exp(score).sum()
    logits = (a @ h) @ w["classifier.weight"].T + w["classifier.bias"]
    got = network(torch.from_numpy(x).float())
    np.testing.assert_allclose(got.attention.detach(), a, rtol=1e-4)
    np.testing.assert_allclose(got.logits.detach(), logits, rtol=1e-4, atol=1e-5)


def test_instance_loss_by_hand():
    network = ClamSingleBranch(6, 3).eval()
    features = torch.randn(9, 6)
    output, loss = network.with_instance_loss(features, 1, k=2)
    embedded = network.embed(features)
    order = output.attention.argsort(descending=True)
    own = functional.cross_entropy(network.instances[1](embedded[order[[0, 1, -1, -2]]]), torch.tensor([1, 1, 0, 0]))
    others = [functional.cross_entropy(network.instances[k](embedded[order[:2]]), torch.tensor([0, 0])) for k in (0, 2)]
    torch.testing.assert_close(loss, (own + others[0] + others[1]) / 3)


def test_attention_block_equals_the_published_equations():
    """The reference splits the width into heads, concatenates them as a batch, and scales by the whole width."""
    network = SetTransformer(8, 2, width=12, heads=3, points=4).eval()
    block = network.pool
    asking, asked = torch.randn(2, 12), torch.randn(7, 12)
    query, key, value = block.query(asking), block.key(asked), block.value(asked)
    parts = []
    for head in range(3):
        q, k, v = (x[:, 4 * head : 4 * head + 4] for x in (query, key, value))
        parts.append(q + torch.softmax(q @ k.T / 12**0.5, dim=1) @ v)
    hidden = block.first(torch.cat(parts, dim=1))
    expected = block.second(hidden + torch.relu(block.feed(hidden)))
    torch.testing.assert_close(block(asking, asked)[0], expected)


def test_unknown_name():
    with pytest.raises(LookupError, match="attention, transformer"):
        build_aggregator("vote", 8, 2)

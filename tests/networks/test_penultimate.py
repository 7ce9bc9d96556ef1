"""Splitting a classifier changes nothing that it says."""

import pytest
import torch
from torch import nn

from pathology.networks.penultimate import split_classifier
from pathology.networks.registry import build_network


@pytest.mark.parametrize(
    ("architecture", "features", "side"),
    [("densenet121", 1024, 64), ("densenet121-foersch", 512, 64), ("inception-v3", 2048, 96)],
)
def test_body_and_head_give_what_the_network_gave(architecture, features, side):
    torch.manual_seed(0)
    network = build_network(architecture, 5).eval()
    pixels = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        before = network(pixels)
        body, head = split_classifier(network)
        found = body(pixels)
        assert found.shape == (2, features) == (2, head.in_features)
        torch.testing.assert_close(head(found), before)


def test_a_network_with_another_end_is_refused():
    with pytest.raises(TypeError, match="does not end in a fully connected layer"):
        split_classifier(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Conv1d(4, 2, 1)))

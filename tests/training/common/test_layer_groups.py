import pytest
import torch
from torch import nn

from pathology.errors import UsageError
from pathology.networks.registry import build_network
from pathology.training.common.layer_groups import freeze_body, group_rates, layer_groups

HEAD_OF_FOERSCH = 1_056_773
NORMS_OF_DENSENET = 83_648
"""Weights and biases of DenseNet121's 121 batch normalisations, the last one included."""


def parameters(group):
    return [p for layer in group for p in layer.parameters()]


@pytest.mark.parametrize("architecture", ["densenet121", "densenet121-foersch", "inception-v3"])
def test_every_parameter_is_in_one_group(architecture):
    network = build_network(architecture, 5)
    groups = layer_groups(network)
    assert len(groups) == 3
    together = [id(p) for group in groups for p in parameters(group)]
    assert len(together) == len(set(together))
    assert set(together) == {id(p) for p in network.parameters()}


def test_foersch_is_cut_where_fastai_cuts_it():
    network = build_network("densenet121-foersch", 5)
    early, late, head = layer_groups(network)
    names = list(dict(network[0][0].named_children()))
    assert names[len(early) - 1] == "denseblock2"
    assert names[len(early)] == "transition2"
    assert names[-1] == "norm5"
    assert len(early) + len(late) == len(names)
    assert sum(p.numel() for p in parameters(head)) == HEAD_OF_FOERSCH
    kinds = [type(layer).__name__ for layer in network[1]]
    assert kinds == [
        *("AdaptiveConcatPool", "Flatten", "BatchNorm1d", "Dropout", "Linear"),
        *("ReLU", "BatchNorm1d", "Dropout", "Linear"),
    ]
    assert [layer.p for layer in network[1] if isinstance(layer, nn.Dropout)] == [0.25, 0.5]


def trainable(network):
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_frozen_and_unfrozen_counts():
    network = build_network("densenet121-foersch", 5)
    assert trainable(network) == 8_010_629
    freeze_body(network, frozen=True)
    norms = sum(
        p.numel() for m in network[0].modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters(recurse=False)
    )
    assert norms == NORMS_OF_DENSENET
    assert trainable(network) == HEAD_OF_FOERSCH + NORMS_OF_DENSENET
    freeze_body(network, frozen=False)
    assert trainable(network) == 8_010_629


def test_inception_counts():
    assert trainable(build_network("inception-v3", 1000)) == 27_161_264
    three = build_network("inception-v3", 3)
    assert trainable(three) == 24_351_718
    head = layer_groups(three)[-1]
    assert {type(layer).__name__ for layer in head} == {"InceptionAux", "Linear"}


def test_auxiliary_logits_take_part_in_training():
    network = build_network("inception-v3", 3)
    network.train()
    logits, auxiliary = network(torch.zeros(2, 3, 299, 299))
    assert logits.shape == auxiliary.shape == (2, 3)


def test_rates_are_spaced_by_equal_factors():
    assert group_rates(1e-3, None, 3) == [1e-3] * 3
    assert group_rates(1e-3, 1e-5, 3) == pytest.approx([1e-5, 1e-4, 1e-3])


def test_other_networks_are_refused():
    with pytest.raises(UsageError, match="no layer groups are defined for Linear"):
        layer_groups(nn.Linear(2, 2))

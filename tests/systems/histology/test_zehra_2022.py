"""The record of Zehra 2022 against the network and the arithmetic."""

import torch

from pathology.evaluation.detector import count_rates
from pathology.systems.histology.zehra_2022 import SYSTEM, network, settings


def test_the_released_graph():
    with torch.device("meta"):
        built = network()
    assert sum(p.numel() for p in built.parameters()) == SYSTEM.parameters
    assert [head.anchors[0] for head in built.heads] == [(12, 16), (36, 75), (142, 110)]
    assert {head.scale_xy for head in built.heads} == {1.05}


def test_the_published_figures_follow_from_counts():
    measured = count_rates(97, 33, 11)
    computed = [f"{value:.4f}" for value in (measured.precision, measured.recall, measured.f1)]
    assert [figure.value for figure in SYSTEM.published] == computed


def test_the_released_schedule():
    assert settings().schedule == "released"
    assert settings().iterations == 2000

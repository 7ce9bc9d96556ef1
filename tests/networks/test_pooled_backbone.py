"""The pooled backbones, held against TIAToolbox's own networks and published counts."""

import logging
import warnings

import pytest
import torch
import torchvision
from torch import nn

from pathology.networks.pooled_backbone import BACKBONES
from pathology.networks.registry import build_network


@pytest.fixture(scope="module")
def vanilla():
    """tiatoolbox's module; importing it and its libraries warns and logs, which is nothing of ours."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("tiatoolbox.models.architecture.vanilla")
        logging.captureWarnings(False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    return module


def shake(network: nn.Module) -> None:
    """Give weights by which input reaches the output, and statistics that show when a normalisation is left out."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_equals_tiatoolboxes_network(backbone, vanilla):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision about how tiatoolbox builds GoogLeNet
        theirs = vanilla.CNNModel(backbone, num_classes=3)
    shake(theirs)
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    pixels[1] *= torch.linspace(-3, 3, 96)
    with torch.no_grad():
        # Logits of a size at which the softmax shows every difference.
        features = theirs.pool(theirs.eval().feat_extract(pixels)).flatten(1)
        theirs.classifier.weight /= theirs.classifier(features).abs().max()
        theirs.classifier.bias.zero_()
    ours = build_network("pooled-backbone", 3, backbone=backbone)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        expected = theirs(pixels)
        found = torch.softmax(ours.eval()(pixels), dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert expected.std(dim=0).max() > 1e-4  # the two patches are told apart


@pytest.mark.parametrize(
    ("backbone", "published", "their_head", "our_head"),
    [
        # Torchvision's documentation gives the counts at 1000 classes.
        ("resnet18", 11_689_512, 512 * 1000 + 1000, 512 * 2 + 2),
        ("resnet50", 25_557_032, 2048 * 1000 + 1000, 2048 * 2 + 2),
        ("densenet121", 7_978_856, 1024 * 1000 + 1000, 1024 * 2 + 2),
        ("mobilenet_v2", 3_504_872, 1280 * 1000 + 1000, 1280 * 2 + 2),
        # Its 9216 -> 4096 -> 4096 -> 1000 are left out.
        ("alexnet", 61_100_840, 9217 * 4096 + 4097 * 4096 + 4097 * 1000, 256 * 2 + 2),
    ],
)
def test_learnable_parameters(backbone, published, their_head, our_head):
    network = build_network("pooled-backbone", 2, backbone=backbone)
    assert sum(parameter.numel() for parameter in network.parameters()) == published - their_head + our_head


def test_a_densenet_is_pooled_without_torchvisions_relu():
    ours = build_network("pooled-backbone", 1000, backbone="densenet121").eval()
    theirs = torchvision.models.densenet121(weights=None).eval()
    theirs.features.load_state_dict(ours.feat_extract.state_dict())
    theirs.classifier.load_state_dict(ours.classifier.state_dict())
    shake(ours)
    shake(theirs)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(ours(pixels), theirs(pixels), atol=1e-3)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'vgg19'"):
        build_network("pooled-backbone", 2, backbone="vgg19")

"""Grad-CAM equals the reference library, and depends on the weights."""

import numpy as np
import pytest
import torch
from torch import nn

from pathology.errors import UsageError
from pathology.networks.petct import two_stream_petct
from pathology.networks.registry import build_network
from pathology.networks.torchvision_classifiers import densenet161, last_feature_map, resnet18
from pathology.training.common.grad_cam import grad_cam


def between_0_and_1(maps):
    flat = maps.reshape(len(maps), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    shape = (-1, *([1] * (maps.ndim - 1)))
    return (maps - low.reshape(shape)) / (high - low + 1e-7).reshape(shape)


@pytest.fixture
def images():
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [(0, 1), (2, 2)])
def test_equals_the_reference_library(images, classes):
    reference = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(1)
    network = resnet18(3).eval()
    layer = last_feature_map(network)
    with reference.GradCAM(model=network, target_layers=[layer]) as cam:
        expected = cam(input_tensor=images, targets=[ClassifierOutputTarget(c) for c in classes])
    found = grad_cam(network, layer, images, classes)
    assert found.shape == (2, 96, 96)
    assert expected.max() > 0.9
    np.testing.assert_allclose(between_0_and_1(found), expected, atol=1e-5)


@pytest.mark.parametrize(("architecture", "side"), [("inception-v3", 299), ("densenet121-foersch", 96)])
def test_the_published_classifiers_equal_the_reference_library(architecture, side):
    reference = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(1)
    network = build_network(architecture, 3).eval()
    layer = last_feature_map(network)
    # One image for all classes: the map of a class may be empty, those of all are not.
    same = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    with reference.GradCAM(model=network, target_layers=[layer]) as cam:
        expected = cam(input_tensor=same, targets=[ClassifierOutputTarget(c) for c in range(3)])
    found = grad_cam(network, layer, same, (0, 1, 2))
    assert found.shape == (3, side, side)
    assert expected.std() > 0.05
    np.testing.assert_allclose(between_0_and_1(found), expected, atol=1e-4)


def test_a_network_whose_last_map_is_unknown_is_refused():
    with pytest.raises(TypeError, match="Sequential"):
        last_feature_map(nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1)), nn.Sequential(nn.Flatten())))


def test_a_following_activation_in_place_changes_nothing(images):
    """DenseNet's last feature map is taken before its ReLU, which torchvision applies in place."""
    torch.manual_seed(1)
    network = densenet161(2).eval()
    features = network.features(images)
    leaf = features.detach().requires_grad_()
    logits = network.classifier(nn.functional.relu(leaf).mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    expected = torch.relu((gradient.mean(dim=(2, 3), keepdim=True) * leaf.detach()).sum(dim=1, keepdim=True))
    expected = nn.functional.interpolate(expected, size=(96, 96), mode="bilinear", align_corners=False)[:, 0]
    found = grad_cam(network, last_feature_map(network), images, (1, 1))
    assert found.max() > 0
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_other_weights_give_another_map(images):
    """The sanity check of Adebayo et al. 2018: a map that random weights do not change explains nothing."""
    torch.manual_seed(1)
    networks = [resnet18(3) for _ in range(2)]
    first, second = (
        np.concatenate([grad_cam(n, last_feature_map(n), images, (c, c)).ravel() for c in range(3)]) for n in networks
    )
    assert first.max() > 0
    assert second.max() > 0
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.7


def test_points_at_the_only_thing_that_counts():
    """A network that sums one channel is explained by that channel."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    image = torch.zeros(1, 1, 8, 8)
    image[..., 2:4, 5:7] = 3
    found = grad_cam(network, network[0], image, (0,))[0]
    np.testing.assert_allclose(found, image[0, 0].numpy() / 64)


def test_blocks(images):
    network = two_stream_petct(2, widths=(4, 8))
    network.train()
    found = grad_cam(network, last_feature_map(network), torch.randn(1, 2, 8, 12, 16))
    assert found.shape == (1, 8, 12, 16)
    assert network.training
    with pytest.raises(UsageError, match="spatial feature map"):
        grad_cam(network, network.classifier, torch.randn(1, 2, 8, 8, 8))

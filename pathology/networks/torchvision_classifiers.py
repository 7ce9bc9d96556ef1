"""AlexNet, VGG-19, ResNet and DenseNet-161 as classifiers of images with any number of channels.

The networks are torchvision's implementations, so its published weights match by name wherever shapes agree:

=============== ============================================ =============== ==========================
name            publication                                  at 1000 classes at 2 classes
=============== ============================================ =============== ==========================
``alexnet``     Krizhevsky 2014, arXiv 1404.5997             61,100,840      57,012,034
``vgg19``       Simonyan and Zisserman 2015, arXiv 1409.1556 143,667,240     139,578,434
``resnet18``    He et al. 2016, arXiv 1512.03385             11,689,512      11,177,538
``resnet34``    the same                                     21,797,672      21,285,698
``resnet50``    the same                                     25,557,032      23,512,130
``densenet161`` Huang et al. 2017, arXiv 1608.06993          28,681,000      26,476,418
=============== ============================================ =============== ==========================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from torch import nn
from torchvision import models

from pathology.networks.densenet import AdaptiveConcatPool
from pathology.networks.petct import TwoStreamNetwork

__all__ = [
    "CLASSIFIERS",
    "alexnet",
    "classifier_features",
    "densenet161",
    "last_feature_map",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg19",
]


def alexnet(classes: int, channels: int = 3) -> nn.Module:
    """Build AlexNet: ``(B, channels, H, W)`` to ``(B, classes)`` logits; ``H`` and ``W`` >= 63."""
    return _with_channels(models.alexnet(weights=None, num_classes=classes), channels)


def vgg19(classes: int, channels: int = 3) -> nn.Module:
    """Build VGG-19 without batch normalisation: ``(B, channels, H, W)`` to logits; ``H`` and ``W`` >= 32."""
    return _with_channels(models.vgg19(weights=None, num_classes=classes), channels)


def resnet18(classes: int, channels: int = 3) -> nn.Module:
    """Build ResNet-18: ``(B, channels, H, W)`` to ``(B, classes)`` logits."""
    return _with_channels(models.resnet18(weights=None, num_classes=classes), channels)


def resnet34(classes: int, channels: int = 3) -> nn.Module:
    """Build ResNet-34: ``(B, channels, H, W)`` to ``(B, classes)`` logits."""
    return _with_channels(models.resnet34(weights=None, num_classes=classes), channels)


def resnet50(classes: int, channels: int = 3) -> nn.Module:
    """Build ResNet-50: ``(B, channels, H, W)`` to ``(B, classes)`` logits."""
    return _with_channels(models.resnet50(weights=None, num_classes=classes), channels)


def densenet161(classes: int, channels: int = 3) -> nn.Module:
    """Build DenseNet-161: ``(B, channels, H, W)`` to logits; ``H`` and ``W`` >= 32."""
    return _with_channels(models.densenet161(weights=None, num_classes=classes), channels)


CLASSIFIERS: Final[dict[str, Callable[..., nn.Module]]] = {
    "alexnet": alexnet,
    "densenet161": densenet161,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg19": vgg19,
}
"""Builders by name; each takes the number of classes and, by keyword, of channels."""


def classifier_features(network: nn.Module) -> nn.Module:
    """Return the network without its last fully connected layer: ``(B, C, H, W)`` to ``(B, F)``.

    ``F`` is 4096 for AlexNet and VGG-19 (the layer before the last), 512 for ResNet-18 and -34, 2048 for ResNet-50
    and 2208 for DenseNet-161.  Weights are shared with ``network``, which is not modified.

    Raises
    ------
    TypeError
        If the network is not one of :data:`CLASSIFIERS`.
    """
    if isinstance(network, models.ResNet):
        # The children in order are the forward pass up to the classifier, except for the flattening.
        return nn.Sequential(*list(network.children())[:-1], nn.Flatten())
    if isinstance(network, models.DenseNet):
        return nn.Sequential(network.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if isinstance(network, models.AlexNet | models.VGG):
        head = list(network.classifier.children())[:-1]
        return nn.Sequential(network.features, network.avgpool, nn.Flatten(), *head)
    raise TypeError(f"expected a torchvision classifier, got {type(network).__name__}")


def last_feature_map(network: nn.Module) -> nn.Module:
    """Return the module that outputs the last feature map, for Grad-CAM.

    AlexNet, VGG-19: the last pooling.  ResNet: the last block, after its ReLU.  DenseNet: the last normalisation,
    before the ReLU that torchvision applies to it; likewise for Foersch et al., which has no ReLU.  InceptionV3:
    the last mixed block.  Two-stream network: the deepest fusion.

    Raises
    ------
    TypeError
        If the network is not one of these.
    """
    if isinstance(network, models.ResNet):
        return cast("nn.Module", network.layer4)
    if isinstance(network, models.DenseNet | models.AlexNet | models.VGG):
        return cast("nn.Module", network.features)
    if isinstance(network, models.Inception3):
        return cast("nn.Module", network.Mixed_7c)
    if isinstance(network, TwoStreamNetwork):
        return network.fusion[-1]
    if isinstance(network, nn.Sequential) and any(isinstance(m, AdaptiveConcatPool) for m in network.modules()):
        return network[0]
    raise TypeError(f"{type(network).__name__} has no known last feature map")


def _with_channels(network: nn.Module, channels: int) -> nn.Module:
    """Replace the first convolution if images do not have 3 channels."""
    if channels == 3:
        return network
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            first = nn.Conv2d(
                channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            parent_name, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent_name), last, first)
            break
    return network

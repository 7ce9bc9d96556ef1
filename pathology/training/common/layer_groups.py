"""Layers in the groups that transfer learning freezes and gives learning rates of their own."""

from __future__ import annotations

from torch import nn
from torchvision.models import DenseNet, Inception3

from pathology.errors import UsageError

__all__ = ["freeze_body", "group_rates", "layer_groups"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def layer_groups(network: nn.Module) -> list[list[nn.Module]]:
    """Return the layers of a classifier, early body, late body and head.

    DenseNet121 is cut before its second transition, as fastai 1 cuts it (``fastai/vision/learner.py``,
    ``_densenet_split``): children 0 to 6 of the body, children 7 and later, head.  InceptionV3 is cut before its first
    17 x 17 module; its auxiliary classifier belongs to the head, because like it it is new for every task.

    Raises
    ------
    UsageError
        If the network is of neither kind.
    """
    if isinstance(network, DenseNet):
        body = list(network.features.children())
        return [body[:7], body[7:], [network.classifier]]
    if isinstance(network, Inception3):
        parts = dict(network.named_children())
        heads = [parts.pop(name) for name in ("AuxLogits", "fc") if name in parts]
        names = list(parts)
        cut = names.index("Mixed_6a")
        return [[parts[n] for n in names[:cut]], [parts[n] for n in names[cut:]], heads]
    if isinstance(network, nn.Sequential) and len(network) == 2 and isinstance(network[0], nn.Sequential):
        body = list(network[0][0].children())
        return [body[:7], body[7:], [network[1]]]
    raise UsageError(f"a {type(network).__name__} has no known groups of layers")


def freeze_body(network: nn.Module, *, frozen: bool) -> None:
    """Hold the body still, its batch normalisation excepted, or let everything learn.

    As fastai 1 does by default (``train_bn=True`` in ``fastai/basic_train.py``): the weights and the statistics of
    batch normalisation go on learning, so that the body fits the new pictures' colours.
    """
    *body, head = layer_groups(network)
    for layer in (layer for group in body for layer in group):
        for module in layer.modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(not frozen or isinstance(module, _NORMS))
    for layer in head:
        layer.requires_grad_(True)


def group_rates(highest: float, lowest: float | None, groups: int) -> list[float]:
    """Return a learning rate a group, spaced by equal factors from the earliest layers to the head.

    Parameters
    ----------
    highest
        Of the head.
    lowest
        Of the earliest layers; ``None``: all alike.
    groups
        How many there are.
    """
    if lowest is None or groups == 1:
        return [highest] * groups
    step = (highest / lowest) ** (1 / (groups - 1))
    return [lowest * step**i for i in range(groups)]

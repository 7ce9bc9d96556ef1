"""Layer groups for freezing and discriminative learning rates in transfer learning."""

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
    17 x 17 module; its auxiliary classifier belongs to the head, because both are new for every task.

    Raises
    ------
    UsageError
        If the network is of another architecture.
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
    raise UsageError(f"no layer groups are defined for {type(network).__name__}")


def freeze_body(network: nn.Module, *, frozen: bool) -> None:
    """Freeze the body, except its batch normalisation, or unfreeze everything.

    As fastai 1 does by default (``train_bn=True`` in ``fastai/basic_train.py``): the weights and the statistics of
    batch normalisation stay trainable, so that the body adapts to the colours of the new images.
    """
    *body, head = layer_groups(network)
    for layer in (layer for group in body for layer in group):
        for module in layer.modules():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(not frozen or isinstance(module, _NORMS))
    for layer in head:
        layer.requires_grad_(True)


def group_rates(highest: float, lowest: float | None, groups: int) -> list[float]:
    """Return one learning rate per group, spaced geometrically from the earliest layers to the head.

    Parameters
    ----------
    highest
        Rate of the head.
    lowest
        Rate of the earliest layers; ``None``: the same rate for all.
    groups
        Number of groups.
    """
    if lowest is None or groups == 1:
        return [highest] * groups
    step = (highest / lowest) ** (1 / (groups - 1))
    return [lowest * step**i for i in range(groups)]

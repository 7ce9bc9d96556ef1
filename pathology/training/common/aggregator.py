"""Train slide aggregators (multiple-instance learning) on frozen patch features, with slide-level labels only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.nn import functional

from pathology.errors import UsageError
from pathology.networks.mil import ClamSingleBranch, build_aggregator
from pathology.settings import Record

__all__ = ["FittedAggregator", "MilSettings", "bag_probabilities", "fit_aggregator"]

Bag = NDArray[np.floating]


class MilSettings(Record):
    """Training settings of an aggregator.  Defaults follow the published CLAM code where available."""

    kind: Literal["attention", "transformer"] = "attention"
    """Architecture; see :mod:`pathology.networks.mil`."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """Maximum number of epochs."""
    patience: Annotated[int, Field(ge=1)] = 20
    """Early stopping: epochs without a lower validation loss."""
    least_epochs: Annotated[int, Field(ge=1)] = 50
    """Minimum number of epochs before early stopping."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of Adam."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    """Weight decay of Adam (L2)."""
    instance_weight: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Weight of the CLAM clustering loss; the rest is the slide cross-entropy.  Not used by the transformer."""
    instances: Annotated[int, Field(ge=1)] = 8
    """Number of positive and of negative patches in the clustering loss."""
    most_patches: Annotated[int, Field(ge=1)] | None = None
    """Patches per slide and step, resampled at each step; ``None``: all."""


@dataclass(frozen=True, eq=False)
class FittedAggregator:
    """A trained aggregator.

    Attributes
    ----------
    network
        In evaluation mode, on the CPU, with the weights of the best epoch.
    losses
        Mean training loss of each epoch.
    validation_losses
        Mean cross-entropy of the validation slides after each epoch.
    best_epoch
        Epoch of the kept weights, from 0.
    """

    network: nn.Module
    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    best_epoch: int


def fit_aggregator(
    bags: Sequence[Bag],
    labels: Sequence[int],
    classes: int,
    settings: MilSettings,
    *,
    validation: tuple[Sequence[Bag], Sequence[int]],
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[int, float, float], None] = lambda _epoch, _loss, _validation: None,
) -> FittedAggregator:
    """Train an aggregator and keep the epoch with the lowest validation loss.

    Slides are sampled with replacement, balanced by class.  All slides of a patient must be in the same
    set; see :mod:`pathology.training.classifier.split`.

    Parameters
    ----------
    bags
        ``(N_i, F)`` patch features of each training slide.
    labels
        Class index of each slide.
    classes
        Number of classes.
    settings
        Training settings.
    validation
        Bags and labels of slides of other patients, for selecting the epoch.
    device
        ``cpu`` or ``cuda``.
    seed
        Runs with the same seed on the same device are identical.
    progress
        Called after each epoch with its number, training loss and validation loss.

    Raises
    ------
    UsageError
        If bags and labels do not match, or a bag is empty.
    """
    for some, truth in ((bags, labels), validation):
        if len(some) != len(truth) or not len(some):
            raise UsageError(f"expected one label per slide, got {len(some)} slides and {len(truth)} labels")
        if any(bag.ndim != 2 or not len(bag) or bag.shape[1] != bags[0].shape[1] for bag in some):
            raise UsageError(f"features: expected shape (N, {bags[0].shape[1]}) with N >= 1 for every slide")
    random = np.random.default_rng(seed)
    forked = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=forked):
        torch.manual_seed(seed)
        network = build_aggregator(settings.kind, bags[0].shape[1], classes).to(device)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        wanted = np.asarray(labels)
        chance = 1 / np.bincount(wanted, minlength=classes)[wanted]
        losses: list[float] = []
        found: list[float] = []
        best = copy.deepcopy(network.state_dict())
        for epoch in range(settings.epochs):
            network.train()
            total = 0.0
            for row in random.choice(len(bags), len(bags), p=chance / chance.sum()):
                loss = _loss(
                    network, _drawn(bags[row], settings.most_patches, random, device), int(wanted[row]), settings
                )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
            losses.append(total / len(bags))
            p = bag_probabilities(network, validation[0], device=device)
            found.append(float(-np.log(np.maximum(p[np.arange(len(p)), list(validation[1])], 1e-12)).mean()))
            if epoch == int(np.argmin(found)):
                best = copy.deepcopy(network.state_dict())
            progress(epoch, losses[-1], found[-1])
            if epoch + 1 >= settings.least_epochs and epoch - int(np.argmin(found)) >= settings.patience:
                break
    network.load_state_dict(best)
    return FittedAggregator(network.cpu().eval(), tuple(losses), tuple(found), int(np.argmin(found)))


def bag_probabilities(network: nn.Module, bags: Sequence[Bag], *, device: str = "cpu") -> NDArray[np.float64]:
    """Return ``(N, C)`` class probabilities of slides from their ``(N_i, F)`` features."""
    network.eval()
    with torch.inference_mode():
        return np.stack(
            [torch.softmax(network(_tensor(bag, device)).logits.double(), dim=0).cpu().numpy() for bag in bags]
        )


def _loss(network: nn.Module, bag: torch.Tensor, label: int, settings: MilSettings) -> torch.Tensor:
    if not isinstance(network, ClamSingleBranch):
        return functional.cross_entropy(network(bag).logits[None], torch.tensor([label], device=bag.device))
    output, instances = network.with_instance_loss(bag, label, k=settings.instances)
    slide = functional.cross_entropy(output.logits[None], torch.tensor([label], device=bag.device))
    return (1 - settings.instance_weight) * slide + settings.instance_weight * instances


def _drawn(bag: Bag, most: int | None, random: np.random.Generator, device: str) -> torch.Tensor:
    if most is not None and len(bag) > most:
        bag = bag[random.choice(len(bag), most, replace=False)]
    return _tensor(bag, device)


def _tensor(bag: Bag, device: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(bag, np.float32)).to(device)

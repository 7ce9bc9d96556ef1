"""Training loop of the radiology networks: fixed length, seeded, no selection on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pathology.settings import Record

__all__ = ["OptimiserSettings", "dice_and_cross_entropy", "fit", "seeded"]


class OptimiserSettings(Record):
    """Optimiser settings."""

    steps: Annotated[int, Field(ge=1)] = 400
    """Number of training steps.  Fixed: no early stopping on held-out patients."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Batch size."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Maximum learning rate of the one-cycle schedule (Smith and Topin 2019, arXiv 1708.07120)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Weight decay of AdamW (Loshchilov and Hutter 2019)."""


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose random weights depend on the seed alone, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def fit(
    network: nn.Module,
    batches: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    settings: OptimiserSettings,
    *,
    seed: int,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train a network in place.

    Parameters
    ----------
    network
        Any network.
    batches
        Draws a batch of inputs and targets with the generator it is given.
    loss
        Of outputs and targets.
    settings
        The recipe.
    seed
        Of draws, dropout and order.
    device
        ``cpu`` or ``cuda``; on CUDA the forward pass runs in bf16.
    progress
        Called with steps done and in all.

    Returns
    -------
    list of float
        Loss of each step.
    """
    place = torch.device(device)
    network.to(place).train()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    # Fewer than three steps are too short for a one-cycle schedule.
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps)
        if settings.steps > 2
        else None
    )
    losses: list[Tensor] = []
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(settings.steps):
            inputs, targets = batches(generator)
            inputs, targets = inputs.to(place, non_blocking=True), targets.to(place, non_blocking=True)
            with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
                outputs = network(inputs)
            value = loss(outputs.float(), targets)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            optimiser.step()
            if schedule is not None:
                schedule.step()
            losses.append(value.detach())
            if progress is not None:
                progress(step + 1, settings.steps)
    network.eval()
    return [float(v) for v in torch.stack(losses).cpu()]


def dice_and_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return soft Dice loss plus binary cross-entropy, for targets that may be confidences between 0 and 1.

    Parameters
    ----------
    logits
        ``(B, 1, ...)``.
    target
        The same shape, 0 to 1.

    Returns
    -------
    torch.Tensor
        ``1 - 2 Σpt / (Σp² + Σt²)`` over the batch (Milletari 2016, arXiv 1606.04797), whose least value for a
        confidence map is reached at the map itself, plus the mean cross-entropy, which has the same minimum.
    """
    probability = torch.sigmoid(logits)
    overlap = 2 * (probability * target).sum()
    total = (probability**2).sum() + (target**2).sum()
    dice = 1 - (overlap + 1e-5) / (total + 1e-5)
    return dice + nn.functional.binary_cross_entropy_with_logits(logits, target)

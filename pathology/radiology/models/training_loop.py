"""Training loop of the radiology networks: fixed length, seeded, no selection on held-out data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final

import torch
from pydantic import Field
from torch import Tensor, nn

from pathology.settings import Record
from pathology.training.common.checkpoint import (
    Checkpoint,
    optimiser_state,
    part_of,
    random_states,
    restore_optimiser,
    restore_random_states,
)

__all__ = ["OptimiserSettings", "dice_and_cross_entropy", "fit", "keeping_states", "seeded"]

_SAVES: Final = 10
"""States written during one training; the last one is that of the finished network."""

_states: ContextVar[Path | None] = ContextVar("states", default=None)


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


@contextmanager
def keeping_states(folder: Path) -> Iterator[None]:
    """Keep the state of every network trained within in a folder, so that the same program resumes after a kill.

    One training command fits many networks (folds, then the final one); each has its own state, named by all that
    determines it, and finished ones are not trained again.

    Parameters
    ----------
    folder
        Made with the first state; whoever gave it removes it in the end.
    """
    before = _states.set(folder)
    try:
        yield
    finally:
        _states.reset(before)


def _checkpoint(network: nn.Module, settings: OptimiserSettings, seed: int, contents: str) -> Checkpoint | None:
    """Return where this training's state lies: its name is a hash of first weights, settings, seed and data."""
    folder = _states.get()
    if folder is None:
        return None
    told = hashlib.sha256(json.dumps([settings.model_dump(mode="json"), seed, contents, str(network)]).encode())
    for name, value in network.state_dict().items():
        told.update(name.encode())
        told.update(value.detach().cpu().contiguous().numpy().tobytes())
    return Checkpoint(folder / told.hexdigest()[:16], told.hexdigest())


def fit(
    network: nn.Module,
    batches: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    settings: OptimiserSettings,
    *,
    seed: int,
    contents: str,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Train a network in place; within :func:`keeping_states`, a repeated call resumes, with the same result.

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
    contents
        Digest of the data that ``batches`` draws from, and of how it draws.
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
    training = _Training(network, settings, seed, _checkpoint(network, settings, seed, contents), place)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        training.resume()
        for step in range(len(training.losses), settings.steps):
            inputs, targets = batches(training.generator)
            inputs, targets = inputs.to(place, non_blocking=True), targets.to(place, non_blocking=True)
            with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
                outputs = network(inputs)
            training.step(loss(outputs.float(), targets))
            if (step + 1) % max(1, settings.steps // _SAVES) == 0 or step + 1 == settings.steps:
                training.save()
            if progress is not None:
                progress(step + 1, settings.steps)
    network.eval()
    return [float(v) for v in torch.stack(training.losses).cpu()]


class _Training:
    """All that changes during a training."""

    def __init__(
        self,
        network: nn.Module,
        settings: OptimiserSettings,
        seed: int,
        checkpoint: Checkpoint | None,
        place: torch.device,
    ) -> None:
        self.network, self.checkpoint, self.place = network.to(place).train(), checkpoint, place
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        # Fewer than three steps are too short for a one-cycle schedule.
        self.schedule = (
            torch.optim.lr_scheduler.OneCycleLR(self.optimiser, settings.learning_rate, total_steps=settings.steps)
            if settings.steps > 2
            else None
        )
        self.losses: list[Tensor] = []

    def step(self, value: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        self.optimiser.step()
        if self.schedule is not None:
            self.schedule.step()
        self.losses.append(value.detach())

    def save(self) -> None:
        if self.checkpoint is None:
            return
        parts = {
            "network": self.network.state_dict(),
            "optimiser": optimiser_state(self.optimiser),
            "random": {**random_states(), "draws": self.generator.get_state()},
            "losses": {"all": torch.stack(self.losses)},
        }
        tensors = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
        self.checkpoint.write({}, tensors, number=len(self.losses))

    def resume(self) -> None:
        found = self.checkpoint.read() if self.checkpoint is not None else None
        if found is None:
            return
        _, tensors = found
        self.network.load_state_dict(part_of(tensors, "network."))
        restore_optimiser(self.optimiser, part_of(tensors, "optimiser."))
        random = part_of(tensors, "random.")
        restore_random_states(random)
        self.generator.set_state(random["draws"])
        self.losses = list(tensors["losses.all"].to(self.place))
        if self.schedule is not None:
            for _ in self.losses:
                # The schedule depends on the step alone; the optimiser did step in the interrupted run.
                self.optimiser._opt_called = True  # type: ignore[attr-defined]
                self.schedule.step()


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

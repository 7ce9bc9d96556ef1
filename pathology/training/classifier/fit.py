"""Train a patch classifier on labelled slides: stages, schedules, early stopping and resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional
from torch.utils.data import DataLoader

from pathology.errors import UsageError
from pathology.evaluation.history import EpochRecord
from pathology.stats.temperature_scaling import negative_log_likelihood
from pathology.training.classifier.patches import SlidePatches, TrainingPatches
from pathology.training.classifier.predict import SlideLogits, automatic_precision, mixed, normalised, predict_slides
from pathology.training.classifier.recipe import SlideRecipe, Stage
from pathology.training.common.checkpoint import (
    Checkpoint,
    copied,
    optimiser_state,
    part_of,
    restore_optimiser,
)
from pathology.training.common.distributed import Distributed
from pathology.training.common.layer_groups import freeze_body, group_rates, layer_groups
from pathology.training.common.lr_finder import STEPS, find_rate

__all__ = ["FitProgress", "FittedClassifier", "SilentFitProgress", "fit_slides"]

Rows = NDArray[np.int64]

_SEARCHES = 3
"""Number of learning rate searches; Foersch et al. average three."""
_SEARCH_EPOCH = 10**6
"""Epoch number that seeds the patch order of a search; not used for training."""
_SHOWN = 50
"""Maximum number of times per epoch that the loss is read, because reading synchronises the device."""


class FitProgress(Protocol):
    """Callbacks on training progress."""

    def say(self, line: str) -> None:
        """Print one line."""

    def step(self, stage: int, epoch: int, step: int, steps: int, loss: float) -> None:
        """Called after each batch; ``loss`` is a running mean."""

    def epoch(self, record: EpochRecord) -> None:
        """Called after each epoch, once it is on disk."""


class SilentFitProgress:
    """No progress output."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def step(self, stage: int, epoch: int, step: int, steps: int, loss: float) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class FittedClassifier:
    """A trained network and its history.

    Attributes
    ----------
    network
        Weights of the best epoch, in evaluation mode.
    history
        All epochs of all stages.
    class_weights
        Class weights of the loss.
    lowest_rates
        Learning rate of the earliest layers in each stage; ``None``: that of the head.
    precision
        Training precision: ``bf16``, ``fp16`` or ``fp32``.
    """

    network: nn.Module
    history: tuple[EpochRecord, ...]
    class_weights: tuple[float, ...]
    lowest_rates: tuple[float | None, ...]
    precision: str

    @property
    def best(self) -> EpochRecord:
        """The selected epoch."""
        return next(record for record in reversed(self.history) if record.best)


def fit_slides(
    network: nn.Module,
    patches: SlidePatches,
    train: Rows,
    validation: Rows,
    recipe: SlideRecipe,
    *,
    ranks: Distributed,
    checkpoint: Checkpoint | None = None,
    seed: int = 0,
    loaders: int = 0,
    progress: FitProgress | None = None,
) -> FittedClassifier:
    """Train a network on the patches of the training slides and select the epoch on the validation slides.

    Every patch has the label of its slide.  The full state is saved after each epoch; an interrupted training
    resumes from it and, on one CPU, ends with the same weights as an uninterrupted one.

    Parameters
    ----------
    network
        Network; trained in place.
    patches
        All slides.
    train, validation
        Rows for training and for epoch selection.  No other rows are used.
    recipe
        Training recipe.
    ranks
        Rank and device of this process.
    checkpoint
        Checkpoint of the training state; ``None``: none.
    seed
        Seed for patch order, augmentation and dropout.
    loaders
        Number of data loader processes; 0: load in this process.
    progress
        Progress callbacks.

    Raises
    ------
    UsageError
        If there are fewer than two training patches, or the checkpoint belongs to another training.
    """
    fit = _Fit(network, patches, train, validation, recipe, ranks, checkpoint, seed, loaders, progress)
    return fit.run()


class _Fit:
    """State of one training run."""

    def __init__(
        self,
        network: nn.Module,
        patches: SlidePatches,
        train: Rows,
        validation: Rows,
        recipe: SlideRecipe,
        ranks: Distributed,
        checkpoint: Checkpoint | None,
        seed: int,
        loaders: int,
        progress: FitProgress | None,
    ) -> None:
        self.network = network.to(ranks.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.patches, self.validation, self.recipe, self.ranks = patches, validation, recipe, ranks
        self.checkpoint, self.seed, self.loaders = checkpoint, seed, loaders
        self.progress = progress if progress is not None and ranks.first else SilentFitProgress()
        labels = patches.labelled.labels
        shuffled = patches.shuffled(train, seed=seed, part=(ranks.rank, ranks.world))
        self.data = TrainingPatches(shuffled, [labels[row] for row in train], recipe.augmentation, seed)
        # Every process takes the same number of steps; otherwise the others would wait forever.
        held = ranks.smallest(len(self.data))
        if held < 2:
            raise UsageError(f"too few training patches ({held})", remedy="Use smaller patches or more slides")
        self.batch = min(recipe.batch, held)
        self.steps = held // self.batch
        self.loader: DataLoader[Any] = DataLoader(
            self.data,
            batch_size=self.batch,
            num_workers=loaders,
            pin_memory=ranks.device.type == "cuda",
            persistent_workers=loaders > 0,
        )
        self.weights = self._class_weights(patches.counts(train))
        self.low = automatic_precision(ranks.device)
        self.history: list[EpochRecord] = []
        self.lowest: list[float | None] = []
        self.best: dict[str, Tensor] = {}
        self.scaling: dict[str, Any] = {}

    def _class_weights(self, counts: NDArray[np.int64]) -> Tensor | None:
        if not self.recipe.class_weights:
            return None
        present = counts > 0
        weights = np.ones(len(counts))
        weights[present] = counts.sum() / (present.sum() * counts[present])
        return torch.tensor(weights, dtype=torch.float32, device=self.ranks.device)

    # -- the whole ---------------------------------------------------------------------------------------------

    def run(self) -> FittedClassifier:
        resumed: dict[str, Tensor] | None = self._resume()
        for number, stage in enumerate(self.recipe.stages):
            done = sum(1 for record in self.history if record.stage == number + 1)
            if done == stage.epochs or self._out_of_patience(number):
                continue
            if done == 0 and self.best:
                self.network.load_state_dict(self.best)
            self._stage(number, stage, done, resumed if done else None)
            resumed = None
        self.network.load_state_dict(self.best)
        return FittedClassifier(
            self.network.eval(),
            tuple(self.history),
            tuple(self.weights.tolist()) if self.weights is not None else (1.0,) * len(self.patches.labelled.classes),
            tuple(self.lowest),
            {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}[self.low],
        )

    def _stage(self, number: int, stage: Stage, done: int, resumed: dict[str, Tensor] | None) -> None:
        freeze_body(self.network, frozen=stage.frozen)
        if len(self.lowest) == number:
            self.lowest.append(self._find_lowest(stage) if stage.lowest_rate == "find" else stage.lowest_rate)
        rates = group_rates(stage.learning_rate, self.lowest[number], len(layer_groups(self.network)))
        optimiser = self._optimiser(rates)
        if resumed is not None:
            restore_optimiser(optimiser, resumed)
        schedule = self._schedule(optimiser, stage, done)
        scaler = GradScaler(self.ranks.device.type, enabled=self.low == torch.float16)
        if resumed is not None:
            scaler.load_state_dict(self.scaling)
        trained = self.ranks.wrap(self.network)
        for epoch in range(done, stage.epochs):
            self._epoch(number, epoch, trained, optimiser, schedule, scaler)
            if self._out_of_patience(number):
                break

    def _epoch(
        self,
        number: int,
        epoch: int,
        trained: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        scaler: GradScaler,
    ) -> None:
        place = sum(stage.epochs for stage in self.recipe.stages[:number]) + epoch
        self._start_pass(place)
        began, waited = time.monotonic(), 0.0
        total = torch.zeros((), device=self.ranks.device)
        trained.train()
        batches = self._endless()
        for step in range(self.steps):
            asked = time.monotonic()
            pixels, labels = next(batches)
            waited += time.monotonic() - asked
            loss = self._loss(trained, pixels, labels)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            schedule.step()
            total += loss.detach()
            if (step + 1) % max(1, self.steps // _SHOWN) == 0 or step + 1 == self.steps:
                self.progress.step(number + 1, epoch + 1, step + 1, self.steps, float(total) / (step + 1))
        seconds = time.monotonic() - began
        self.scaling = scaler.state_dict()
        self._judge(number, epoch, float(total) / self.steps, optimiser, seconds, waited)

    def _loss(self, trained: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        device = self.ranks.device
        truth = labels.to(device, non_blocking=True)
        with mixed(device, self.low):
            answer = trained(normalised(pixels, self.recipe, device))
        logits, auxiliary = answer if isinstance(answer, tuple) else (answer, None)

        def entropy(values: Tensor) -> Tensor:
            return functional.cross_entropy(
                values.float(), truth, weight=self.weights, label_smoothing=self.recipe.label_smoothing
            )

        return (
            entropy(logits)
            if auxiliary is None
            else entropy(logits) + self.recipe.auxiliary_weight * entropy(auxiliary)
        )

    def _judge(
        self, number: int, epoch: int, loss: float, optimiser: torch.optim.Optimizer, seconds: float, waited: float
    ) -> None:
        """Evaluate on the validation slides, keep the best weights and save the state."""
        if self.ranks.first:
            found = predict_slides(
                self.network,
                self.patches,
                self.validation,
                self.recipe,
                device=self.ranks.device,
                loaders=self.loaders,
                low=self.low,
            )
            labels = self.patches.labelled.labels
            patch_loss, accuracy, slide_loss = validation_figures(found, [labels[row] for row in self.validation])
        else:
            patch_loss = accuracy = slide_loss = math.nan
        patch_loss, accuracy, slide_loss = map(self.ranks.from_first, (patch_loss, accuracy, slide_loss))
        cost = {"patch accuracy": -accuracy, "patch loss": patch_loss, "slide loss": slide_loss}[self.recipe.choose]
        best = all(cost < self._cost(record) for record in self.history)
        record = EpochRecord(
            stage=number + 1,
            epoch=epoch + 1,
            steps=self.steps,
            loss=loss,
            learning_rate=optimiser.param_groups[-1]["lr"],
            validation_loss=patch_loss,
            validation_accuracy=accuracy,
            validation_slide_loss=slide_loss,
            best=best,
            seconds=round(seconds, 3),
            waiting=waited / seconds if seconds else 0.0,
            patches_per_second=self.steps * self.batch * self.ranks.world / seconds if seconds else 0.0,
        )
        self.history.append(record)
        if best:
            self.best = copied(self.network)
        self._write(optimiser)
        self.progress.epoch(record)

    def _cost(self, record: EpochRecord) -> float:
        return {
            "patch accuracy": -record.validation_accuracy,
            "patch loss": record.validation_loss,
            "slide loss": record.validation_slide_loss,
        }[self.recipe.choose]

    def _out_of_patience(self, number: int) -> bool:
        if self.recipe.patience is None:
            return False
        here = [record for record in self.history if record.stage == number + 1]
        last = here[-self.recipe.patience :]
        return len(last) == self.recipe.patience and not any(record.best for record in last)

    # -- optimiser and schedule ----------------------------------------------------------------------------------

    def _optimiser(self, rates: list[float]) -> torch.optim.Optimizer:
        recipe = self.recipe
        groups: list[dict[str, Any]] = []
        for layers, rate in zip(layer_groups(self.network), rates, strict=True):
            learning = [p for layer in layers for p in layer.parameters() if p.requires_grad]
            if learning:
                groups.append({"params": learning, "lr": rate})
        if recipe.optimiser == "adamw":
            return torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)
        return torch.optim.RMSprop(groups, alpha=0.9, momentum=0.9, eps=1.0, weight_decay=recipe.weight_decay)

    def _schedule(
        self, optimiser: torch.optim.Optimizer, stage: Stage, done: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        total = stage.epochs * self.steps
        schedule: torch.optim.lr_scheduler.LRScheduler
        if self.recipe.schedule == "one-cycle":
            highest = [group["lr"] for group in optimiser.param_groups]
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, highest, total_steps=total)
        else:
            every = self.recipe.step_epochs * self.steps
            schedule = torch.optim.lr_scheduler.StepLR(optimiser, every, self.recipe.step_factor)
        for _ in range(done * self.steps):
            # The schedule depends on the step alone; the optimiser did step in the interrupted run.
            optimiser._opt_called = True  # type: ignore[attr-defined]
            schedule.step()
        return schedule

    def _find_lowest(self, stage: Stage) -> float:
        """Find the learning rate with the steepest loss decrease on copies of the weights; mean of three searches."""
        self.progress.say(f"learning rate search: {_SEARCHES} runs of at most {STEPS} batches")
        before = copied(self.network)
        found = []
        for search in range(_SEARCHES):
            self._start_pass(_SEARCH_EPOCH + search)
            optimiser = self._optimiser([stage.learning_rate] * len(layer_groups(self.network)))
            drawn = self._endless()
            self.network.train()
            found.append(find_rate(lambda rate: self._try(optimiser, rate, *next(drawn))))  # noqa: B023 - used at once
            self.network.load_state_dict(before)
        # The earliest layers must not learn faster than the head.
        return min(self.ranks.from_first(float(np.mean(found))), stage.learning_rate)

    def _start_pass(self, place: int) -> None:
        """Seed dropout, order and augmentation by the place in the training alone: a resumed one is identical."""
        torch.manual_seed(int(np.random.SeedSequence((self.seed, place)).generate_state(1)[0]))
        self.data.set_epoch(place)

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Patches read from the slide may be unreadable: an epoch that ends early restarts.
        while True:
            yield from _batches(self.loader, self.batch)

    def _try(self, optimiser: torch.optim.Optimizer, rate: float, pixels: Tensor, labels: Tensor) -> float:
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss(self.network, pixels, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    # -- state on disk ---------------------------------------------------------------------------------------------

    def _write(self, optimiser: torch.optim.Optimizer) -> None:
        if self.checkpoint is not None and self.ranks.first:
            tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
            tensors |= {f"best.{name}": value for name, value in self.best.items()}
            tensors |= {f"optimiser.{name}": value for name, value in optimiser_state(optimiser).items()}
            values = {
                "history": [record.model_dump(mode="json") for record in self.history],
                "lowest": self.lowest,
                "scaling": self.scaling,
            }
            self.checkpoint.write(values, tensors, number=len(self.history))
        self.ranks.wait()

    def _resume(self) -> dict[str, Tensor]:
        """Load the last state; return the optimiser state."""
        found = self.checkpoint.read() if self.checkpoint is not None else None
        if found is None:
            return {}
        values, tensors = found
        self.network.load_state_dict(part_of(tensors, "network."))
        self.best = part_of(tensors, "best.")
        self.history = [EpochRecord.model_validate(record) for record in values["history"]]
        self.lowest = list(values["lowest"])
        self.scaling = values["scaling"]
        return part_of(tensors, "optimiser.")


def _batches(loader: DataLoader[Any], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of equal size; remainders of the loader processes are combined."""
    rest: list[tuple[Tensor, Tensor]] = []
    for pixels, labels in loader:
        if len(labels) == size:
            yield pixels, labels
            continue
        rest.append((pixels, labels))
        if sum(len(part) for _, part in rest) >= size:
            joined = torch.cat([part for part, _ in rest]), torch.cat([part for _, part in rest])
            yield joined[0][:size], joined[1][:size]
            rest = [(joined[0][size:], joined[1][size:])]


def validation_figures(found: list[SlideLogits], labels: list[int]) -> tuple[float, float, float]:
    """Return patch loss (slides weighted equally), patch accuracy and slide loss of the mean probabilities, in nats."""
    losses, right, total, slide_losses = [], 0, 0, []
    for slide, label in zip(found, labels, strict=True):
        # From the logits: early in training, overconfident probabilities saturate at 0 and 1.
        loss = negative_log_likelihood(slide.logits, np.full(len(slide.logits), label))
        losses.append(float(loss.mean()))
        right += int((slide.logits.argmax(axis=1) == label).sum())
        total += len(loss)
        least = loss.min()
        slide_losses.append(float(least - np.log(np.exp(least - loss).mean())))
    return float(np.mean(losses)), right / total, float(np.mean(slide_losses))

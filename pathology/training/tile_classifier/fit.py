"""Train a patch classifier on labelled tiles, with a fixed schedule and no model selection."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from pathology.settings import Record
from pathology.training.tile_classifier.batch_augmentation import AugmentationSettings, augment, window_side
from pathology.training.tile_classifier.labelled_tiles import SQUARE, LabelledTiles, patch_starts, tissue_shares

__all__ = ["FittedNetwork", "TileFitSettings", "fit_network", "tile_probabilities"]

Rows = Sequence[int] | npt.NDArray[np.int64]
Triple = tuple[float, float, float]


class TileFitSettings(Record):
    """Training settings.  The schedule is fixed: no early stopping and no selection on held-out data."""

    patch: Annotated[int, Field(ge=32)] = 224
    """Side of a patch in pixels."""
    stride: Annotated[int, Field(ge=1)] = 200
    """Stride in pixels between the patches that are averaged for a tile prediction."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Minimum tissue fraction of a patch; if no patch of a tile reaches it, the one with most tissue is used.  Lower
    than in scoring because fat vacuoles count as glass here."""
    steps: Annotated[int, Field(ge=1)] = 500
    """Number of training steps."""
    batch: Annotated[int, Field(ge=2)] = 64
    """Batch size."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Maximum learning rate of the one-cycle schedule (Smith & Topin 2019, arXiv:1708.07120)."""
    warm_up: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Warm-up fraction of the steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of AdamW (Loshchilov & Hutter 2019, ICLR); not applied to biases and normalisation."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Label smoothing (Szegedy et al. 2016), against overconfidence."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Channel means for values 0 to 1.  ImageNet's, so that published weights can be used."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Channel standard deviations.  ImageNet's."""
    augmentation: AugmentationSettings = AugmentationSettings()
    """Augmentation of training patches."""

    @model_validator(mode="after")
    def _rate_rises(self) -> TileFitSettings:
        if self.steps * self.warm_up <= 1:
            raise ValueError(f"warm_up: expected more than one step, got {self.warm_up:g} of {self.steps} steps")
        return self


@dataclass(frozen=True, eq=False)
class FittedNetwork:
    """A trained network and its training history.

    Attributes
    ----------
    network : torch.nn.Module
        Network in evaluation mode, on the training device.
    losses : list of float
        Training loss (cross-entropy, nats) of each step.
    seconds : float
        Wall time.
    """

    network: nn.Module
    losses: list[float]
    seconds: float


def fit_network(
    network: nn.Module,
    tiles: LabelledTiles,
    rows: Rows,
    settings: TileFitSettings,
    *,
    device: torch.device,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> FittedNetwork:
    """Train a network on random patches of the given tiles.

    Patches are sampled uniformly by class, then by patient within the class, then by tile: classes have equal weight
    whatever their number of tiles, and so have patients within a class.
    On CUDA, computation is in bf16 with fp32 weights.

    Parameters
    ----------
    network
        Maps normalised ``(B, 3, patch, patch)`` to ``(B, C)`` logits.  Trained in place.
    tiles
        All tiles.
    rows
        Indices of the training tiles; no others are used.
    settings
        Training settings.
    device
        Training device.
    seed
        Seed for sampling and augmentation.  Runs on the same device and torch version are identical.
    progress
        Called every 50 steps and after the last one with the number of completed steps and the loss.
    """
    started = time.monotonic()
    chosen = np.asarray(rows, np.int64)
    window = min(window_side(settings.patch, settings.augmentation), *tiles.pixels.shape[1:3])
    generator = torch.Generator().manual_seed(seed)
    draw = np.random.default_rng(seed)
    pools = _pools(tiles, chosen)
    # All training tiles are kept on the device: a few hundred megabytes at most.
    number = {int(row): position for position, row in enumerate(chosen)}
    places = {int(row): _windows_with_tissue(tiles.pixels[row], window, settings) for row in chosen}
    pixels = torch.from_numpy(tiles.pixels[chosen]).to(device).permute(0, 3, 1, 2)
    network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(_parameter_groups(network, settings.weight_decay), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=settings.warm_up
    )
    mean, std = _channels(settings.mean, device), _channels(settings.std, device)
    losses: list[Tensor] = []
    for step in range(settings.steps):
        picked = [_pick(pools, draw) for _ in range(settings.batch)]
        corners = [places[row][int(draw.integers(len(places[row])))] for row in picked]
        windows = torch.stack(
            [
                pixels[number[row], :, top : top + window, left : left + window]
                for row, (top, left) in zip(picked, corners, strict=True)
            ]
        )
        patches = augment(windows, settings.patch, settings.augmentation, generator)
        labels = torch.from_numpy(tiles.labels[picked]).to(device)
        batch = ((patches - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(batch)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.detach())
        if progress is not None and ((step + 1) % 50 == 0 or step + 1 == settings.steps):
            # At intervals only: reading the loss synchronises the device.
            progress(step + 1, float(losses[-1]))
    values = [float(value) for value in torch.stack(losses).cpu()]
    return FittedNetwork(network.eval(), values, time.monotonic() - started)


def tile_probabilities(
    network: nn.Module, tiles: LabelledTiles, rows: Rows, settings: TileFitSettings, *, device: torch.device
) -> npt.NDArray[np.float64]:
    """Classify tiles by the mean class probabilities of their tissue patches.

    Computed in fp32, whatever the training precision.

    Parameters
    ----------
    network, tiles, settings, device
        As for :func:`fit_network`.
    rows
        Tile indices.

    Returns
    -------
    numpy.ndarray
        ``(len(rows), C)`` float64; each row sums to 1.
    """
    height, width = tiles.pixels.shape[1:3]
    tops = patch_starts(height, settings.patch, settings.stride)
    lefts = patch_starts(width, settings.patch, settings.stride)
    mean, std = _channels(settings.mean, device), _channels(settings.std, device)
    network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    result = []
    with torch.inference_mode():
        for row in np.asarray(rows, np.int64):
            tile = torch.from_numpy(tiles.pixels[row]).to(device).permute(2, 0, 1).float() / 255
            corners = _with_tissue(tiles.pixels[row], tops, lefts, settings)
            patches = torch.stack(
                [tile[:, top : top + settings.patch, left : left + settings.patch] for top, left in corners]
            )
            batch = ((patches - mean) / std).contiguous(memory_format=torch.channels_last)
            probabilities = torch.softmax(network(batch).double(), dim=1).mean(dim=0)
            result.append(probabilities.cpu().numpy())
    return np.stack(result)


def _with_tissue(
    tile: npt.NDArray[np.uint8], tops: list[int], lefts: list[int], settings: TileFitSettings
) -> list[tuple[int, int]]:
    """Positions of patches with enough tissue; at least one."""
    shares = tissue_shares(tile, settings.patch, tops, lefts)
    enough = shares >= min(settings.min_tissue, float(shares.max()))
    return [(tops[int(i)], lefts[int(j)]) for i, j in np.argwhere(enough)]


def _windows_with_tissue(tile: npt.NDArray[np.uint8], window: int, settings: TileFitSettings) -> list[tuple[int, int]]:
    """Positions of windows whose central patch has enough tissue."""
    margin = (window - settings.patch) // 2
    tops = [margin + top for top in range(0, tile.shape[0] - window + 1, SQUARE)]
    lefts = [margin + left for left in range(0, tile.shape[1] - window + 1, SQUARE)]
    return [(top - margin, left - margin) for top, left in _with_tissue(tile, tops, lefts, settings)]


def _channels(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _pools(tiles: LabelledTiles, rows: npt.NDArray[np.int64]) -> list[list[list[int]]]:
    """Rows by class, then by patient; classes without tiles are excluded."""
    pools: dict[int, dict[str, list[int]]] = {}
    for row in rows.tolist():
        pools.setdefault(int(tiles.labels[row]), {}).setdefault(tiles.patients[row], []).append(row)
    return [[patients[name] for name in sorted(patients)] for _, patients in sorted(pools.items())]


def _pick(pools: list[list[list[int]]], draw: np.random.Generator) -> int:
    of_class = pools[int(draw.integers(len(pools)))]
    of_patient = of_class[int(draw.integers(len(of_class)))]
    return of_patient[int(draw.integers(len(of_patient)))]


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

"""Train a mitosis detector: schedules, weight averaging and hard negative mining."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pathology.evaluation.detector import Image, threshold_of_best_f1
from pathology.findings.detections import MATCH_DISTANCE_UM, Detections, suppress
from pathology.inference.engines.detector import DetectorNetwork, WindowDetector
from pathology.networks.darknet import Darknet
from pathology.settings import Record
from pathology.training.common.checkpoint import (
    Checkpoint,
    optimiser_state,
    part_of,
    random_states,
    restore_optimiser,
    restore_random_states,
)
from pathology.training.detector.batches import BatchMaker, BatchSettings, tissue_cells
from pathology.training.detector.data import CROP, MPP, Background, MitosisData
from pathology.training.detector.loss import LossSettings, YoloLoss

__all__ = [
    "MATCH_PIXELS",
    "DetectorFitSettings",
    "Fitted",
    "at_crop_scale",
    "best_f1",
    "detect_image",
    "evaluate_crops",
    "evaluate_windows",
    "false_alarms",
    "fit_detector",
    "learning_rate",
    "released_settings",
    "to_detections",
]

MATCH_PIXELS = MATCH_DISTANCE_UM / MPP
"""7.5 µm, the MIDOG convention, in pixels of the crops."""


class DetectorFitSettings(Record):
    """Training settings of a detector."""

    schedule: Literal["modern", "released"] = "modern"
    """``modern``: AdamW, linear warm-up, cosine decay.  ``released``: the cfg published by Zehra et al. 2022, SGD
    with momentum 0.949 and decay 0.0005, rate 0.00261 rising with the fourth power over 1000 iterations, times
    0.1 from iteration 800 on (a step within the warm-up) and again from 9000, which 2000 iterations never
    reach."""
    iterations: Annotated[int, Field(ge=1)] = 6000
    """Maximum optimiser steps; ``seconds`` may end training earlier."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Time budget; the modern schedule is scaled to it."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Images per step."""
    rate: Annotated[float, Field(gt=0)] = 2e-3
    """Maximum learning rate of the modern schedule."""
    decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay of the modern schedule; not applied to biases and normalisation."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Warm-up fraction of the modern schedule."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the weight average per step, after the initial phase."""
    mining: tuple[float, ...] = (0.5, 0.75)
    """Times of hard negative mining on the training images, as fractions of the training."""
    mining_windows: Annotated[int, Field(ge=1)] = 2048
    """Maximum number of crops, and of background windows, searched for false positives each time."""
    save_every: Annotated[int, Field(ge=1)] = 250
    """Steps between saved states, if there is a checkpoint."""
    seed: int = 0
    """Seed of weights and batches."""
    batches: BatchSettings = BatchSettings()
    """Image generation settings."""
    loss: LossSettings = LossSettings()
    """Loss settings."""


def released_settings() -> DetectorFitSettings:
    """Return the released schedule with the loss and image size of Darknet."""
    return DetectorFitSettings(
        schedule="released",
        iterations=2000,
        batch=64,
        mining=(),
        batches=BatchSettings(size=416),
        loss=LossSettings(objectness="sum", box=0.07),
    )


@dataclass
class Fitted:
    """A trained detector.

    Attributes
    ----------
    network
        Network with averaged weights, in evaluation mode.
    iterations
        Steps taken.
    images
        Training images seen.
    seconds
        Wall time of the fit.
    history
        ``(iteration, loss, box loss, objectness loss)`` at intervals.
    false_alarms
        Number of false positives found in each mining round.
    skipped
        Steps skipped because of a non-finite gradient.
    """

    network: Darknet
    iterations: int
    images: int
    seconds: float
    history: list[tuple[int, float, float, float]] = field(default_factory=list)
    false_alarms: list[int] = field(default_factory=list)
    skipped: int = 0


def _average_of(network: Darknet, keep: float) -> AveragedModel:
    """Return the exponential moving average of a network's weights and of its normalisation statistics."""

    def move(ours: Sequence[Tensor], theirs: Sequence[Tensor], steps: Tensor | int) -> None:
        # Faster at the start, when the average is noise.
        step = int(steps)
        if ours[0].is_floating_point():
            torch._foreach_lerp_(list(ours), list(theirs), 1 - min(keep, (1 + step) / (10 + step)))

    average = AveragedModel(network, multi_avg_fn=move, use_buffers=True)
    # Otherwise the first step would replace the untrained weights instead of moving away from them.
    average.n_averaged.fill_(1)
    average.module.eval().requires_grad_(False)
    return average


def _optimiser(network: nn.Module, settings: DetectorFitSettings) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    if settings.schedule == "released":
        return torch.optim.SGD(
            [{"params": decayed, "weight_decay": 5e-4}, {"params": plain, "weight_decay": 0.0}],
            lr=0.00261,
            momentum=0.949,
        )
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.decay}, {"params": plain, "weight_decay": 0.0}], lr=settings.rate
    )


def learning_rate(settings: DetectorFitSettings, iteration: int, course: float) -> float:
    """Return the learning rate at an iteration (from 0) and a fraction of the training (0 to 1)."""
    if settings.schedule == "released":
        # Darknet applies no step during warm-up, and then all that have passed.
        if iteration < 1000:
            return float(0.00261 * (iteration / 1000) ** 4)
        return 0.00261 * 0.1 ** sum(iteration >= step for step in (800, 9000))
    if course < settings.warm_up:
        return settings.rate * max(course / settings.warm_up, 0.01)
    through = min((course - settings.warm_up) / (1 - settings.warm_up), 1.0)
    return settings.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * through)) / 2)


def fit_detector(
    network: Darknet,
    data: MitosisData,
    settings: DetectorFitSettings,
    *,
    device: torch.device,
    trained: bool = False,
    checkpoint: Checkpoint | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Train a detector.

    A training that was killed and is repeated with the same checkpoint ends, on the same device, with the same weights
    as one left alone; unless ``seconds`` is set, which makes it depend on the speed of the machine.

    Parameters
    ----------
    network
        Single-class network; trained in place.
    data
        Training part of the data only.
    settings
        Training settings.
    device
        Training device.
    trained
        Whether the weights come from an earlier training rather than being random.
    checkpoint
        Where the state is kept; ``None``: nowhere.
    report
        Called with a progress line at intervals.

    Returns
    -------
    Fitted
        The trained detector.
    """
    fit = _DetectorFit(network, data, settings, device, trained=trained, checkpoint=checkpoint, report=report)
    return fit.run()


class _DetectorFit:
    """State of one training run."""

    def __init__(
        self,
        network: Darknet,
        data: MitosisData,
        settings: DetectorFitSettings,
        device: torch.device,
        *,
        trained: bool,
        checkpoint: Checkpoint | None,
        report: Callable[[str], None],
    ) -> None:
        torch.manual_seed(settings.seed)
        self.data, self.settings, self.device = data, settings, device
        self.checkpoint, self.report = checkpoint, report
        self.network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if not trained:
            _start_quiet(network)
        self.maker = BatchMaker(data, settings.batches, device, settings.seed)
        self.loss_of = YoloLoss.of(network, settings.loss)
        self.optimiser, self.average = _optimiser(network, settings), _average_of(network, settings.average)
        assert isinstance(self.average.module, Darknet)
        self.fitted = Fitted(self.average.module, 0, 0, 0.0)

    def run(self) -> Fitted:
        settings, fitted = self.settings, self.fitted
        self._resume()
        began = time.monotonic() - fitted.seconds
        for iteration in range(fitted.iterations, settings.iterations):
            spent = time.monotonic() - began
            course = iteration / settings.iterations
            if settings.seconds is not None:
                course = max(course, spent / settings.seconds)
                if course >= 1:
                    break
            self._mine_when_due(course)
            rate = self._step(iteration, course)
            if iteration % 250 == 0:
                last = fitted.history[-1]
                self.report(
                    f"{iteration}: loss {last[1]:.3f} (box {last[2]:.3f}, object {last[3]:.3f}), "
                    f"rate {rate:.2e}, {spent:.0f} s"
                )
            fitted.seconds = time.monotonic() - began
            if fitted.iterations % settings.save_every == 0 or fitted.iterations == settings.iterations:
                self._write()
        return fitted

    def _mine_when_due(self, course: float) -> None:
        fitted, settings = self.fitted, self.settings
        mined = len(fitted.false_alarms)
        if mined < len(settings.mining) and course >= settings.mining[mined]:
            found = _mine(fitted.network, self.data, self.maker, self.device, settings.mining_windows)
            fitted.false_alarms.append(found)
            self.report(f"{found} false positives on training images will be oversampled")

    def _step(self, iteration: int, course: float) -> float:
        """Take one step; return its learning rate."""
        settings, fitted = self.settings, self.fitted
        batch = self.maker.make(settings.batch)
        rate = learning_rate(settings, iteration, course)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            maps = self.network(batch.images.contiguous(memory_format=torch.channels_last))
        total, box, objectness = self.loss_of(maps, batch.images.shape[-1], batch.targets, batch.ignored)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        size = nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        # A NaN step would ruin the training; skip it and continue with the next batch.
        if bool(size.isfinite()):
            self.optimiser.step()
        else:
            fitted.skipped += 1
        self.average.update_parameters(self.network)
        fitted.iterations += 1
        fitted.images += settings.batch
        if iteration % 50 == 0:
            fitted.history.append((iteration, float(total.detach()), float(box), float(objectness)))
        return rate

    def _write(self) -> None:
        if self.checkpoint is None:
            return
        parts = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": optimiser_state(self.optimiser),
            "random": random_states(),
            "maker": self.maker.state(),
        }
        tensors = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
        values = {name: getattr(self.fitted, name) for name in _PROGRESS}
        self.checkpoint.write(values, tensors, number=self.fitted.iterations)

    def _resume(self) -> None:
        found = self.checkpoint.read() if self.checkpoint is not None else None
        if found is None:
            return
        values, tensors = found
        self.network.load_state_dict(part_of(tensors, "network."))
        self.average.load_state_dict(part_of(tensors, "average."))
        restore_optimiser(self.optimiser, part_of(tensors, "optimiser."))
        restore_random_states(part_of(tensors, "random."))
        self.maker.restore(part_of(tensors, "maker."))
        for name in _PROGRESS:
            setattr(self.fitted, name, values[name])
        self.fitted.history = [(step, a, b, c) for step, a, b, c in values["history"]]


_PROGRESS: Final = ("iterations", "images", "seconds", "history", "false_alarms", "skipped")
"""Fields of :class:`Fitted` that a checkpoint holds."""


def _start_quiet(network: Darknet) -> None:
    """Initialise every anchor to a confidence of about 1 %, so that the first steps are not wasted on negatives."""
    for before, layer in zip(network.layers, list(network.layers)[1:], strict=False):
        if layer in network.heads:
            assert isinstance(before, nn.Sequential)
            bias = before[0].bias
            assert isinstance(bias, Tensor)
            with torch.no_grad():
                bias.view(-1, 6)[:, 4] = math.log(0.01 / 0.99)


def _mine(network: Darknet, data: MitosisData, maker: BatchMaker, device: torch.device, most: int) -> int:
    """Collect false positives on the training images and oversample them (hard negative mining).

    Searches up to ``most`` tissue windows of 256 pixels in the backgrounds, and as many crops.
    """
    detector = WindowDetector(network, device=device, batch_size=64, floor=0.2)
    source, centre, windows = maker.tissue_windows(256, most)
    places = []
    for index, middle, found in zip(source, centre, detector.detect(windows), strict=True):
        zoom = 1.0 if index < len(data.crops) else data.backgrounds[index - len(data.crops)].mpp / MPP
        found = found[found[:, 4] > 0]
        places += [(index, *((box[:2] + box[2:4]) / 2 - 128) / zoom + middle) for box in found]
    maker.hard_places = torch.tensor(places, dtype=torch.float32, device=device).view(-1, 3)
    alarms = len(places)
    chosen = torch.randperm(len(data.crops))[:most].numpy()
    some = replace(
        data, **{name: getattr(data, name)[chosen] for name in ("crops", "objects", "slides", "parts", "complete")}
    )
    for index, image in zip(chosen, evaluate_crops(network, some, device=device, floor=0.2), strict=True):
        away = image.detections.centres[:, None] - image.mitoses[None]
        false = (np.hypot(away[..., 0], away[..., 1]) > MATCH_PIXELS).all(axis=1)
        maker.crop_weights[int(index)] = 1.0 + 2.0 * bool(false.any())
        alarms += int(false.sum())
    return alarms


def evaluate_crops(
    network: DetectorNetwork,
    data: MitosisData,
    *,
    device: torch.device,
    floor: float = 0.02,
    batch_size: int = 64,
) -> list[Image]:
    """Run a detector on whole crops, without blending or mosaics.

    Parameters
    ----------
    network
        Network in evaluation mode.
    data
        Any part of the split.
    device
        Compute device.
    floor
        Score threshold.
    batch_size
        Crops per batch.

    Returns
    -------
    list of Image
        One per crop, in order.
    """
    detector = WindowDetector(network, device=device, batch_size=batch_size, floor=floor)
    boxes = detector.detect(data.crops)
    images = []
    for slide, objects, found in zip(data.slides, data.objects, boxes, strict=True):
        images.append(
            Image(
                str(slide),
                to_detections(found),
                objects[objects[:, 2] == 1, :2],
                (CROP * MPP / 1000) ** 2,
            )
        )
    return images


def evaluate_windows(
    network: DetectorNetwork,
    data: MitosisData,
    *,
    device: torch.device,
    side: int = 96,
    floor: float = 0.02,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Image]:
    """Run a detector on one random window of each crop, in which the mitosis is off-centre, cut or absent.

    Every crop has its mitosis at the centre, and a detector that has learnt "the centre" appears perfect on whole
    crops.  Here a window of ``side`` pixels is placed at random on each crop.  A mitosis whose centre is at least 16
    pixels inside it must be detected; one nearer to the border, or beyond, is ignored.

    Parameters
    ----------
    network, data, device, floor, batch_size
        As in :func:`evaluate_crops`.
    side
        Side of the window, a multiple of 32.
    seed
        Seed of the window positions.

    Returns
    -------
    list of Image
        One per crop, in window pixels.
    """
    corners = np.random.default_rng(seed).integers(0, CROP - side + 1, (len(data.crops), 2))
    windows = np.stack([c[y : y + side, x : x + side] for c, (x, y) in zip(data.crops, corners, strict=True)])
    boxes = WindowDetector(network, device=device, batch_size=batch_size, floor=floor).detect(windows)
    images = []
    for slide, objects, corner, found in zip(data.slides, data.objects, corners, boxes, strict=True):
        centres = objects[objects[:, 2] == 1, :2] - corner
        inside = ((centres >= 16) & (centres <= side - 16)).all(axis=1)
        detections = to_detections(found)
        away = detections.centres[:, None] - centres[None, ~inside]
        spared = (np.hypot(away[..., 0], away[..., 1]) <= MATCH_PIXELS).any(axis=1)
        images.append(Image(str(slide), detections.take(~spared), centres[inside], (side * MPP / 1000) ** 2))
    return images


def detect_image(
    network: DetectorNetwork,
    pixels: NDArray[np.uint8],
    *,
    device: torch.device,
    floor: float,
    batch_size: int = 8,
) -> tuple[Detections, float]:
    """Run a detector on the tissue of a whole image in overlapping windows.

    Parameters
    ----------
    network
        Network in evaluation mode.
    pixels
        ``(H, W, 3)`` uint8 RGB at the resolution of the crops.
    device
        Compute device.
    floor
        Score threshold.
    batch_size
        Windows per batch.

    Returns
    -------
    tuple
        Detections in image pixels, without duplicates, and the evaluated tissue area in mm² (coloured 16 µm squares).
    """
    detector = WindowDetector(network, device=device, batch_size=batch_size, floor=floor)
    side, step, cell = 512, 448, 64
    tissue = tissue_cells(pixels, cell)
    origins = [
        (left, top)
        for top in _starts(pixels.shape[0], side, step)
        for left in _starts(pixels.shape[1], side, step)
        if tissue[top // cell : (top + side) // cell + 1, left // cell : (left + side) // cell + 1].any()
    ]
    parts = []
    for start in range(0, len(origins), batch_size):
        some = origins[start : start + batch_size]
        windows = np.full((len(some), side, side, 3), 255, np.uint8)
        for window, (left, top) in zip(windows, some, strict=True):
            part = pixels[top : top + side, left : left + side]
            window[: part.shape[0], : part.shape[1]] = part
        for found, (left, top) in zip(detector.detect(windows), some, strict=True):
            detections = to_detections(found)
            parts.append(Detections(detections.boxes + np.array([left, top] * 2, np.float32), detections.scores))
    merged = suppress(Detections.concatenate(parts), distance=MATCH_PIXELS / 2)
    return merged, float(tissue.sum()) * (cell * MPP / 1000) ** 2


def at_crop_scale(background: Background) -> NDArray[np.uint8]:
    """Return the pixels of a background at the resolution of the crops, upsampled if it is coarser."""
    zoom = background.mpp / MPP
    if zoom == 1:
        return background.pixels
    size = (round(background.pixels.shape[1] * zoom), round(background.pixels.shape[0] * zoom))
    return np.asarray(PilImage.fromarray(background.pixels).resize(size, PilImage.Resampling.BICUBIC))


def false_alarms(
    network: DetectorNetwork,
    backgrounds: tuple[Background, ...],
    *,
    device: torch.device,
    threshold: float,
    batch_size: int = 8,
) -> tuple[int, float]:
    """Count detections on images without mitoses.

    Parameters
    ----------
    network, device, batch_size
        As in :func:`detect_image`.
    backgrounds
        Images without mitoses.
    threshold
        Score threshold.

    Returns
    -------
    tuple
        Number of detections, and the evaluated tissue area in mm².
    """
    count, area = 0, 0.0
    for background in backgrounds:
        found, searched = detect_image(
            network, at_crop_scale(background), device=device, floor=threshold, batch_size=batch_size
        )
        count += len(found)
        area += searched
    return count, area


def _starts(extent: int, side: int, step: int) -> list[int]:
    """Return the start positions of windows that cover an extent; the last one ends with it."""
    if extent <= side:
        return [0]
    return [*range(0, extent - side, step), extent - side]


def to_detections(rows: NDArray[np.float32]) -> Detections:
    """Return the boxes of one window as detections, without its empty rows."""
    kept = rows[rows[:, 4] > 0]
    return Detections(kept[:, :4], kept[:, 4])


def best_f1(network: DetectorNetwork, data: MitosisData, *, device: torch.device) -> tuple[float, float]:
    """Return the threshold with the highest F1 on crops, and that F1."""
    return threshold_of_best_f1(evaluate_crops(network, data, device=device), MATCH_PIXELS)

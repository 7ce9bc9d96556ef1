"""Image classifiers with several images per patient: training, scoring and patient-level cross-validation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from pathology.bundle.card import Metric
from pathology.errors import UsageError
from pathology.networks.radiology_registry import build_radiology_network
from pathology.radiology.models.pretrained import start_from
from pathology.radiology.models.recipe import Progress, as_metric, named_progress
from pathology.radiology.models.training_loop import OptimiserSettings, fit, seeded
from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.classification import area_under_roc, score_by_patient
from pathology.stats.intervals import wilson
from pathology.stats.splits import audit_leakage, grouped_k_fold

__all__ = [
    "ClassifierSettings",
    "LabelledImages",
    "cross_validated_probabilities",
    "fit_classifier",
    "patient_metrics",
    "probabilities",
]


class ClassifierSettings(Record):
    """Network and training settings."""

    architecture: str
    """Name in the registry of radiology networks."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of its builder."""
    start: str = "random"
    """``random``, ``imagenet`` (torchvision's weights, where the network is reachable) or a safetensors file."""
    mirror: bool = True
    """Mirror images left to right in training."""
    shift: Annotated[int, Field(ge=0)] = 4
    """Maximum random shift in training, in pixels along each in-plane axis."""
    optimiser: OptimiserSettings = OptimiserSettings(steps=200, batch=16, learning_rate=3e-4)
    """Optimiser settings."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images with labels and patients.

    Attributes
    ----------
    pixels
        ``(N, C, H, W)`` or ``(N, C, D, H, W)``, normalised; float32, or float16 where there are very many.
    labels
        Class numbers, length N.
    patients
        Patient of each image.
    """

    pixels: NDArray[np.float32] | NDArray[np.float16]
    labels: NDArray[np.int64]
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.labels) == len(self.patients):
            raise UsageError(f"{len(self.pixels)} images, {len(self.labels)} labels and {len(self.patients)} patients")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> LabelledImages:
        """Keep images by position."""
        chosen = np.asarray(rows, np.int64)
        return LabelledImages(self.pixels[chosen], self.labels[chosen], tuple(self.patients[i] for i in chosen))


def fit_classifier(
    images: LabelledImages,
    classes: int,
    settings: ClassifierSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, str]:
    """Train a classifier.

    Images are sampled uniformly by class, then by patient within the class, then among the patient's images:
    neither frequent classes nor patients with many slices have more weight.

    Returns
    -------
    torch.nn.Module, str
        The network in evaluation mode, and a description of its initial weights.

    Raises
    ------
    UsageError
        If a class has no image.
    """
    absent = sorted(set(range(classes)) - set(images.labels.tolist()))
    if absent:
        raise UsageError(f"class {absent[0]} has no training image", remedy="Use fewer folds or more patients")
    network = seeded(lambda: build_radiology_network(settings.architecture, classes, **settings.options), seed)
    start = start_from(network, settings.architecture, settings.start)
    pools = _pools(images, classes)
    pixels = torch.from_numpy(images.pixels)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def pick(count: int) -> int:
            return int(torch.randint(count, (1,), generator=generator))

        chosen = []
        for _ in range(settings.optimiser.batch):
            of_class = pools[pick(classes)]
            of_patient = of_class[pick(len(of_class))]
            chosen.append(int(of_patient[pick(len(of_patient))]))
        batch = pixels[chosen].float()
        for item in batch:
            if settings.mirror and pick(2):
                item.copy_(item.flip(-1))
            if settings.shift:
                moves = [pick(2 * settings.shift + 1) - settings.shift for _ in range(2)]
                item.copy_(_shifted(item, moves))
        return batch, torch.from_numpy(images.labels[chosen])

    fit(
        network,
        draw,
        nn.functional.cross_entropy,
        settings.optimiser,
        seed=seed,
        contents=_digest(images, settings),
        device=device,
        progress=progress,
    )
    return network, start


def _digest(images: LabelledImages, settings: ClassifierSettings) -> str:
    told = hashlib.sha256(json.dumps([settings.model_dump(mode="json"), images.patients]).encode())
    for array in (images.pixels, images.labels):
        told.update(np.ascontiguousarray(array).data)
    return told.hexdigest()


def _shifted(image: Tensor, moves: Sequence[int]) -> Tensor:
    """Shift the last two axes, repeating the edge."""
    for axis, move in zip((-2, -1), moves, strict=True):
        length = image.shape[axis]
        index = (torch.arange(length) - move).clamp(0, length - 1)
        image = image.index_select(image.ndim + axis, index)
    return image


def _pools(images: LabelledImages, classes: int) -> list[list[NDArray[np.int64]]]:
    owner = np.asarray(images.patients)
    pools = []
    for label in range(classes):
        rows = np.flatnonzero(images.labels == label)
        # One sort instead of a comparison a patient: synthetic images are thousands of patients.
        _, number = np.unique(owner[rows], return_inverse=True)
        order = np.argsort(number, kind="stable")
        pools.append(np.split(rows[order], np.cumsum(np.bincount(number))[:-1]))
    return pools


def probabilities(
    network: nn.Module, pixels: NDArray[np.float32] | NDArray[np.float16], *, batch: int = 32, device: str = "cpu"
) -> NDArray[np.float64]:
    """Return class probabilities ``(N, classes)`` of images ``(N, C, ...)``."""
    network = network.to(device).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch])).float().to(device)
            parts.append(torch.softmax(network(part).float(), dim=1).cpu().numpy().astype(np.float64))
    return np.concatenate(parts)


def cross_validated_probabilities(
    images: LabelledImages,
    classes: int,
    settings: ClassifierSettings,
    *,
    folds: int = 5,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Score every image by patient-level cross-validation.

    Before each fold is trained the audit checks patients and the images' content.

    Returns
    -------
    numpy.ndarray
        ``(N, classes)``.
    """
    result = np.full((len(images), classes), np.nan)
    divisions = grouped_k_fold(images.patients, images.labels.tolist(), k=folds, seed=seed)
    for fold in divisions:
        audit_leakage({"train": fold.train, "test": fold.test}, patients=images.patients, contents=list(images.pixels))
        name = f"fold {fold.index + 1} of {len(divisions)}"
        network, _ = fit_classifier(
            images.take(fold.train),
            classes,
            settings,
            seed=seed,
            device=device,
            progress=named_progress(progress, name),
        )
        result[fold.test] = probabilities(network, images.pixels[fold.test], device=device)
    return result


def patient_metrics(
    images: LabelledImages, scores: NDArray[np.float64], classes: Sequence[str], *, data: str, seed: int = 0
) -> tuple[Metric, ...]:
    """Average the images of each patient and compute patient-level metrics.

    Returns
    -------
    tuple of Metric
        Balanced accuracy and accuracy; the area under the ROC curve for two classes, their mean otherwise.
    """
    names, means = score_by_patient(scores, images.patients)
    label = dict(zip(images.patients, images.labels.tolist(), strict=True))
    truth = np.asarray([label[n] for n in names], np.int64)
    called = means.argmax(axis=1)
    counts = ", ".join(f"{n} {int((truth == c).sum())}" for c, n in enumerate(classes))
    note = f"mean probability over the images of each patient; {counts}"

    def balanced(rows: NDArray[np.int64]) -> float:
        right = called[rows] == truth[rows]
        return float(np.mean([right[truth[rows] == c].mean() for c in np.unique(truth[rows])]))

    def mean_area(rows: NDArray[np.int64]) -> float:
        present = [c for c in range(len(classes)) if 0 < (truth[rows] == c).sum() < len(rows)]
        return float(np.mean([roc_auc_score(truth[rows] == c, means[rows, c]) for c in present]))

    if len(classes) == 2:
        area_name, area = "area under the ROC curve", area_under_roc(truth, means[:, 1])
    else:
        area_name, area = "mean area under the ROC curve", bootstrap(mean_area, names, strata=truth, seed=seed)
    return (
        as_metric(area_name, area, unit="patients", data=data, note=note),
        as_metric("balanced accuracy", bootstrap(balanced, names, seed=seed), unit="patients", data=data, note=note),
        as_metric("accuracy", wilson(int((called == truth).sum()), len(truth)), unit="patients", data=data, note=note),
    )

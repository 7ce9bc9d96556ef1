"""Image classification per patient: slices of one or two sequences (2D), or a block around the tumour (3D)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pathology.bundle.card import Metric
from pathology.networks.torchvision_classifiers import last_feature_map
from pathology.radiology.images.fusion import fuse
from pathology.radiology.images.intensity import IntensitySettings, normalise
from pathology.radiology.images.registration import RegistrationSettings, register, resample
from pathology.radiology.images.saliency import draw_attention
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Volume, crop
from pathology.radiology.models.bundle import CardText, RadiologyCard, load_network, save_radiology_bundle
from pathology.radiology.models.network_classifier import (
    ClassifierSettings,
    LabelledImages,
    cross_validated_probabilities,
    fit_classifier,
    patient_metrics,
    probabilities,
)
from pathology.radiology.models.recipe import NOT_MEASURED, Progress, Recipe, describe_split
from pathology.radiology.models.stratification import stratification_metrics
from pathology.stats.classification import score_by_patient
from pathology.survival.outcome import Outcome
from pathology.training.common.grad_cam import grad_cam

__all__ = ["ImageRecipe"]

_EXPLAINED = 9
"""Maximum number of images per patient with a Grad-CAM map."""


class ImageRecipe(Recipe):
    """A network on slices or a block; probabilities are averaged per patient."""

    kind: ClassVar[str] = "image-classifier"

    sequences: Annotated[tuple[str, ...], Field(min_length=1)]
    """Input sequences; the grid of the first is used."""
    label: str
    """Clinical column with the class."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Values of the column, in the order of the outputs."""
    masked: bool = True
    """Crop to the tumour mask of the first sequence; otherwise the whole image is used."""
    planar: bool = True
    """Slices (2D) or a block (3D)."""
    slices: Annotated[int, Field(ge=1)] = 8
    """Slices per patient, evenly spaced among those with at least half the maximum tumour area."""
    size: Annotated[int, Field(ge=16)] = 224
    """Input size of the network in pixels (voxels)."""
    margin_mm: Annotated[float, Field(ge=0)] = 10.0
    """Margin around the tumour bounding box, in mm."""
    channels: Literal["three", "as is"] = "three"
    """``three``: one sequence is repeated, two are fused with their mean, three are taken as they are, so that weights
    trained on colour images fit.  ``as is``: a channel a sequence."""
    registration: RegistrationSettings | None = None
    """Registration of other sequences to the first; ``None``: by scanner coordinates."""
    intensity: dict[str, IntensitySettings] = Field(default_factory=dict)
    """Normalisation by sequence, where it is not the modality's default."""
    classifier: ClassifierSettings
    """Network and training."""
    survival: tuple[str, str] | None = None
    """Clinical columns with the follow-up (days) and with death (1) or not (0).  Where a table has both, the evaluation
    also reports survival stratification, for two classes."""

    @model_validator(mode="after")
    def _channels_fit(self) -> ImageRecipe:
        if self.channels == "three" and len(self.sequences) > 3:
            raise ValueError(f"sequences: at most three become three channels, got {len(self.sequences)}")
        return self

    def prepare(self, case: Case) -> NDArray[np.float32]:
        """Read one patient.

        Returns
        -------
        numpy.ndarray
            ``(n, C, size, size)`` slices or ``(1, C, size, size, size)``.

        Raises
        ------
        StudyError
            If an image or mask is missing or invalid.
        """
        first = case.open(self.sequences[0])
        volumes = [first.volume]
        for name in self.sequences[1:]:
            moving = case.open(name).volume
            if self.registration is None:
                volumes.append(resample(moving, first.volume.geometry))
            else:
                volumes.append(register(first.volume, moving, self.registration).apply(moving))
        scaled = [normalise(v, self.intensity.get(n)) for v, n in zip(volumes, self.sequences, strict=True)]
        if self.masked:
            mask = case.contours(self.sequences[0], first)[0]
        else:
            mask = Mask(np.ones(first.volume.array.shape, bool), first.volume.geometry, "everything")
        cut = self._slices(scaled, mask) if self.planar else self._block(scaled, mask)
        return self._as_channels(cut)

    def _as_channels(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.channels == "as is" or images.shape[1] == 3:
            return images
        if images.shape[1] == 1:
            return np.repeat(images, 3, axis=1)
        return np.stack([fuse(i[0], i[1]) for i in images])

    def _slices(self, volumes: list[Volume], mask: Mask) -> NDArray[np.float32]:
        area = mask.array.sum(axis=(1, 2))
        wide = np.flatnonzero(area >= 0.5 * area.max())
        chosen = wide[np.unique(np.linspace(0, len(wide) - 1, self.slices).round().astype(int))]
        geometry = mask.geometry
        sx, sy = geometry.spacing[:2]
        margin = self.margin_mm if self.masked else 0.0
        images = []
        for z in chosen:
            rows = np.flatnonzero(mask.array[z].any(axis=1))
            columns = np.flatnonzero(mask.array[z].any(axis=0))
            # A square in mm, so that shapes are not distorted.
            middle = ((columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2)
            side = max((columns[-1] - columns[0] + 1) * sx, (rows[-1] - rows[0] + 1) * sy) + 2 * margin
            step = side / self.size
            centre = geometry.to_patient(np.asarray([[middle[0], middle[1], z]]))[0]
            corner = centre - geometry.axes @ np.asarray([(self.size - 1) / 2 * step, (self.size - 1) / 2 * step, 0])
            grid = Geometry(
                (self.size, self.size, 1), (step, step, geometry.spacing[2]), _three(corner), geometry.direction
            )
            low, high = (int(z), 0, 0), (int(z) + 1, *mask.array.shape[1:])
            images.append(np.stack([resample(crop(v, low, high), grid).array[0] for v in volumes]))
        return np.stack(images)

    def _block(self, volumes: list[Volume], mask: Mask) -> NDArray[np.float32]:
        marked = np.argwhere(mask.array)
        low, high = marked.min(axis=0)[::-1], marked.max(axis=0)[::-1]
        geometry = mask.geometry
        spacing = np.asarray(geometry.spacing)
        side = float(((high - low + 1) * spacing).max()) + 2 * self.margin_mm
        step = side / self.size
        centre = geometry.to_patient(((low + high) / 2)[None])[0]
        corner = centre - geometry.axes @ np.full(3, (self.size - 1) / 2 * step)
        grid = Geometry((self.size,) * 3, (step,) * 3, _three(corner), geometry.direction)
        cut = [resample(v, grid).array for v in volumes]
        return np.stack(cut)[None]

    def images(self, cohort: Cohort, progress: Progress | None = None) -> LabelledImages:
        """Read a cohort."""
        chosen = cohort.having(self.sequences, self.label)
        labels = chosen.labels(self.label, self.classes)
        parts, owner, targets = [], [], []
        for number, (case, label) in enumerate(zip(chosen.cases, labels, strict=True)):
            part = self.prepare(case)
            parts.append(part)
            owner += [case.patient_id] * len(part)
            targets += [int(label)] * len(part)
            if progress is not None:
                progress("reading", number + 1, len(chosen))
        return LabelledImages(np.concatenate(parts), np.asarray(targets, np.int64), tuple(owner))

    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by patient-level cross-validation; see :meth:`Recipe.evaluate`."""
        images = self.images(cohort, progress)
        scores = cross_validated_probabilities(
            images, len(self.classes), self.classifier, folds=folds, seed=seed, device=device, progress=progress
        )
        patients = len(set(images.patients))
        what = f"{self.classifier.architecture} on {' + '.join(self.sequences)}"
        data = f"{patients} patients, {folds}-fold cross-validation by patient, {what}, '{self.label}'"
        return self.metrics(images, scores, cohort, data=data, seed=seed)

    def metrics(
        self, images: LabelledImages, scores: NDArray[np.float64], cohort: Cohort, *, data: str, seed: int = 0
    ) -> tuple[Metric, ...]:
        """Compute patient-level metrics of out-of-fold probabilities, and survival stratification.

        Parameters
        ----------
        images
            The cohort's images.
        scores
            ``(N, classes)`` out-of-fold probabilities.
        cohort
            The patients.
        data
            Description of the data and scores.
        seed
            Of the bootstrap.
        """
        metrics = patient_metrics(images, scores, self.classes, data=data, seed=seed)
        known = self.followed(cohort)
        if known is None:
            return metrics
        names, means = score_by_patient(scores, images.patients)
        kept = [i for i, name in enumerate(names) if name in known]
        outcome = Outcome(
            np.asarray([known[names[i]][0] for i in kept]), np.asarray([known[names[i]][1] for i in kept])
        )
        pair = (self.classes[0], self.classes[1])
        return metrics + stratification_metrics(outcome, means[kept, 1], pair, data=data, what="death", seed=seed)

    def followed(self, cohort: Cohort) -> dict[str, tuple[float, float]] | None:
        """Return follow-up and event of the patients with both; ``None`` if not requested."""
        if self.survival is None or not set(self.survival) <= set(cohort.clinical.columns) or len(self.classes) != 2:
            return None
        table = cohort.clinical.loc[[p for p in cohort.patients if p in cohort.clinical.index], list(self.survival)]
        return {str(p): (float(t), float(e)) for p, t, e in table.dropna().itertuples()}

    def train(
        self,
        cohort: Cohort,
        folder: Path,
        text: CardText,
        *,
        system: str,
        metrics: tuple[Metric, ...] = (NOT_MEASURED,),
        constructed: bool = False,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> RadiologyCard:
        """Train on the whole cohort and write a bundle; see :meth:`Recipe.train`."""
        images = self.images(cohort, progress)
        network, start = fit_classifier(
            images,
            len(self.classes),
            self.classifier,
            seed=seed,
            device=device,
            progress=None if progress is None else lambda a, b: progress("training", a, b),
        )
        return save_radiology_bundle(
            folder,
            network.state_dict(),
            **text.model_dump(),
            system=system,
            recipe=self.kind,
            recipe_settings=self.model_dump(mode="json"),
            architecture=self.classifier.architecture,
            parameters=sum(p.numel() for p in network.parameters()),
            classes=self.classes,
            initialisation=start,
            split=describe_split(
                "trained on all patients", "cross-validation by patient with the same recipe", metrics
            ),
            metrics=metrics,
            constructed=constructed,
        )

    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Classify one patient; writes the network input images.  See :meth:`Recipe.predict`."""
        network = load_network(folder, card, self.classifier.options)
        images = self.prepare(case)
        found = probabilities(network, images, device=device)
        mean = found.mean(axis=0)
        out.mkdir(parents=True, exist_ok=True)
        _save_inputs(images, out / "inputs.png")
        maps = grad_cam(network, last_feature_map(network), torch.from_numpy(images[:_EXPLAINED]))
        draw_attention(images[:_EXPLAINED, 0], maps, title=f"{case.patient_id}, {card.name} {card.version}").savefig(
            out / "attention.png", dpi=110
        )
        return {
            "prediction": self.classes[int(np.argmax(mean))],
            "probabilities": {c: float(p) for c, p in zip(self.classes, mean, strict=True)},
            "images": len(images),
            "spread": {c: float(s) for c, s in zip(self.classes, found.std(axis=0), strict=True)},
            "files": ["inputs.png", "attention.png"],
        }


def _save_inputs(images: NDArray[np.float32], path: Path) -> None:
    """Save the network input: first channel, middle slice of a block."""
    from torchvision.utils import save_image

    planes = images[:, :1] if images.ndim == 4 else images[0, :, images.shape[2] // 2][:, None]
    low, high = float(planes.min()), float(planes.max())
    scaled = (torch.from_numpy(np.ascontiguousarray(planes)) - low) / max(high - low, 1e-6)
    save_image(scaled, path, nrow=4)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])

"""Hypoxia maps from multiparametric MRI, pixel by pixel (Jardim-Perassi et al. 2021).

A ResNet-18 takes the patch around a pixel in every sequence and predicts the probability of hypoxic tissue, trained on
registered histology.  The fraction of the tumour above a threshold is the hypoxic fraction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import nn

from pathology.bundle.card import Metric
from pathology.errors import UsageError
from pathology.radiology.images.intensity import IntensitySettings, normalise
from pathology.radiology.images.registration import resample
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.io.errors import EmptyMaskError
from pathology.radiology.io.volume import Mask, Volume
from pathology.radiology.models.bundle import CardText, RadiologyCard, load_network, save_radiology_bundle
from pathology.radiology.models.network_classifier import (
    ClassifierSettings,
    LabelledImages,
    fit_classifier,
    probabilities,
)
from pathology.radiology.models.recipe import NOT_MEASURED, Progress, Recipe, as_metric, describe_split, named_progress
from pathology.radiology.models.training_loop import OptimiserSettings
from pathology.stats.bootstrap import bootstrap
from pathology.stats.classification import area_under_roc
from pathology.stats.splits import audit_leakage, grouped_k_fold

__all__ = ["HabitatRecipe", "hypoxic_fraction"]


def hypoxic_fraction(probability: Volume, tumour: Mask, threshold: float = 0.5) -> float:
    """Return the fraction of tumour voxels with a probability of at least the threshold.

    Raises
    ------
    EmptyMaskError
        If the tumour marks no voxel.
    """
    if not tumour.array.any():
        raise EmptyMaskError("the tumour mask is empty: no hypoxic fraction")
    return float((probability.array[tumour.array] >= threshold).mean())


class HabitatRecipe(Recipe):
    """A patch classifier applied to every pixel of a tumour."""

    kind: ClassVar[str] = "habitat"

    sequences: Annotated[tuple[str, ...], Field(min_length=1)] = ("T2", "DCE", "ADC")
    """Channels; the first one's grid is used."""
    truth: str = "hypoxia"
    """Name of the mask of hypoxic tissue from histology, drawn on the first sequence's grid."""
    patch: Annotated[int, Field(ge=3)] = 15
    """Patch size in pixels, odd, so that it has a central pixel."""
    per_case: Annotated[int, Field(ge=2)] = 400
    """Training pixels per animal, half of them hypoxic if available."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability threshold for hypoxic pixels."""
    intensity: dict[str, IntensitySettings] = Field(default_factory=dict)
    """Normalisation by sequence, where it is not the modality's default."""
    classifier: ClassifierSettings = ClassifierSettings(
        architecture="resnet18", shift=0, optimiser=OptimiserSettings(steps=400, batch=64, learning_rate=5e-4)
    )
    """Network and training; no shift augmentation, which would move the target pixel off centre."""

    @field_validator("classifier")
    @classmethod
    def _centred(cls, value: ClassifierSettings) -> ClassifierSettings:
        if value.shift:
            raise ValueError(
                f"classifier.shift: expected 0, because the label is that of the central pixel; got {value.shift}"
            )
        return value

    @field_validator("patch")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"patch: expected an odd side, got {value}")
        return value

    @property
    def settings(self) -> ClassifierSettings:
        """The classifier with a channel a sequence."""
        options = self.classifier.options | {"channels": len(self.sequences)}
        return self.classifier.model_copy(update={"options": options})

    def prepare(self, case: Case) -> tuple[NDArray[np.float32], Volume, Mask]:
        """Read one case: channels ``(C, Z, Y, X)``, the first sequence as it was, and the tumour."""
        first = case.open(self.sequences[0])
        tumour = case.contours(self.sequences[0], first)[0]
        channels = []
        for name in self.sequences:
            volume = (
                first.volume if name == self.sequences[0] else resample(case.open(name).volume, first.volume.geometry)
            )
            channels.append(normalise(volume, self.intensity.get(name)).array)
        return np.stack(channels), first.volume, tumour

    def _patches(self, channels: NDArray[np.float32], points: NDArray[np.int64]) -> NDArray[np.float32]:
        half = self.patch // 2
        padded = np.pad(channels, ((0, 0), (0, 0), (half, half), (half, half)), mode="edge")
        return np.stack([padded[:, z, y : y + self.patch, x : x + self.patch] for z, y, x in points])

    def _pixels(self, case: Case, seed: int) -> LabelledImages:
        channels, _, tumour = self.prepare(case)
        opened = case.open(self.sequences[0])
        truth = case.contours(self.truth, opened)[0].array & tumour.array
        random = np.random.default_rng(seed)
        parts, labels = [], []
        for label, where in ((0, tumour.array & ~truth), (1, truth)):
            points = np.argwhere(where)
            count = min(len(points), self.per_case // 2)
            if count:
                parts.append(self._patches(channels, points[random.choice(len(points), count, replace=False)]))
                labels += [label] * count
        return LabelledImages(np.concatenate(parts), np.asarray(labels, np.int64), (case.patient_id,) * len(labels))

    def map(self, network: nn.Module, case: Case, *, device: str = "cpu") -> tuple[Volume, Mask, Volume]:
        """Return the probability in every pixel of the tumour (0 elsewhere), the tumour, and the first sequence."""
        channels, first, tumour = self.prepare(case)
        points = np.argwhere(tumour.array)
        result = np.zeros(tumour.array.shape, np.float32)
        # Patches overlap heavily; a few thousand at a time keep memory flat.
        for start in range(0, len(points), 4096):
            part = points[start : start + 4096]
            found = probabilities(network, self._patches(channels, part), batch=512, device=device)[:, 1]
            result[tuple(part.T)] = found
        return Volume(result, first.geometry, "OTHER", "", "hypoxia"), tumour, first

    def _labelled(self, cohort: Cohort, seed: int) -> LabelledImages:
        parts = [self._pixels(case, seed + i) for i, case in enumerate(cohort.cases)]
        return LabelledImages(
            np.concatenate([p.pixels for p in parts]),
            np.concatenate([p.labels for p in parts]),
            tuple(name for p in parts for name in p.patients),
        )

    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by animal-level cross-validation: pixels, and hypoxic fractions against histology.

        See :meth:`Recipe.evaluate`.
        """
        cohort = cohort.having(self.sequences)
        patients = list(cohort.patients)
        if len(patients) < 3:
            raise UsageError(f"a correlation requires at least 3 cases, got {len(patients)}")
        predicted, measured = np.zeros(len(patients)), np.zeros(len(patients))
        pixel_scores: list[NDArray[np.float64]] = []
        pixel_truth: list[NDArray[np.int64]] = []
        owner: list[str] = []
        done = 0
        for fold in grouped_k_fold(patients, k=folds, seed=seed):
            audit_leakage({"train": fold.train, "test": fold.test}, patients=patients)
            images = self._labelled(cohort.take(fold.train), seed)
            network, _ = fit_classifier(
                images,
                2,
                self.settings,
                seed=seed,
                device=device,
                progress=named_progress(progress, f"fold {fold.index + 1}"),
            )
            for i in fold.test:
                case = cohort.cases[i]
                probability, tumour, _ = self.map(network, case, device=device)
                truth = case.contours(self.truth, case.open(self.sequences[0]))[0].array & tumour.array
                predicted[i] = hypoxic_fraction(probability, tumour, self.threshold)
                measured[i] = float(truth[tumour.array].mean())
                pixel_scores.append(probability.array[tumour.array].astype(np.float64))
                pixel_truth.append(truth[tumour.array].astype(np.int64))
                owner += [patients[i]] * int(tumour.array.sum())
                done += 1
                if progress is not None:
                    progress("maps", done, len(patients))
        data = f"{len(patients)} cases, {folds}-fold cross-validation by case, {' + '.join(self.sequences)}"
        scores, labels = np.concatenate(pixel_scores), np.concatenate(pixel_truth)

        def correlation(rows: NDArray[np.int64]) -> float:
            a, b = predicted[rows], measured[rows]
            return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")

        def error(rows: NDArray[np.int64]) -> float:
            return float(np.abs(predicted[rows] - measured[rows]).mean())

        pixels = area_under_roc(labels, scores, patients=owner, resamples=200, seed=seed)
        return (
            as_metric("area under the ROC curve of pixels", pixels, unit="cases", data=data, note="bootstrap by case"),
            as_metric(
                "correlation of hypoxic fractions with histology",
                bootstrap(correlation, patients, seed=seed),
                unit="cases",
                data=data,
                note="Pearson",
            ),
            as_metric(
                "mean absolute error of the hypoxic fraction",
                bootstrap(error, patients, seed=seed),
                unit="cases",
                data=data,
            ),
        )

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
        images = self._labelled(cohort.having(self.sequences), seed)
        network, start = fit_classifier(
            images, 2, self.settings, seed=seed, device=device, progress=named_progress(progress, "training")
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
            classes=("normoxic", "hypoxic"),
            initialisation=start,
            split=describe_split("trained on all cases", "cross-validation by case with the same recipe", metrics),
            metrics=metrics,
            constructed=constructed,
        )

    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Map one case; writes the probability as NIfTI and a montage.  See :meth:`Recipe.predict`."""
        from pathology.radiology.images.montage import draw_montage
        from pathology.radiology.io.nifti import write_nifti

        network = load_network(folder, card, self.settings.options)
        probability, tumour, first = self.map(network, case, device=device)
        write_nifti(probability, out / "hypoxia.nii.gz")
        hypoxic = Mask((probability.array >= self.threshold) & tumour.array, tumour.geometry, "hypoxic")
        draw_montage(first, {"tumour": tumour, "hypoxic": hypoxic}, title=f"{case.patient_id}, {card.name}").savefig(
            out / "montage.png", dpi=110
        )
        return {
            "hypoxic_fraction": hypoxic_fraction(probability, tumour, self.threshold),
            "threshold": self.threshold,
            "tumour_cm3": tumour.volume_mm3 / 1000,
            "files": ["hypoxia.nii.gz", "montage.png"],
        }

"""Tumour segmentation with U-Nets: 2D, 2.5D and 3D, trained on one contour or a confidence map of several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from pathology.bundle.card import Metric
from pathology.networks.radiology_registry import build_radiology_network
from pathology.radiology.images.consensus import confidence_map, contour_at
from pathology.radiology.images.intensity import IntensitySettings, normalise
from pathology.radiology.images.registration import resample
from pathology.radiology.io.cohort import Case, Cohort, modality_of
from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Volume
from pathology.radiology.models.bundle import CardText, RadiologyCard, load_network, save_radiology_bundle
from pathology.radiology.models.recipe import NOT_MEASURED, Progress, Recipe, as_metric, describe_split
from pathology.radiology.models.segmentation_metrics import (
    Agreement,
    continuous_dice,
    segmentation_agreement,
    soft_dice,
)
from pathology.radiology.models.sliding_window import WindowSettings, predict_volume, window
from pathology.radiology.models.training_loop import OptimiserSettings, dice_and_cross_entropy, fit, seeded
from pathology.settings import Record
from pathology.stats.bootstrap import bootstrap
from pathology.stats.splits import audit_leakage, grouped_k_fold

if TYPE_CHECKING:
    from pathology.radiology.io.open import OpenedVolume

__all__ = ["PreparedCase", "SegmentationRecipe", "SegmentedCase"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """Preprocessed images of a patient on the network grid.

    Attributes
    ----------
    patient_id
        Pseudonym.
    image
        ``(C, Z, Y, X)`` float32, normalised.
    target
        ``(Z, Y, X)`` float32 confidence, 0 to 1; ``None`` without a contour.
    geometry
        Network grid.
    """

    patient_id: str
    image: NDArray[np.float32]
    target: NDArray[np.float32] | None
    geometry: Geometry


class SegmentedCase(Record):
    """Out-of-fold segmentation metrics of a patient."""

    patient_id: str
    """Pseudonym."""
    segmentation_agreement: Agreement
    """Against the contour, on the image's own grid."""
    continuous_dice: float
    """Of the confidence against the contour, on the image's own grid."""
    soft_dice: float
    """Of the confidence against the confidence map of all contours, on the image's own grid."""


class SegmentationRecipe(Recipe):
    """A U-Net for one structure."""

    kind: ClassVar[str] = "segmentation"

    sequences: Annotated[tuple[str, ...], Field(min_length=1)]
    """Input sequences; others are resampled to the grid of the first, which is also the output grid."""
    contour: str | None = None
    """Sequence of the training masks; ``None``: the first."""
    shape: Literal["2d", "2.5d", "3d"] = "3d"
    """Network input: a slice, a slice with its neighbours, or a block."""
    neighbours: Annotated[int, Field(ge=1)] = 1
    """Slices on either side in 2.5D."""
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.27)
    """Grid of the network, x, y, z in mm."""
    window: tuple[int, int, int] = (16, 64, 64)
    """Window size in voxels (z, y, x); z is 1 unless 3D."""
    intensity: dict[str, IntensitySettings] = Field(default_factory=dict)
    """Normalisation by sequence, where it is not the modality's default."""
    architecture: Literal["unet", "attention-unet"] = "unet"
    """Network."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Feature channels by level."""
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Fraction of training windows centred on a tumour voxel."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Confidence threshold of the segmentation."""
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Overlap of windows in prediction."""
    optimiser: OptimiserSettings = OptimiserSettings()
    """Optimiser settings."""

    @model_validator(mode="after")
    def _fits_the_network(self) -> SegmentationRecipe:
        if self.shape != "3d" and self.window[0] != 1:
            raise ValueError(f"window: {self.shape} takes one slice, got {self.window[0]}")
        step = 2 ** (len(self.widths) - 1)
        if any(n % step for n in self.window[1:]) or (self.shape == "3d" and self.window[0] % (step // 2)):
            raise ValueError(
                f"window: {len(self.widths)} levels need y and x divisible by {step}, z by {max(1, step // 2)}"
            )
        return self

    @property
    def network_options(self) -> dict[str, Any]:
        """Keyword arguments of the network's builder."""
        channels = len(self.sequences) * (2 * self.neighbours + 1 if self.shape == "2.5d" else 1)
        levels = len(self.widths) - 1
        planar = self.shape != "3d"
        # Slices are thicker than pixels are wide, so the first step of a 3D network halves the plane only.
        strides: list[Any] = [2] * levels if planar else [(1, 2, 2), *([2] * (levels - 1))]
        options: dict[str, Any] = {"channels": channels, "dimensions": 2 if planar else 3, "widths": self.widths}
        return options | {"strides": strides}

    @property
    def windows(self) -> WindowSettings:
        """Sliding window settings."""
        planar = self.shape != "3d"
        return WindowSettings(
            size=self.window,
            planar=planar,
            neighbours=self.neighbours if self.shape == "2.5d" else 0,
            overlap=self.overlap,
            batch=8 if planar else 2,
        )

    def build(self, seed: int = 0) -> nn.Module:
        """Build the network with random weights."""
        return seeded(lambda: build_radiology_network(self.architecture, 1, **self.network_options), seed)

    def prepare(self, case: Case, *, with_target: bool) -> tuple[PreparedCase, OpenedVolume]:
        """Read, resample and normalise one patient.

        Returns
        -------
        PreparedCase, OpenedVolume
            The network's input, and the first sequence as it was.
        """
        first = case.open(self.sequences[0])
        grid = first.volume.geometry.with_spacing(self.spacing_mm)
        channels = []
        for name in self.sequences:
            opened = first if name == self.sequences[0] else case.open(name)
            channels.append(normalise(resample(opened.volume, grid), self._intensity(name)).array)
        target = None
        if with_target:
            drawn_on = self.contour or self.sequences[0]
            source = first if drawn_on == self.sequences[0] else case.open(drawn_on)
            confidence = confidence_map(case.contours(drawn_on, source))
            target = np.clip(resample(confidence, grid, outside=0.0, smooth=False).array, 0, 1)
        return PreparedCase(case.patient_id, np.stack(channels), target, grid), first

    def _intensity(self, sequence: str) -> IntensitySettings | None:
        return self.intensity.get(sequence)

    def fit_cases(
        self,
        cases: Sequence[PreparedCase],
        *,
        seed: int,
        device: str,
        progress: Callable[[int, int], None] | None = None,
    ) -> nn.Module:
        """Train a network on prepared patients.

        Raises
        ------
        StudyError
            If a patient has no contour.
        """
        for case in cases:
            if case.target is None or not (case.target > 0).any():
                raise StudyError("no contour for training", where=case.patient_id)
        network = self.build(seed)
        sampler = _Sampler(cases, self)
        contents = hashlib.sha256(self.model_dump_json().encode())
        for case in cases:
            contents.update(np.ascontiguousarray(case.image).data)
            contents.update(np.ascontiguousarray(case.target).data)
        fit(
            network,
            sampler.draw,
            dice_and_cross_entropy,
            self.optimiser,
            seed=seed,
            contents=contents.hexdigest(),
            device=device,
            progress=progress,
        )
        return network

    def segment(
        self, network: nn.Module, case: PreparedCase, onto: Geometry, *, device: str = "cpu"
    ) -> tuple[Volume, Mask]:
        """Segment one patient.

        Parameters
        ----------
        network
            Trained.
        case
            Prepared.
        onto
            Grid of the result.
        device
            Where the network runs.

        Returns
        -------
        Volume, Mask
            Confidence 0 to 1, and the voxels above the threshold.
        """
        with TemporaryFile() as file:
            # On disk: the probabilities of a whole-body scan need not lie in memory beside the scan.
            space = np.memmap(file, np.float32, "w+", shape=case.image.shape[1:])
            predicted = predict_volume(network, case.image, self.windows, device=device, out=space)
        confidence = resample(Volume(predicted, case.geometry), onto, outside=0.0, smooth=False)
        confidence = confidence.with_array(np.clip(confidence.array, 0, 1))
        return confidence, contour_at(confidence, self.threshold)

    def cross_validate(
        self,
        cohort: Cohort,
        *,
        folds: int = 5,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> tuple[SegmentedCase, ...]:
        """Segment every patient with the sequences by cross-validation."""
        parts = self.by_fold(cohort, folds=folds, seed=seed, device=device, progress=progress)
        found = {case.patient_id: case for _, part in parts for case in part}
        return tuple(found[p] for p in cohort.having(self.sequences).patients)

    def by_fold(
        self,
        cohort: Cohort,
        *,
        folds: int = 5,
        seed: int = 0,
        device: str = "cpu",
        skip: Collection[int] = (),
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, tuple[SegmentedCase, ...]]]:
        """Go through the folds of :meth:`cross_validate`, so that a long run can be broken off between them.

        Parameters
        ----------
        cohort, folds, seed, device, progress
            As in :meth:`cross_validate`.
        skip
            Folds that are done already.

        Yields
        ------
        int, tuple of SegmentedCase
            A fold's number, from 0, and its patients.
        """
        cohort = cohort.having(self.sequences)
        patients = list(cohort.patients)
        divisions = [f for f in grouped_k_fold(patients, k=folds, seed=seed) if f.index not in skip]
        if not divisions:
            return
        prepared = []
        for number, case in enumerate(cohort.cases):
            prepared.append(self.prepare(case, with_target=True)[0])
            if progress is not None:
                progress("reading", number + 1, len(cohort))
        for fold in divisions:
            audit_leakage(
                {"train": fold.train, "test": fold.test}, patients=patients, contents=[c.image for c in prepared]
            )
            name = f"fold {fold.index + 1} of {folds}"
            network = self.fit_cases(
                [prepared[i] for i in fold.train],
                seed=seed,
                device=device,
                progress=None if progress is None else lambda a, b, name=name: progress(name, a, b),  # type: ignore[misc]
            )
            yield fold.index, tuple(self._measure(network, cohort.cases[i], prepared[i], device) for i in fold.test)

    def _measure(self, network: nn.Module, case: Case, prepared: PreparedCase, device: str) -> SegmentedCase:
        drawn_on = self.contour or self.sequences[0]
        source = case.open(drawn_on)
        truth = confidence_map(case.contours(drawn_on, source))
        confidence, mask = self.segment(network, prepared, source.volume.geometry, device=device)
        contour = contour_at(truth, self.threshold)
        return SegmentedCase(
            patient_id=case.patient_id,
            segmentation_agreement=segmentation_agreement(mask, contour),
            continuous_dice=continuous_dice(contour.array, confidence.array),
            soft_dice=soft_dice(truth.array, confidence.array),
        )

    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by patient-level cross-validation; see :meth:`Recipe.evaluate`."""
        return self.metrics(
            self.cross_validate(cohort, folds=folds, seed=seed, device=device, progress=progress),
            folds=folds,
            seed=seed,
        )

    def metrics(self, cases: Sequence[SegmentedCase], *, folds: int, seed: int = 0) -> tuple[Metric, ...]:
        """Average over patients of a cross-validation, with bootstrap intervals over patients.

        Parameters
        ----------
        cases
            Of all folds.
        folds
            How many there were.
        seed
            Of the bootstrap.
        """
        what = f"{self.shape} on {' + '.join(self.sequences)}"
        data = f"{len(cases)} patients, {folds}-fold cross-validation by patient, {what}"
        columns: dict[str, list[float]] = {
            "Dice coefficient": [c.segmentation_agreement.dice for c in cases],
            "continuous Dice coefficient": [c.continuous_dice for c in cases],
            "soft Dice coefficient against the confidence map": [c.soft_dice for c in cases],
            "95 % Hausdorff distance, mm": [c.segmentation_agreement.hausdorff95_mm for c in cases],
            "average symmetric surface distance, mm": [c.segmentation_agreement.average_surface_mm for c in cases],
        }
        metrics = []
        for metric, values in columns.items():
            array = np.asarray(values)
            lost = int((~np.isfinite(array)).sum())
            note = (
                f"mean over patients; {lost} empty segmentations count in the Dice only"
                if lost
                else "mean over patients"
            )
            kept = np.flatnonzero(np.isfinite(array))
            if not len(kept):
                continue
            interval = bootstrap(_mean_of(array[kept]), [cases[int(i)].patient_id for i in kept], seed=seed)
            metrics.append(as_metric(metric, interval, unit="patients", data=data, note=note))
        return tuple(metrics)

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
        prepared = [self.prepare(case, with_target=True)[0] for case in cohort.having(self.sequences).cases]
        network = self.fit_cases(
            prepared,
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
            architecture=self.architecture,
            parameters=sum(p.numel() for p in network.parameters()),
            classes=("tumour",),
            initialisation="random weights",
            split=describe_split(
                "trained on all patients", "cross-validation by patient with the same recipe", metrics
            ),
            metrics=metrics,
            constructed=constructed,
        )

    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Segment one patient; writes NIfTI, a montage and, for DICOM input, a SEG.  See :meth:`Recipe.predict`."""
        from pathology.radiology.images.montage import draw_montage
        from pathology.radiology.io.nifti import write_nifti

        network = load_network(folder, card, self.network_options)
        prepared, first = self.prepare(case, with_target=False)
        confidence, mask = self.segment(network, prepared, first.volume.geometry, device=device)
        write_nifti(mask, out / "segmentation.nii.gz")
        write_nifti(confidence, out / "confidence.nii.gz")
        files = ["segmentation.nii.gz", "confidence.nii.gz", "montage.png"]
        draw_montage(first.volume, {"model": mask}, title=f"{case.patient_id}, {card.name} {card.version}").savefig(
            out / "montage.png", dpi=110
        )
        if first.series is not None and mask.array.any():
            from pathology.radiology.io.dicom_seg import write_segmentation

            write_segmentation(mask, first.series, out / "segmentation.dcm", model=f"{card.name} {card.version}")
            files.append("segmentation.dcm")
        return {
            "volume_cm3": mask.volume_mm3 / 1000,
            "threshold": self.threshold,
            "sequence": first.volume.name,
            "orientation": first.volume.geometry.orientation,
            "modality": modality_of(self.sequences[0]),
            "files": files,
        }


class _Sampler:
    """Samples random windows: uniform over patients, a fraction centred on the tumour, mirrored left to right."""

    def __init__(self, cases: Sequence[PreparedCase], recipe: SegmentationRecipe) -> None:
        self.cases, self.recipe = cases, recipe
        self.windows = recipe.windows
        self.inside = [
            np.argwhere(_target(c) > 0.5) if (_target(c) > 0.5).any() else np.argwhere(_target(c) > 0) for c in cases
        ]
        # The target is cut by a window of its own: one channel, no neighbours.
        self.target_windows = self.windows.model_copy(update={"neighbours": 0})

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs, targets = [], []
        for _ in range(self.recipe.optimiser.batch):
            number = int(torch.randint(len(self.cases), (1,), generator=generator))
            case = self.cases[number]
            if float(torch.rand(1, generator=generator)) < self.recipe.foreground:
                points = self.inside[number]
                centre = points[int(torch.randint(len(points), (1,), generator=generator))]
            else:
                centre = np.asarray([int(torch.randint(n, (1,), generator=generator)) for n in case.image.shape[1:]])
            start = [int(c) - s // 2 for c, s in zip(centre, self.windows.size, strict=True)]
            cut = window(case.image, start, self.windows)
            target = window(_target(case)[None], start, self.target_windows)
            if float(torch.rand(1, generator=generator)) < 0.5:
                cut, target = cut[..., ::-1], target[..., ::-1]
            gain = 1 + 0.1 * float(torch.randn(1, generator=generator))
            inputs.append(torch.from_numpy(np.ascontiguousarray(cut)) * gain)
            targets.append(torch.from_numpy(np.ascontiguousarray(target)))
        return torch.stack(inputs), torch.stack(targets)


def _mean_of(values: NDArray[np.float64]) -> Callable[[NDArray[np.int64]], float]:
    return lambda rows: float(values[rows].mean())


def _target(case: PreparedCase) -> NDArray[np.float32]:
    assert case.target is not None  # fit_cases has refused the others
    return case.target

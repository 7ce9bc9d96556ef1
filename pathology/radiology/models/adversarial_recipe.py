"""Synthetic longitudinal ADC images for a classifier of treatment effect (Gao et al. 2021).

An auxiliary-classifier GAN is fitted on the training patients of a round, generates images of each class, and a VGG-19
is trained on these alone and tested on real images of other patients.  Because a GAN can memorise its few training
images, every round also reports the distance of synthetic images to them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from pathology.bundle.card import Metric
from pathology.errors import LeakageError, UsageError
from pathology.networks.acgan import Discriminator, Generator
from pathology.radiology.images.intensity import IntensitySettings
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.models.bundle import CardText, RadiologyCard, load_network, save_radiology_bundle
from pathology.radiology.models.image_recipe import ImageRecipe
from pathology.radiology.models.network_classifier import (
    ClassifierSettings,
    LabelledImages,
    fit_classifier,
    patient_metrics,
    probabilities,
)
from pathology.radiology.models.recipe import NOT_MEASURED, Progress, Recipe, describe_split, named_progress
from pathology.radiology.models.training_loop import OptimiserSettings, seeded
from pathology.settings import Record
from pathology.stats.splits import audit_leakage, grouped_k_fold

__all__ = ["AcganSettings", "AdversarialRecipe", "FittedGenerator", "Memorisation", "fit_acgan", "memorisation"]


class AcganSettings(Record):
    """GAN training settings.  Not reported by Gao et al.; the usual values of DCGAN and ACGAN."""

    noise: Annotated[int, Field(ge=1)] = 100
    """Length of the noise vector."""
    width: Annotated[int, Field(ge=2)] = 32
    """Channels of the generator's last and the discriminator's first layer."""
    steps: Annotated[int, Field(ge=1)] = 3000
    """Updates of each network."""
    batch: Annotated[int, Field(ge=2)] = 32
    """Batch size."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Of Adam with betas 0.5 and 0.999 (Radford 2016)."""
    real_target: Annotated[float, Field(gt=0.5, le=1)] = 0.9
    """Target for real images (one-sided label smoothing, Salimans 2016)."""


@dataclass(frozen=True, slots=True, eq=False)
class FittedGenerator:
    """A generator and the patients it was fitted on.

    Attributes
    ----------
    network
        The generator, in evaluation mode.
    patients
        Whose images it saw.
    low, high
        Per channel: what -1 and 1 stand for, shape (C,).
    classes
        Number of classes.
    """

    network: Generator
    patients: tuple[str, ...]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    classes: int

    def make(self, count: int, *, seed: int = 0) -> LabelledImages:
        """Generate ``count`` images of each class, in the scale of the real ones, in half precision."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.classes).repeat_interleave(count)
        shape = (1, -1, 1, 1)
        width, low = (self.high - self.low).reshape(shape), self.low.reshape(shape)
        pixels = np.zeros((0,), np.float16)
        with torch.inference_mode():
            for start in range(0, len(labels), 256):
                part = labels[start : start + 256]
                noise = torch.randn(len(part), self.network.noise, generator=generator)
                made = (self.network(noise, part).numpy() + 1) / 2 * width + low
                if not start:
                    # Tens of thousands of images take gigabytes: they are held once, scaled as they are made, and in
                    # half precision, whose steps (1/2000 of a value) are far below the noise of a scanner.
                    pixels = np.empty((len(labels), *made.shape[1:]), np.float16)
                pixels[start : start + 256] = made
        # Each made image counts as a patient of its own: it belongs to nobody.
        names = tuple(f"synthetic-{i}" for i in range(len(labels)))
        return LabelledImages(pixels, labels.numpy().astype(np.int64), names)

    def audit(self, held_out: Collection[str]) -> None:
        """Raise an error if the generator was trained on a held-out patient.

        Raises
        ------
        LeakageError
            Naming the patient.
        """
        shared = sorted(set(self.patients) & set(held_out))
        if shared:
            raise LeakageError(
                f"the generator was fitted on patient {shared[0]}, who is held out for testing",
                remedy="Fit a generator on the training patients of each round",
            )


class Memorisation(Record):
    """Memorisation test: distance of synthetic images to training images, compared with held-out images."""

    synthetic: float
    """Median root-mean-square distance of synthetic images from their nearest training image."""
    held_out: float
    """The same of held-out real images."""
    copies: float
    """Share of synthetic images nearer to a training image than 99 % of the held-out ones are; about 0.01 where
    synthetic images are as far from the training images as other patients are."""
    images: int
    """Number of synthetic images compared."""


def fit_acgan(
    images: LabelledImages,
    classes: int,
    settings: AcganSettings,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> FittedGenerator:
    """Fit the GAN on images of training patients.

    The discriminator's loss is the cross-entropy of source and class on real and made images; the generator's is that
    its images be taken for real and for their class (Odena 2017).

    Parameters
    ----------
    images
        ``(N, C, S, S)``, S 16, 32, 64 or 128.
    classes
        Number of classes.
    settings, seed, device, progress
        As elsewhere.
    """
    channels, size = images.pixels.shape[1], images.pixels.shape[2]
    axes = (0, 2, 3)
    low, high = images.pixels.min(axis=axes), images.pixels.max(axis=axes)
    high = np.where(high > low, high, low + 1).astype(np.float32)
    shape = (1, -1, 1, 1)
    scaled = (images.pixels - low.reshape(shape)) / (high - low).reshape(shape) * 2 - 1
    real = torch.from_numpy(scaled.astype(np.float32))
    labels = torch.from_numpy(images.labels)
    pools = [torch.from_numpy(np.flatnonzero(images.labels == c)) for c in range(classes)]
    if any(len(p) == 0 for p in pools):
        raise UsageError("a class has no training images", remedy="Use fewer folds or more patients")
    generator = seeded(lambda: Generator(classes, channels, size, settings.noise, settings.width), seed)
    discriminator = seeded(lambda: Discriminator(classes, channels, size, settings.width), seed + 1)
    assert isinstance(generator, Generator)
    place = torch.device(device)
    generator.to(place).train()
    discriminator.to(place).train()
    betas = (0.5, 0.999)
    of_generator = torch.optim.Adam(generator.parameters(), settings.learning_rate, betas)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), settings.learning_rate, betas)
    source_loss, class_loss = nn.functional.binary_cross_entropy_with_logits, nn.functional.cross_entropy
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(settings.steps):
            wanted = torch.randint(classes, (settings.batch,), generator=draw)
            rows = torch.stack(
                [p[torch.randint(len(p), (1,), generator=draw)[0]] for p in (pools[int(c)] for c in wanted)]
            )
            batch, truth = real[rows].to(place), labels[rows].to(place)
            noise = torch.randn(settings.batch, settings.noise, generator=draw).to(place)
            made = generator(noise, truth)
            source, label = discriminator(batch)
            loss = source_loss(source, torch.full_like(source, settings.real_target)) + class_loss(label, truth)
            source, label = discriminator(made.detach())
            loss = loss + source_loss(source, torch.zeros_like(source)) + class_loss(label, truth)
            of_discriminator.zero_grad(set_to_none=True)
            loss.backward()
            of_discriminator.step()
            source, label = discriminator(made)
            loss = source_loss(source, torch.ones_like(source)) + class_loss(label, truth)
            of_generator.zero_grad(set_to_none=True)
            loss.backward()
            of_generator.step()
            if progress is not None:
                progress(step + 1, settings.steps)
    return FittedGenerator(generator.cpu().eval(), tuple(sorted(set(images.patients))), low, high, classes)


def memorisation(
    synthetic: NDArray[np.floating], training: NDArray[np.floating], held_out: NDArray[np.floating]
) -> Memorisation:
    """Compare nearest-neighbour distances to the training images.

    Parameters
    ----------
    synthetic, training, held_out
        ``(N, C, S, S)`` images in one scale.
    """
    to_synthetic, to_held_out = _nearest(synthetic, training), _nearest(held_out, training)
    return Memorisation(
        synthetic=float(np.median(to_synthetic)),
        held_out=float(np.median(to_held_out)),
        copies=float((to_synthetic < np.quantile(to_held_out, 0.01)).mean()),
        images=len(synthetic),
    )


def _nearest(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    a = first.reshape(len(first), -1).astype(np.float64)
    b = second.reshape(len(second), -1).astype(np.float64)
    found = np.empty(len(a))
    squares = (b**2).sum(axis=1)
    for start in range(0, len(a), 256):
        part = a[start : start + 256]
        distance = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ b.T
        found[start : start + 256] = np.sqrt(np.maximum(distance.min(axis=1), 0) / a.shape[1])
    return found


class AdversarialRecipe(Recipe):
    """ACGAN, synthetic training images, VGG-19, patient vote."""

    kind: ClassVar[str] = "adversarial"

    sequences: tuple[str, str, str] = ("ADC_1", "ADC_2", "ADC_3")
    """ADC maps of three time points, the channels."""
    label: str = "effect"
    """Clinical column with the class."""
    classes: tuple[str, ...] = ("up to 20 %", "20-90 %", "90 % and more")
    """Fraction of tumour necrosis after treatment."""
    slices: Annotated[int, Field(ge=1)] = 8
    """Slices per patient."""
    size: Annotated[int, Field(ge=32)] = 64
    """Side of the images, 32, 64 or 128."""
    adc_high: Annotated[float, Field(gt=0)] = 3e-3
    """ADC shown as 1, in mm²/s: free water at body temperature."""
    synthetic: Annotated[int, Field(ge=1)] = 15_000
    """Images made of each class; the published number."""
    acgan: AcganSettings = AcganSettings()
    """The GAN."""
    classifier: ClassifierSettings = ClassifierSettings(
        architecture="vgg19", optimiser=OptimiserSettings(steps=1500, batch=32, learning_rate=1e-4)
    )
    """The classifier, trained on synthetic images only."""

    @property
    def images_recipe(self) -> ImageRecipe:
        """How images are read."""
        window = IntensitySettings(method="window", low=0.0, high=self.adc_high)
        return ImageRecipe(
            sequences=self.sequences,
            label=self.label,
            classes=self.classes,
            slices=self.slices,
            size=self.size,
            intensity=dict.fromkeys(self.sequences, window),
            classifier=self.classifier,
        )

    def rounds(
        self,
        images: LabelledImages,
        *,
        folds: int,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> tuple[NDArray[np.float64], tuple[Memorisation, ...]]:
        """Score every image by a classifier trained on images of a GAN that saw none of its patient's.

        Returns
        -------
        numpy.ndarray, tuple of Memorisation
            ``(N, classes)`` probabilities, and the nearest-neighbour test of each round.
        """
        scores = np.full((len(images), len(self.classes)), np.nan)
        tests = []
        for fold in grouped_k_fold(images.patients, images.labels.tolist(), k=folds, seed=seed):
            audit_leakage(
                {"train": fold.train, "test": fold.test}, patients=images.patients, contents=list(images.pixels)
            )
            train, test = images.take(fold.train), images.take(fold.test)
            made, network, _ = self._fit(train, seed=seed, device=device, progress=progress, held_out=test.patients)
            tests.append(memorisation(made.pixels[:: max(1, len(made) // 500)], train.pixels, test.pixels))
            scores[fold.test] = probabilities(network, test.pixels, device=device)
        return scores, tuple(tests)

    def _fit(
        self,
        train: LabelledImages,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
        held_out: Collection[str] = (),
    ) -> tuple[LabelledImages, nn.Module, str]:
        classes = len(self.classes)
        generator = fit_acgan(
            train, classes, self.acgan, seed=seed, device=device, progress=named_progress(progress, "GAN")
        )
        generator.audit(held_out)
        made = generator.make(self.synthetic, seed=seed)
        network, start = fit_classifier(
            made, classes, self.classifier, seed=seed, device=device, progress=named_progress(progress, "classifier")
        )
        return made, network, start

    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by patient-level cross-validation; see :meth:`Recipe.evaluate`."""
        images = self.images_recipe.images(cohort, progress)
        scores, tests = self.rounds(images, folds=folds, seed=seed, device=device, progress=progress)
        copies = ", ".join(f"{t.copies:.2f}" for t in tests)
        data = (
            f"{len(set(images.patients))} patients, {folds}-fold by patient, {self.classifier.architecture} trained on "
            f"synthetic images only; share of near copies by round: {copies}"
        )
        return patient_metrics(images, scores, self.classes, data=data, seed=seed)

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
        """Train on the whole cohort and write a bundle of the classifier; see :meth:`Recipe.train`."""
        images = self.images_recipe.images(cohort, progress)
        _, network, start = self._fit(images, seed=seed, device=device, progress=progress)
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
            fitted={"synthetic_per_class": self.synthetic, "gan_patients": len(set(images.patients))},
            initialisation=start,
            split=describe_split("GAN and classifier fitted on all patients", "rounds with patients held out", metrics),
            metrics=metrics,
            constructed=constructed,
        )

    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Classify one patient by the mean over slices; see :meth:`Recipe.predict`."""
        network = load_network(folder, card, self.classifier.options)
        found = probabilities(network, self.images_recipe.prepare(case), device=device)
        mean = found.mean(axis=0)
        votes = np.bincount(found.argmax(axis=1), minlength=len(self.classes))
        out.mkdir(parents=True, exist_ok=True)
        return {
            "prediction": self.classes[int(np.argmax(mean))],
            "probabilities": {c: float(p) for c, p in zip(self.classes, mean, strict=True)},
            "votes": {c: int(v) for c, v in zip(self.classes, votes, strict=True)},
            "files": [],
        }

"""A trained classifier of slides as a bundle: its weights, and a card with data, split, figures and limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pathology.bundle.card import CARD_NAME, WEIGHTS_NAME, Card, Metric, Normalisation, TrainingData, write_card
from pathology.bundle.domain import write_domain
from pathology.bundle.learned_aggregator import write_aggregator
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import write_state_dict
from pathology.errors import BundleError
from pathology.evaluation.classifier import Evaluation
from pathology.evaluation.labels import LabelledSlides
from pathology.stats.conformal import Coverage
from pathology.stats.intervals import Interval
from pathology.training.classifier.calibrate import TrustFit
from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["BundleDescription", "evaluation_metrics", "interval_metric", "trust_metrics", "write_slide_bundle"]


@dataclass(frozen=True)
class BundleDescription:
    """What only the people who train can say.

    Attributes
    ----------
    title
        One line for people.
    data_name, data_source, data_licence
        What the slides are called, where they are from, and their licence.
    licence
        Of the weights.
    reference
        The publication whose method it follows.
    command
        What made it.
    """

    title: str
    data_name: str
    data_source: str
    data_licence: str
    licence: str
    reference: str
    command: str


def interval_metric(metric: str, interval: Interval, *, unit: str, data: str, note: str = "") -> Metric:
    """Turn a figure into the card's form; one without an interval loses its value and says why."""
    if not all(map(math.isfinite, (interval.value, interval.low, interval.high))):
        value = "it is not defined" if not math.isfinite(interval.value) else f"it is {interval.value:.3f}"
        reason = f"No interval can be given ({interval.method}); {value} on these {unit}."
        return Metric(
            metric=metric,
            value=None,
            interval=None,
            method=interval.method,
            n=interval.n,
            unit=unit,
            data=data,
            note=f"{note} {reason}".strip(),
        )
    if interval.low == interval.high:
        note = f"{note} The interval has no width because no resample differs; that is not certainty.".strip()
    return Metric(
        metric=metric,
        value=round(interval.value, 4),
        interval=(round(interval.low, 4), round(interval.high, 4)),
        method=interval.method,
        n=interval.n,
        unit=unit,
        data=data,
        note=note,
    )


def evaluation_metrics(evaluation: Evaluation, who: str, *, rules: Sequence[str] = ("mean", "share")) -> list[Metric]:
    """Return the figures of an evaluation that belong on a card: by slide and patient, by each rule, by class."""
    metrics: list[Metric] = []
    for rule in rules:
        for level in ("patient", "slide"):
            found = evaluation.at(level, rule).report
            what = f"by {level}, {rule} of patches ({who})"
            for name, interval in (
                ("accuracy", found.accuracy),
                ("balanced accuracy", found.balanced_accuracy),
                ("mean area under the ROC curve", found.macro_auc),
            ):
                metrics.append(
                    interval_metric(f"{name} {what}", interval, unit=_units(interval, level), data=evaluation.data)
                )
            if level == "slide":
                metrics += [
                    interval_metric(
                        f"area under the ROC curve, {name} against the rest, {what}",
                        interval,
                        unit=_units(interval, level),
                        data=evaluation.data,
                        note=f"{found.support[name]} of {found.rows} slides are of this class.",
                    )
                    for name, interval in found.auc.items()
                ]
    return metrics


def _units(interval: Interval, level: str) -> str:
    """What n counts: a bootstrap by patient counts patients, whatever the rows are."""
    return "patients" if "by patient" in interval.method else f"{level}s"


def trust_metrics(
    covered: Coverage | None, alarms: Interval | None, data: str, *, coverage: float, rate: float
) -> list[Metric]:
    """Return how often prediction sets held the truth and how often a test slide counted as outside the domain."""
    metrics = []
    if covered is not None:
        metrics.append(
            Metric(
                metric=f"share of patients whose prediction set holds the truth (stated: {coverage:.0%})",
                value=round(covered.share, 4),
                interval=(round(covered.interval[0], 4), round(covered.interval[1], 4)),
                method="Wilson",
                n=covered.n,
                unit="patients",
                data=data,
                note=f"One slide a patient. Mean size {covered.mean_size:.2f}; one class {covered.single:.0%}.",
            )
        )
    if alarms is not None:
        metrics.append(
            interval_metric(
                f"share of slides called outside the domain (stated: at most {rate:.0%})",
                alarms,
                unit="slides",
                data=data,
            )
        )
    return metrics


def write_slide_bundle(
    folder: Path,
    network: nn.Module,
    recipe: SlideRecipe,
    labelled: LabelledSlides,
    *,
    system_id: str,
    description: BundleDescription,
    start: str,
    split: str,
    metrics: Sequence[Metric],
    trust: TrustFit,
    calibration: dict[str, Any],
    used: Sequence[int],
    learned: tuple[str, nn.Module] | None = None,
) -> Card:
    """Write weights, domain and card, and check the bundle whole.

    Parameters
    ----------
    folder
        The bundle's folder; its name is the bundle's.
    network
        Trained.
    recipe
        Its training.
    labelled
        The slides.
    system_id
        Which published system.
    description
        What only people can say.
    start
        What the training started from.
    split
        How slides were kept apart.
    figures
        Measured figures, the baseline's beside the model's.
    trust
        Fitted on calibration patients.
    calibration
        Further fitted numbers beside the temperature, such as thresholds and cut-offs.
    used
        Rows of the slides that shaped the weights or what is fitted.
    learned
        Name and network of a learned aggregator.

    Raises
    ------
    BundleError
        If the bundle does not pass its own check.
    """
    assert recipe.mpp is not None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_NAME).unlink(missing_ok=True)  # until everything is new, the folder is no bundle
    digest = write_state_dict(network.state_dict(), folder / WEIGHTS_NAME, half=False)
    domain = trust.trust.out_of_domain
    assert domain is not None
    domain = domain.model_copy(update={"sha256": write_domain(trust.domain, folder)})
    aggregators = (
        ()
        if learned is None
        else (
            write_aggregator(
                learned[1],
                folder,
                learned[0],
                training="Features of the same training slides; the validation patients chose its epoch. Its figures"
                " are those of 'model' on this card.",
            ),
        )
    )
    slides = [labelled.slides[row] for row in used]
    counts = ", ".join(
        f"{name}: {sum(s.label == c for s in slides)} slides of "
        f"{len({s.patient_id for s in slides if s.label == c})} patients"
        for c, name in enumerate(labelled.classes)
    )
    card = Card(
        name=folder.name,
        version="1.0.0",
        title=description.title,
        architecture=recipe.architecture,
        architecture_options=recipe.architecture_options,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        classes=labelled.classes,
        mpp=recipe.mpp,
        patch=recipe.patch,
        stride=recipe.stride,
        normalisation=Normalisation(mean=recipe.mean, std=recipe.std),
        stain=recipe.stain,
        weights_sha256=digest,
        initialisation=start,
        training_data=(
            TrainingData(
                name=description.data_name,
                source=description.data_source,
                licence=description.data_licence,
                patients=len({slide.patient_id for slide in slides}),
                images=len(slides),
                used_for=f"training, choice of the epoch, calibration ({counts})",
            ),
        ),
        split=split,
        metrics=tuple(metrics),
        calibration={"temperature": trust.temperature.temperature, **calibration},
        trust=trust.trust.model_copy(update={"out_of_domain": domain}),
        aggregators=aggregators,
        intended_use="Research use only. Not for decisions about a patient.",
        limits=(
            f"Knows {', '.join(labelled.classes)} and nothing else: any other tissue is given to one of these, unless"
            " it is recognised as outside the domain.",
            "Every patch of a slide was taught the slide's label, so patches of stroma or necrosis carry it too"
            " unless regions were given.",
            "Measured on slides of the same source as the training's; another hospital's scanner and stain are unknown"
            " to it until evaluated.",
            f"At least {recipe.min_tissue:.0%} of each patch was tissue in training; score with the same --min-tissue.",
        ),
        licence=description.licence,
        reference=f"{description.reference} ({system_id}); reimplementation on other data, not the authors' model",
        made_by=description.command,
    )
    write_card(card, folder / CARD_NAME)
    for check in verify_bundle(folder):
        if check.error is not None:
            raise BundleError(f"the bundle does not pass its own check ({check.what}: {check.error})", where=folder)
    return card

"""Write a trained slide classifier as a bundle: weights, and a card with data, split, metrics and limits."""

from __future__ import annotations

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
from pathology.stats.intervals import Interval
from pathology.training.classifier.calibrate import TrustFit
from pathology.training.classifier.recipe import SlideRecipe
from pathology.training.common.card_metrics import interval_metric

__all__ = ["BundleDescription", "evaluation_metrics", "write_slide_bundle"]


@dataclass(frozen=True)
class BundleDescription:
    """Card entries that only the user can provide.

    Attributes
    ----------
    title
        Title, one line.
    data_name, data_source, data_licence
        Name, source and licence of the data set.
    licence
        Licence of the weights.
    reference
        Publication of the method.
    command
        Training command.
    """

    title: str
    data_name: str
    data_source: str
    data_licence: str
    licence: str
    reference: str
    command: str


def evaluation_metrics(evaluation: Evaluation, who: str, *, rules: Sequence[str] = ("mean", "share")) -> list[Metric]:
    """Return the card metrics of an evaluation: by slide and patient, aggregation rule and class."""
    metrics: list[Metric] = []
    for rule in rules:
        for level in ("patient", "slide"):
            found = evaluation.at(level, rule).report
            what = f"by {level}, {rule} of patches ({who})"
            for name, interval in (
                ("accuracy", found.accuracy),
                ("balanced accuracy", found.balanced_accuracy),
                ("mean AUC", found.macro_auc),
            ):
                metrics.append(
                    interval_metric(f"{name} {what}", interval, unit=_units(interval, level), data=evaluation.data)
                )
            if level == "slide":
                metrics += [
                    interval_metric(
                        f"AUC, {name} vs rest, {what}",
                        interval,
                        unit=_units(interval, level),
                        data=evaluation.data,
                        note=f"{found.support[name]} of {found.rows} slides are of this class.",
                    )
                    for name, interval in found.auc.items()
                ]
    return metrics


def _units(interval: Interval, level: str) -> str:
    """Unit of n: patients for a patient-level bootstrap, whatever the rows are."""
    return "patients" if "by patient" in interval.method else f"{level}s"


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
    """Write weights, feature domain and card, and verify the bundle.

    Parameters
    ----------
    folder
        Bundle folder; its name is the bundle name.
    network
        Trained.
    recipe
        Training recipe.
    labelled
        All labelled slides.
    system_id
        Published system ID.
    description
        Card entries provided by the user.
    start
        Initial weights.
    split
        Description of the split.
    figures
        Metrics of the model and the baseline.
    trust
        Calibration, prediction sets and out-of-distribution limit, fitted on the calibration patients.
    calibration
        Other fitted parameters, such as thresholds and cut-offs.
    used
        Rows of the slides used for training, selection or calibration.
    learned
        Name and network of a trained aggregator.

    Raises
    ------
    BundleError
        If the bundle fails verification.
    """
    assert recipe.mpp is not None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_NAME).unlink(missing_ok=True)  # an incomplete folder must not pass as a bundle
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
                training="Features of the same training slides; epoch selected on the validation patients. Its metrics"
                " are labelled 'model' on this card.",
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
                used_for=f"training, epoch selection, calibration ({counts})",
            ),
        ),
        split=split,
        metrics=tuple(metrics),
        calibration={"temperature": trust.temperature.temperature, **calibration},
        trust=trust.trust.model_copy(update={"out_of_domain": domain}),
        aggregators=aggregators,
        intended_use="Research use only. Not for decisions about a patient.",
        limits=(
            f"Distinguishes only {', '.join(labelled.classes)}: any other tissue is assigned to one of these unless"
            " it is flagged out of distribution.",
            "Every patch was trained with the label of its slide, including stroma and necrosis,"
            " unless regions were given.",
            "Evaluated on slides from the same source as the training data; performance on other scanners and stains is"
            " unknown.",
            f"Minimum tissue fraction of the training patches: {recipe.min_tissue:.0%}; score with the same.",
        ),
        licence=description.licence,
        reference=f"{description.reference} ({system_id}); reimplementation on other data, not the authors' model",
        made_by=description.command,
    )
    write_card(card, folder / CARD_NAME)
    for check in verify_bundle(folder):
        if check.error is not None:
            raise BundleError(f"the bundle fails verification ({check.what}: {check.error})", where=folder)
    return card

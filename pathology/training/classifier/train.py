"""From slides and a label table to an evaluated bundle: the implementation of ``pathology train``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pathology._version import __version__
from pathology.atomic_files import write_text
from pathology.bundle.card import Card
from pathology.bundle.export import EVALUATION_NAME
from pathology.configuration import CONFIG_NAME, write_config
from pathology.errors import UsageError
from pathology.evaluation.classifier import Evaluation, SlidePrediction, evaluate_slides, fit_thresholds, slide_scores
from pathology.evaluation.labels import LabelledSlides, read_labels
from pathology.evaluation.report import evaluation_pictures, metrics_section, write_evaluation_report
from pathology.networks.registry import build_network
from pathology.progress import Progress
from pathology.scoring.select import lasting_source, select_slides
from pathology.stats.bootstrap import bootstrap
from pathology.stats.classification import classification_report, score_by_patient
from pathology.stats.conformal import coverage, one_per_patient, prediction_sets
from pathology.stats.intervals import Interval, wilson
from pathology.stats.out_of_distribution import slide_score
from pathology.stats.splits import SplitAudit, grouped_k_fold
from pathology.survival.groups import RiskGroups
from pathology.training.classifier.bundle import (
    BundleDescription,
    evaluation_metrics,
    write_slide_bundle,
)
from pathology.training.classifier.calibrate import SplitNetwork, TrustFit, fit_trust
from pathology.training.classifier.colour_baseline import colour_baseline, slide_colours
from pathology.training.classifier.fit import FitProgress, FittedClassifier, fit_slides
from pathology.training.classifier.patches import SlidePatches, prepare_patches, slide_fingerprints
from pathology.training.classifier.recipe import SlideRecipe
from pathology.training.classifier.settings import TrainSettings
from pathology.training.classifier.split import DEFAULT_SHARES, audit_sets, split_slides
from pathology.training.common.aggregator import FittedAggregator, MilSettings, bag_probabilities, fit_aggregator
from pathology.training.common.card_metrics import auc_by_fold, interval_metric, trust_metrics
from pathology.training.common.checkpoint import Checkpoint
from pathology.training.common.distributed import Distributed
from pathology.training.common.initialisation import InitialWeights, resolve_start

__all__ = ["Plan", "TrainedClassifier", "TrainingProgress", "plan_training", "train_classifier"]

Rows = NDArray[np.int64]

_NAME = re.compile(r"^[a-z0-9][a-z0-9-]*$")
_WORK = "training"
"""Subfolder of the bundle for patches and checkpoints."""


class TrainingProgress(FitProgress, Protocol):
    """Callbacks on training and tiling progress."""

    @property
    def tiling(self) -> Progress:
        """Callbacks on tiling progress."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A training with validated inputs.

    Attributes
    ----------
    settings
        Training settings, with the complete recipe and the classes.
    recipe
        Recipe, with the user's overrides.
    labelled
        The slides.
    sets
        Rows per set of the final training.
    folds
        Rows per set of each outer cross-validation fold; empty without cross-validation.
    audit
        Leakage audit of the sets.
    start
        Initial weights.
    fingerprints
        Fingerprints of the slides.
    """

    settings: TrainSettings
    recipe: SlideRecipe
    labelled: LabelledSlides
    sets: Mapping[str, Rows]
    folds: tuple[Mapping[str, Rows], ...]
    audit: SplitAudit
    start: InitialWeights
    fingerprints: tuple[str, ...]

    @property
    def seed(self) -> int:
        """Seed of everything."""
        return self.settings.seed

    def identity(self, rows: Mapping[str, Rows]) -> str:
        """Return a hash of all inputs that determine a fit."""
        content = {
            # Calibration settings do not affect the trained network.
            "recipe": self.recipe.model_dump(mode="json", exclude={"aggregator"}),
            "classes": self.labelled.classes,
            "start": self.start.digest,
            "seed": self.seed,
            "sets": {
                name: sorted(f"{self.fingerprints[row]}:{self.labelled.slides[row].label}" for row in rows[name])
                for name in ("train", "validation")
            },
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """Result of a training.

    Attributes
    ----------
    folder
        Bundle folder.
    card
        Model card.
    evaluation
        Metrics on the test slides.
    fitted
        Network and training history.
    """

    folder: Path
    card: Card
    evaluation: Evaluation
    fitted: FittedClassifier


def plan_training(
    settings: TrainSettings,
    recipe: SlideRecipe,
    classes: Sequence[str],
    out: Path,
    *,
    shares: Mapping[str, float] = DEFAULT_SHARES,
) -> Plan:
    """Validate all inputs before any work starts.

    Parameters
    ----------
    settings
        Training settings.
    recipe, classes
        The system's recipe and classes, with the user's overrides.
    out
        Bundle folder; its name is the bundle name.
    shares
        Fraction of patients per set; with folds, ``test`` is the held-out fold.

    Raises
    ------
    UsageError, InputTableError, LeakageError
        If an input is invalid.
    """
    if not _NAME.match(out.name):
        raise UsageError(
            f"{out.name!r} is not a valid bundle name", where=out, remedy="Use lower-case letters, digits and hyphens"
        )
    if recipe.mpp is None:
        raise UsageError(
            f"the patch resolution of {settings.system} is not published",
            remedy="Pass --target-mpp in micrometres per pixel, such as 0.5",
        )
    folds, keep_sites, seed = settings.folds, settings.keep_sites, settings.seed
    if folds == 1:
        raise UsageError(f"folds: expected 0 or at least 2, got {folds}")
    inner = {name: share for name, share in shares.items() if name != "test" or not folds}
    labelled = read_labels(
        settings.labels, select_slides(settings.slides), classes, patients_per_class=_fewest(len(inner), folds)
    )
    beginning = resolve_start(settings.init, recipe.architecture)
    beginning.load(_network(recipe, len(labelled.classes)))
    fingerprints = slide_fingerprints(labelled)
    sets = split_slides(labelled, shares=inner, seed=seed, keep_sites=keep_sites)
    audit = audit_sets(labelled, sets, fingerprints=fingerprints, keep_sites=keep_sites)
    outer: list[Mapping[str, Rows]] = []
    if folds:
        sites = [slide.site or "" for slide in labelled.slides] if keep_sites else None
        for fold in grouped_k_fold(labelled.patients, labelled.labels, k=folds, seed=seed, sites=sites):
            parts = split_slides(labelled, shares=inner, seed=seed, keep_sites=keep_sites, among=fold.train)
            parts["test"] = fold.test
            audit_sets(labelled, parts, fingerprints=fingerprints, keep_sites=keep_sites)
            outer.append(parts)
    used = settings.model_copy(update={"recipe": recipe.model_dump(mode="json"), "classes": tuple(classes)})
    return Plan(used, recipe, labelled, sets, tuple(outer), audit, beginning, tuple(fingerprints))


def _fewest(sets: int, folds: int) -> int:
    """Minimum number of patients per class: one per set, in every fold."""
    if not folds:
        return sets
    return next(n for n in range(folds, 10 * folds + 10 * sets) if n - -(-n // folds) >= sets)


def _network(recipe: SlideRecipe, classes: int) -> nn.Module:
    return build_network(recipe.architecture, classes, **recipe.architecture_options)


def train_classifier(
    plan: Plan,
    out: Path,
    description: BundleDescription,
    ranks: Distributed,
    progress: TrainingProgress,
    *,
    loaders: int = 0,
) -> TrainedClassifier | None:
    """Train, calibrate, evaluate and write the bundle; repeat the call to resume.

    Parameters
    ----------
    plan
        From :func:`plan_training`.
    out
        The bundle's folder.
    description
        Card entries provided by the user.
    ranks
        Rank of this process in distributed training; only the first writes files.
    progress
        Progress callbacks.
    loaders
        Data loader processes per training process.

    Returns
    -------
    TrainedClassifier or None
        ``None`` in all processes except the first.
    """
    work = out / _WORK
    if ranks.first:
        _describe(plan, progress)
        if not (out / CONFIG_NAME).exists():  # what began this training is not replaced until it has ended
            _write_settings(plan.settings, out)
    patches = ranks.made_by_first(
        lambda: prepare_patches(
            plan.labelled,
            plan.recipe,
            work / "patches",
            pixels=plan.settings.pixels,
            mpp=plan.settings.mpp,
            seed=plan.seed,
            workers=plan.settings.workers,
            progress=progress.tiling,
        )
    )
    run = _Run(plan, patches, work, ranks, progress, loaders)
    held_out = [run.fit_and_predict(f"fold-{i + 1}", sets) for i, sets in enumerate(plan.folds)]
    fitted, start = run.fit("final", plan.sets)
    if not ranks.first:
        return None
    return run.finish(out, description, fitted, start, held_out)


def _write_settings(settings: TrainSettings, out: Path) -> None:
    """Write the settings beside the bundle, meaning the same in any working directory."""
    start = Path(settings.init)
    everywhere = settings.model_copy(
        update={
            "slides": tuple(lasting_source(source) for source in settings.slides),
            "labels": settings.labels.absolute(),
            "init": str(start.absolute()) if start.exists() else settings.init,
        }
    )
    write_config(out / CONFIG_NAME, everywhere, f"pathology train --config {CONFIG_NAME} --out OTHER")


def _describe(plan: Plan, progress: TrainingProgress) -> None:
    for name, rows in plan.sets.items():
        patients = len({plan.labelled.slides[row].patient_id for row in rows})
        progress.say(f"{name}: {len(rows)} slides from {patients} patients")
    if plan.labelled.unlabelled:
        progress.say(f"{len(plan.labelled.unlabelled)} slides without a label are excluded")
    progress.say(f"no {', '.join(plan.audit.checked)} in two sets; initial weights: {plan.start.description}")


@dataclass(frozen=True, eq=False)
class _Calibrated:
    """A trained network with its calibration."""

    split: SplitNetwork
    trust: TrustFit
    learned: FittedAggregator | None

    @property
    def rule(self) -> str:
        """Slide aggregation, a name of :func:`slide_scores`."""
        return self.trust.trust.aggregator if self.learned is None else "model"


class _Run:
    """Executes a training plan."""

    def __init__(
        self,
        plan: Plan,
        patches: SlidePatches,
        work: Path,
        ranks: Distributed,
        progress: TrainingProgress,
        loaders: int,
    ) -> None:
        self.plan, self.patches, self.work = plan, patches, work
        self.ranks, self.progress, self.loaders = ranks, progress, loaders
        self.labels = np.array(plan.labelled.labels)

    def fit(self, name: str, sets: Mapping[str, Rows]) -> tuple[FittedClassifier, str]:
        """Train one network, or resume it."""
        self.progress.say(f"{name}: training")
        torch.manual_seed(self.plan.seed)
        network = _network(self.plan.recipe, len(self.plan.labelled.classes))
        start = self.plan.start.load(network)
        fitted = fit_slides(
            network,
            self.patches,
            sets["train"],
            sets["validation"],
            self.plan.recipe,
            ranks=self.ranks,
            checkpoint=Checkpoint(self.work / name, self.plan.identity(sets)),
            seed=self.plan.seed,
            loaders=self.loaders,
            progress=self.progress,
        )
        return fitted, start

    def calibrate(self, fitted: FittedClassifier, sets: Mapping[str, Rows]) -> _Calibrated:
        """Train the aggregator, if it is a network, and fit the calibration."""
        split = SplitNetwork(
            fitted.network.to(self.ranks.device), self.patches, self.plan.recipe, self.ranks.device, self.loaders
        )
        name = self.plan.recipe.aggregator
        learned = None
        if name == "attention" or name == "transformer":
            self.progress.say(f"{name}: training on the features of {len(sets['train'])} slides")
            train, validation = (
                [features for _, _, features in split.slides(sets[s])] for s in ("train", "validation")
            )
            learned = fit_aggregator(
                train,
                self.labels[sets["train"]].tolist(),
                len(self.plan.labelled.classes),
                MilSettings(kind=name),
                validation=(validation, self.labels[sets["validation"]].tolist()),
                device=str(self.ranks.device),
                seed=self.plan.seed,
            )
            self.progress.say(
                f"{name}: epoch {learned.best_epoch + 1} of {len(learned.losses)} selected, loss "
                f"{learned.losses[learned.best_epoch]:.4f}, validation loss "
                f"{learned.validation_losses[learned.best_epoch]:.4f}"
            )
        trust = fit_trust(
            split,
            self.patches,
            sets["train"],
            sets["calibration"],
            aggregator=name,
            learned=None if learned is None else learned.network,
            seed=self.plan.seed,
        )
        return _Calibrated(split, trust, learned)

    def predict(self, model: _Calibrated, rows: Rows) -> tuple[list[SlidePrediction], list[float]]:
        """Return predictions and out-of-distribution scores of the given slides."""
        predictions, scores = [], []
        for row, logits, features in model.split.slides(rows):
            slide = self.plan.labelled.slides[row]
            predictions.append(
                SlidePrediction(
                    slide.slide_id,
                    slide.patient_id,
                    slide.label,
                    logits.probabilities(model.trust.temperature.temperature),
                    None if model.learned is None else bag_probabilities(model.learned.network, [features])[0],
                )
            )
            scores.append(slide_score(model.trust.domain.scores(features)))
        return predictions, scores

    def fit_and_predict(self, name: str, sets: Mapping[str, Rows]) -> list[SlidePrediction]:
        """Run one outer fold: train, calibrate and predict the held-out slides."""
        fitted, _ = self.fit(name, sets)
        if not self.ranks.first:
            return []
        return self.predict(self.calibrate(fitted, sets), sets["test"])[0]

    # -- metrics and bundle ----------------------------------------------------------------------------------------

    def finish(
        self,
        out: Path,
        description: BundleDescription,
        fitted: FittedClassifier,
        start: str,
        held_out: Sequence[Sequence[SlidePrediction]],
    ) -> TrainedClassifier:
        """Calibrate, evaluate and write the bundle."""
        plan, sets, classes = self.plan, self.plan.sets, self.plan.labelled.classes
        model = self.calibrate(fitted, sets)
        trust, rule = model.trust, model.rule
        thresholds = fit_thresholds(trust.predictions, classes, rule)
        calibration: dict[str, Any] = {"thresholds": thresholds}
        if len(classes) == 2 and (groups := self._risk_groups(model)) is not None:
            calibration["risk_groups"] = groups.model_dump(mode="json")
        rules = ("mean", "share", *(["model"] if model.learned is not None else []))
        if held_out:
            predictions = [prediction for fold in held_out for prediction in fold]
            data = (
                f"{description.data_name}, {len(held_out)}-fold patient-level cross-validation, each slide tested once;"
                " epoch, temperature and thresholds of each fold fitted on its training patients"
            )
            evaluation = evaluate_slides(predictions, classes, name="internal", data=data)
            metrics = self._fold_metrics(held_out, rule, data) + evaluation_metrics(evaluation, "network", rules=rules)
            beside = self._baseline_figures([self._baseline(parts) for parts in plan.folds], data)
        else:
            predictions, scores = self.predict(model, sets["test"])
            data = f"{description.data_name}, test patients, not used for training, selection or calibration"
            evaluation = evaluate_slides(
                predictions, classes, name="internal", data=data, thresholds=thresholds, threshold_rule=rule
            )
            metrics = evaluation_metrics(evaluation, "network", rules=rules)
            beside = self._baseline_figures([self._baseline(sets)], data)
            beside += self._trust_figures(predictions, scores, model, data)
        used = np.concatenate([sets[name] for name in sets if name != "test"])
        card = write_slide_bundle(
            out,
            fitted.network.cpu(),
            plan.recipe,
            plan.labelled,
            system_id=plan.settings.system,
            description=description,
            start=start,
            split=self._split_description(held_out),
            metrics=metrics + beside,
            trust=trust,
            calibration=calibration,
            used=used.tolist(),
            learned=None if model.learned is None else (plan.recipe.aggregator, model.learned.network),
        )
        self._record(out, evaluation, fitted, start)
        _write_settings(plan.settings, out)
        write_text(out / "predictions.csv", _predictions(predictions, classes))
        write_evaluation_report(
            out / "report.html",
            description.title,
            [evaluation],
            evaluation_pictures(
                out / "pictures",
                evaluation,
                predictions,
                rule=rule,
                temperature=None if held_out else trust.temperature.temperature,
            ),
            rule=rule,
            history=fitted.history,
            extra=[metrics_section("Colour baseline, prediction sets and out-of-distribution detection", beside)],
        )
        return TrainedClassifier(out, card, evaluation, fitted)

    def _risk_groups(self, model: _Calibrated) -> RiskGroups | None:
        """Dichotomise the probability of the second class at the median of patients not used for training."""
        rows = np.concatenate([self.plan.sets["validation"], self.plan.sets["calibration"]])
        predictions, _ = self.predict(model, rows)
        risk = score_by_patient(slide_scores(predictions, model.rule)[:, 1], [f.patient_id for f in predictions])[1]
        if len(np.unique(risk)) < 2:
            self.progress.say("no risk cut-off: all development patients have the same risk")
            return None
        return RiskGroups.cut(risk)

    def _baseline(self, sets: Mapping[str, Rows]) -> tuple[Rows, NDArray[np.float64]]:
        colours = slide_colours(self.patches, seed=self.plan.seed)
        classes = len(self.plan.labelled.classes)
        return sets["test"], colour_baseline(colours, self.labels, classes, sets["train"], sets["test"])

    def _baseline_figures(self, parts: Sequence[tuple[Rows, NDArray[np.float64]]], data: str) -> list[Any]:
        rows = np.concatenate([rows for rows, _ in parts])
        scores = np.concatenate([scores for _, scores in parts])
        report = classification_report(
            self.labels[rows],
            scores,
            self.plan.labelled.classes,
            patients=[self.plan.labelled.slides[row].patient_id for row in rows],
        )
        what = "by slide (colour baseline: logistic regression on patch colours)"
        return [
            interval_metric(f"balanced accuracy {what}", report.balanced_accuracy, unit="patients", data=data),
            interval_metric(f"mean AUC {what}", report.macro_auc, unit="patients", data=data),
        ]

    def _fold_metrics(self, held_out: Sequence[Sequence[SlidePrediction]], rule: str, data: str) -> list[Any]:
        """AUC within each fold, averaged: scores of different networks are not comparable."""
        predictions = [prediction for fold in held_out for prediction in fold]
        fold_of = np.repeat(np.arange(len(held_out)), [len(fold) for fold in held_out])
        truth = np.array([prediction.label for prediction in predictions])
        scores = slide_scores(predictions, rule)

        owners = [prediction.patient_id for prediction in predictions]
        interval: Interval = bootstrap(auc_by_fold(truth, scores, fold_of), owners, strata=fold_of, resamples=1000)
        return [
            interval_metric(
                "mean AUC by slide, mean over folds (network)",
                interval,
                unit="patients",
                data=data,
                note="AUC is computed within each fold, because scores of different networks are not comparable.",
            )
        ]

    def _trust_figures(
        self, predictions: Sequence[SlidePrediction], scores: Sequence[float], model: _Calibrated, data: str
    ) -> list[Any]:
        rule, domain = model.trust.trust.conformal, model.trust.trust.out_of_domain
        assert rule is not None
        assert domain is not None
        chosen = one_per_patient([prediction.patient_id for prediction in predictions], seed=self.plan.seed)
        answers = slide_scores(predictions, model.rule)[chosen]
        truth = [predictions[row].label for row in chosen]
        alarms = None
        if domain.limit is not None:
            alarms = wilson(sum(score > domain.limit for score in scores), len(scores))
        return trust_metrics(
            coverage(prediction_sets(answers, rule), truth),
            alarms,
            data,
            coverage=rule.coverage,
            rate=domain.false_alarm,
        )

    def _split_description(self, held_out: Sequence[object]) -> str:
        parts = []
        for name, rows in self.plan.sets.items():
            patients = len({self.plan.labelled.slides[row].patient_id for row in rows})
            parts.append(f"{name} {len(rows)} slides from {patients} patients")
        how = (
            f"Metrics from {len(held_out)}-fold patient-level cross-validation; the weights are from a final run on"
            " all patients with the same recipe."
            if held_out
            else "Metrics on the test patients."
        )
        return (
            f"By patient: {', '.join(parts)} (seed {self.plan.seed}). Audited: no {', '.join(self.plan.audit.checked)}"
            " in two sets. Epoch selected on the validation patients; temperature, prediction sets, out-of-distribution"
            f" limit and thresholds fitted on the calibration patients. {how}"
        )

    def _record(self, out: Path, evaluation: Evaluation, fitted: FittedClassifier, start: str) -> None:
        """Write metrics and training history, without slide or patient identifiers."""
        seconds = sum(record.seconds for record in fitted.history)
        record = {
            "system": self.plan.settings.system,
            "program": f"pathology {__version__}",
            "torch": torch.__version__,
            "device": str(self.ranks.device),
            "processes": self.ranks.world,
            "precision": fitted.precision,
            "seed": self.plan.seed,
            "start": start,
            "recipe": self.plan.recipe.model_dump(mode="json"),
            "class_weights": fitted.class_weights,
            "lowest_rates": fitted.lowest_rates,
            "waiting_for_patches": sum(r.waiting * r.seconds for r in fitted.history) / max(seconds, 1e-9),
            "patches_per_second": float(np.median([r.patches_per_second for r in fitted.history])),
            "history": [r.model_dump(mode="json") for r in fitted.history],
            "internal": evaluation.model_dump(mode="json"),
            "research_use_only": True,
        }
        write_text(out / EVALUATION_NAME, json.dumps(record, indent=1))


def _predictions(predictions: Sequence[SlidePrediction], classes: Sequence[str]) -> str:
    """Return one row per test slide, for the user; not part of an exported bundle."""
    from pathology.findings.aggregation import RULES

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["slide_id", "patient_id", "label", "patches", *(f"{r}_{c}" for r in ("mean", "share") for c in classes)]
    )
    for prediction in predictions:
        numbers = [f"{p:.6f}" for rule in ("mean", "share") for p in RULES[rule](prediction.patches)]
        table.writerow(
            [prediction.slide_id, prediction.patient_id, classes[prediction.label], len(prediction.patches), *numbers]
        )
    return text.getvalue()

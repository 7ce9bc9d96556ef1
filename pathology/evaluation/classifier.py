"""Classifier metrics on labelled slides: by patch, slide and patient, by aggregation rule, with n and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.findings.aggregation import RULES
from pathology.settings import Record
from pathology.stats.classification import (
    ClassificationReport,
    area_under_precision_recall,
    classification_report,
    optimal_threshold,
    score_by_patient,
)
from pathology.stats.intervals import Interval, wilson

__all__ = ["Evaluation", "Level", "LevelReport", "SlidePrediction", "evaluate_slides", "fit_thresholds", "slide_scores"]

Floats = NDArray[np.float64]
Level = Literal["patch", "slide", "patient"]

_PATCH_RESAMPLES = 200
"""Bootstrap resamples at patch level: thousands of rows, but the interval depends on the number of patients."""


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """Predictions for one labelled slide.

    Attributes
    ----------
    slide_id, patient_id
        Slide and patient.
    label
        Class index.
    patches
        ``(n, C)`` patch probabilities; NaN rows could not be read.
    answer
        ``(C,)`` slide probabilities of the model's own aggregator; ``None``: only the patch aggregation rules are
        reported.
    """

    slide_id: str
    patient_id: str
    label: int
    patches: NDArray[np.floating]
    answer: Floats | None = None


class LevelReport(Record):
    """Metrics at one level for one aggregation rule."""

    level: Level
    rule: str
    """Name in :data:`pathology.findings.aggregation.RULES`; ``model``: the model's own aggregator; ``none`` for
    patches."""
    report: ClassificationReport
    average_precision: dict[str, Interval]
    """Average precision, one-vs-rest; chance level is the class prevalence."""
    sensitivity: dict[str, Interval] = Field(default_factory=dict)
    """One-vs-rest, at the given thresholds."""
    specificity: dict[str, Interval] = Field(default_factory=dict)
    """Likewise."""


class Evaluation(Record):
    """All metrics on one set of slides."""

    name: str
    """``internal``, ``external`` or a user-defined name."""
    data: str
    """Description of the slides."""
    classes: tuple[str, ...]
    slides: int
    patients: int
    patches: int
    not_scored: int = 0
    """Labelled slides that could not be scored and are in no metric."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Slide probability threshold per class, fitted on other slides; empty if not fitted."""
    levels: tuple[LevelReport, ...]

    def at(self, level: Level, rule: str) -> LevelReport:
        """Return the metrics at a level for an aggregation rule.

        Raises
        ------
        UsageError
            If they are not available.
        """
        for report in self.levels:
            if (report.level, report.rule) == (level, rule):
                return report
        raise UsageError(f"no metrics by {level} for the rule '{rule}'")


def slide_scores(predictions: Sequence[SlidePrediction], rule: str) -> Floats:
    """Return ``(S, C)`` slide probabilities by a rule, or by the model's own aggregator (``model``)."""
    if rule == "model":
        return np.stack([np.asarray(f.answer, np.float64) for f in predictions])
    return np.stack([RULES[rule](f.patches) for f in predictions])


def fit_thresholds(
    predictions: Sequence[SlidePrediction], classes: Sequence[str], rule: str = "mean"
) -> dict[str, float]:
    """Choose for each class the slide probability whose point on the ROC curve is nearest to (0, 1).

    Parameters
    ----------
    predictions
        Calibration slides, never the test slides.
    classes
        Class names.
    rule
        How patches become a slide.
    """
    truth, scores = np.array([f.label for f in predictions]), slide_scores(predictions, rule)
    return {
        name: optimal_threshold(truth == c, scores[:, c])
        for c, name in enumerate(classes)
        if 0 < (truth == c).sum() < len(truth)
    }


def evaluate_slides(
    predictions: Sequence[SlidePrediction],
    classes: Sequence[str],
    *,
    name: str,
    data: str,
    thresholds: Mapping[str, float] | None = None,
    threshold_rule: str = "mean",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a classifier.

    Parameters
    ----------
    predictions
        Labelled slides that were used neither for training nor for model selection.
    classes
        Class names.
    name, data
        Name of the evaluation and description of the slides.
    thresholds
        Slide probability threshold per class, fitted on other slides, for sensitivity and specificity.
    threshold_rule
        Aggregation rule of the thresholds.
    resamples, seed
        Patient-level bootstrap.

    Raises
    ------
    UsageError
        If there are no slides.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> odds = [[4, 1], [1, 4]]
    >>> found = [SlidePrediction(f"S{i}", f"P{i}", i % 2, rng.dirichlet(odds[i % 2], 20)) for i in range(8)]
    >>> evaluation = evaluate_slides(found, ("stroma", "tumour"), name="test", data="constructed", resamples=100)
    >>> evaluation.slides, evaluation.patches
    (8, 160)
    """
    if not predictions:
        raise UsageError("there are no slides to evaluate on")
    truth = np.array([f.label for f in predictions])
    owners = [f.patient_id for f in predictions]
    readable = [np.asarray(f.patches)[~np.isnan(f.patches).any(axis=1)] for f in predictions]
    lengths = [len(p) for p in readable]
    levels = [
        _level(
            "patch",
            "none",
            np.repeat(truth, lengths),
            np.concatenate(readable).astype(np.float64),
            classes,
            [owner for owner, n in zip(owners, lengths, strict=True) for _ in range(n)],
            min(resamples, _PATCH_RESAMPLES),
            seed,
        )
    ]
    rules = [*RULES, *(["model"] if all(f.answer is not None for f in predictions) else [])]
    for rule in rules:
        scores = slide_scores(predictions, rule)
        slide = _level("slide", rule, truth, scores, classes, owners, resamples, seed)
        if thresholds and rule == threshold_rule:
            slide = slide.model_copy(update=_at_thresholds(truth, scores, classes, thresholds))
        patients, means = score_by_patient(scores, owners)
        label_of = dict(zip(owners, truth.tolist(), strict=True))
        labels = np.array([label_of[patient] for patient in patients])
        levels += [slide, _level("patient", rule, labels, means, classes, patients, resamples, seed)]
    return Evaluation(
        name=name,
        data=data,
        classes=tuple(classes),
        slides=len(predictions),
        patients=len(set(owners)),
        patches=sum(lengths),
        thresholds=dict(thresholds or {}),
        levels=tuple(levels),
    )


def _level(
    level: Level,
    rule: str,
    truth: NDArray[np.int64],
    scores: Floats,
    classes: Sequence[str],
    owners: Sequence[str],
    resamples: int,
    seed: int,
) -> LevelReport:
    return LevelReport(
        level=level,
        rule=rule,
        report=classification_report(truth, scores, classes, patients=owners, resamples=resamples, seed=seed),
        average_precision={
            name: area_under_precision_recall(truth == c, scores[:, c], patients=owners, resamples=resamples, seed=seed)
            for c, name in enumerate(classes)
        },
    )


def _at_thresholds(
    truth: NDArray[np.int64], scores: Floats, classes: Sequence[str], thresholds: Mapping[str, float]
) -> dict[str, dict[str, Interval]]:
    sensitivity, specificity = {}, {}
    for name, threshold in thresholds.items():
        c = list(classes).index(name)
        positive, called = truth == c, scores[:, c] >= threshold
        if positive.any() and not positive.all():
            sensitivity[name] = wilson(int((called & positive).sum()), int(positive.sum()))
            specificity[name] = wilson(int((~called & ~positive).sum()), int((~positive).sum()))
    return {"sensitivity": sensitivity, "specificity": specificity}

"""What a classifier is worth on labelled slides: by patch, slide and patient, by every rule, with n and interval."""

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
"""Resamples where rows are patches: thousands of rows in a few patients, whose number the interval rests on."""


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """The answers for one slide whose class is known.

    Attributes
    ----------
    slide_id, patient_id
        Whose.
    label
        Number of its class.
    patches
        ``(n, C)`` probabilities of its patches; rows of NaN could not be read.
    answer
        ``(C,)`` probabilities of the slide as the model gives them, by an aggregator of its own; ``None``: only the
        rules for patches are reported.
    """

    slide_id: str
    patient_id: str
    label: int
    patches: NDArray[np.floating]
    answer: Floats | None = None


class LevelReport(Record):
    """Figures at one level by one rule."""

    level: Level
    rule: str
    """Name in :data:`pathology.findings.aggregation.RULES`; ``model``: the model's own aggregator; ``none`` for
    patches."""
    report: ClassificationReport
    average_precision: dict[str, Interval]
    """One against the rest; a model without knowledge has the share of the class."""
    sensitivity: dict[str, Interval] = Field(default_factory=dict)
    """One against the rest at the thresholds given."""
    specificity: dict[str, Interval] = Field(default_factory=dict)
    """Likewise."""


class Evaluation(Record):
    """Everything measured on one set of slides."""

    name: str
    """``internal`` or ``external``, or what the user called it."""
    data: str
    """On which slides, in words."""
    classes: tuple[str, ...]
    slides: int
    patients: int
    patches: int
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Of a slide's probability, one a class, fixed on other slides; empty where none were fixed."""
    levels: tuple[LevelReport, ...]

    def at(self, level: Level, rule: str) -> LevelReport:
        """Return the figures at a level by a rule.

        Raises
        ------
        UsageError
            If they were not measured.
        """
        for report in self.levels:
            if (report.level, report.rule) == (level, rule):
                return report
        raise UsageError(f"nothing was measured by {level} with the rule '{rule}'")


def slide_scores(findings: Sequence[SlidePrediction], rule: str) -> Floats:
    """Return ``(S, C)`` slide probabilities by a rule, or by the model's own aggregator (``model``)."""
    if rule == "model":
        return np.stack([np.asarray(f.answer, np.float64) for f in findings])
    return np.stack([RULES[rule](f.patches) for f in findings])


def fit_thresholds(findings: Sequence[SlidePrediction], classes: Sequence[str], rule: str = "mean") -> dict[str, float]:
    """Choose for each class the slide probability whose point on the ROC curve is nearest to (0, 1).

    Parameters
    ----------
    findings
        Calibration slides, never those that measure.
    classes
        Names.
    rule
        How patches become a slide.
    """
    truth, scores = np.array([f.label for f in findings]), slide_scores(findings, rule)
    return {
        name: optimal_threshold(truth == c, scores[:, c])
        for c, name in enumerate(classes)
        if 0 < (truth == c).sum() < len(truth)
    }


def evaluate_slides(
    findings: Sequence[SlidePrediction],
    classes: Sequence[str],
    *,
    name: str,
    data: str,
    thresholds: Mapping[str, float] | None = None,
    threshold_rule: str = "mean",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Measure a classifier.

    Parameters
    ----------
    findings
        Slides of known class that neither trained nor chose anything.
    classes
        Names.
    name, data
        What the result is called, and on which slides it is.
    thresholds
        Of slide probabilities, one a class, fixed elsewhere; they give sensitivity and specificity.
    threshold_rule
        Rule that the thresholds were fixed for.
    resamples, seed
        Of the bootstrap by patient.

    Raises
    ------
    UsageError
        If there are no slides.
    """
    if not findings:
        raise UsageError("there are no slides to evaluate on")
    truth = np.array([f.label for f in findings])
    owners = [f.patient_id for f in findings]
    readable = [np.asarray(f.patches)[~np.isnan(f.patches).any(axis=1)] for f in findings]
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
    rules = [*RULES, *(["model"] if all(f.answer is not None for f in findings) else [])]
    for rule in rules:
        scores = slide_scores(findings, rule)
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
        slides=len(findings),
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

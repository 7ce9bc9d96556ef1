"""The interface of radiology systems: evaluate, train and predict.

A recipe holds all settings of a system (sequences, preprocessing, network, training).  Modules of
:mod:`pathology.systems` hold one each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pathology.bundle.card import Metric
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.models.bundle import CardText, RadiologyCard
from pathology.settings import Record
from pathology.stats.intervals import Interval

__all__ = ["NOT_MEASURED", "Progress", "Recipe", "as_metric", "describe_split", "named_progress"]

Progress = Callable[[str, int, int], None]
"""Called with the current task, completed steps and total steps."""

NOT_MEASURED = Metric(
    metric="not measured",
    value=None,
    interval=None,
    method="none",
    n=0,
    unit="patients",
    data="none",
    note="The model was trained without an evaluation: its performance is unknown.",
)
"""Card metric of a model trained without evaluation."""


def describe_split(trained: str, measured: str, metrics: Sequence[Metric]) -> str:
    """Return the split description of a card: training data and, if evaluated, evaluation method."""
    return f"{trained}; metrics from {measured}" if tuple(metrics) != (NOT_MEASURED,) else f"{trained}; not measured"


def named_progress(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """Return a callback of steps done and total steps that reports under a name; ``None`` without ``progress``."""
    return None if progress is None else lambda done, total: progress(name, done, total)


class Recipe(Record, ABC):
    """The recipe of a published system, from a cohort to a model.

    Subclasses are frozen settings; :attr:`kind` names them on cards.
    """

    kind: ClassVar[str]

    @abstractmethod
    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by patient-level cross-validation.

        Parameters
        ----------
        cohort
            Patients with images, masks and labels.
        folds
            Number of folds.
        seed
            Of folds and training.
        device
            ``cpu`` or ``cuda``.
        progress
            Progress callback.

        Returns
        -------
        tuple of Metric
            Each with n, interval and data.
        """

    @abstractmethod
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
        """Train on the whole cohort and write a bundle.

        Parameters
        ----------
        cohort
            As in :meth:`evaluate`.
        folder
            Bundle to write.
        text
            Card entries that only the user can provide.
        system
            Name of the published system.
        figures
            Metrics from :meth:`evaluate`.
        constructed
            Whether the data were constructed.
        seed, device, progress
            As in :meth:`evaluate`.
        """

    def clinical_columns(self, card: RadiologyCard) -> tuple[str, ...]:  # noqa: ARG002  # most models have none
        """Return the clinical columns that a trained bundle predicts from, beside the images."""
        return ()

    @abstractmethod
    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Apply a trained bundle to one patient.

        Parameters
        ----------
        folder, card
            The bundle.
        case
            The patient's images, masks (where the system needs one) and clinical values (where the bundle has
            :meth:`clinical_columns`).
        out
            Folder for pictures and masks; made if missing.
        device
            ``cpu`` or ``cuda``.

        Returns
        -------
        dict
            JSON-serialisable results: probabilities, volumes, output files; ``notes`` name missing values and what
            stands in for them.
        """


def as_metric(metric: str, interval: Interval, *, unit: str, data: str, note: str = "") -> Metric:
    """Convert an interval to a card metric; without a valid interval, the value is omitted."""
    known = interval.low == interval.low and interval.high == interval.high
    return Metric(
        metric=metric,
        value=interval.value if known else None,
        interval=(interval.low, interval.high) if known else None,
        level=interval.level,
        method=interval.method,
        n=interval.n,
        unit=unit,
        data=data,
        note=note if known else (note or "too few units for an interval"),
    )

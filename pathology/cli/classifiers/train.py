"""``pathology train``: train a published classifier on your own slides."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pathology.cli.display import LineProgress

__all__ = ["run"]


def run(
    given: Mapping[str, Any], out: Path, *, config: Path | None, options: Mapping[str, str], changes: list[str]
) -> int:
    """Train and return the exit status.

    Parameters
    ----------
    given
        Fields of :class:`pathology.training.classifier.settings.TrainSettings` that the command line gives.
    out
        The bundle's folder.
    config
        YAML file with further fields.
    options
        The command line's option for each field.
    changes
        ``NAME=VALUE`` of the recipe.
    """
    from pathology.configuration import configured, refined
    from pathology.errors import BundleError
    from pathology.folder_lock import locked_folder
    from pathology.inference.engines.portable import add_graph
    from pathology.systems.slide_classifier import find_classifier
    from pathology.training.classifier.bundle import BundleDescription
    from pathology.training.classifier.recipe_overrides import changed_recipe
    from pathology.training.classifier.settings import TrainSettings
    from pathology.training.classifier.train import plan_training, train_classifier
    from pathology.training.common.distributed import distributed_training

    settings = configured(TrainSettings, given, file=config, options=options)
    chosen = find_classifier(settings.system)
    recipe = changed_recipe(refined(chosen.recipe, settings.recipe, file=config, under="recipe"), changes)
    plan = plan_training(settings, recipe, settings.classes or chosen.classes, out)
    description = BundleDescription(
        title=f"{chosen.system.title} (reimplementation; research use only)",
        data_name=settings.data_name,
        data_source=settings.data_source,
        data_licence=settings.data_licence,
        licence=settings.licence,
        reference=chosen.system.reference,
        command=" ".join(
            [
                *("pathology", "train", settings.system),
                *(f"--set {change}" for change in changes),
                *([f"--config {config.name}"] if config is not None else []),
            ]
        ),
    )
    with contextlib.ExitStack() as held:
        ranks = held.enter_context(distributed_training(settings.device))
        if ranks.rank == 0:
            # The processes of one training share the folder; the first holds it for all.
            held.enter_context(locked_folder(out))
        progress = held.enter_context(_Shown())
        loaders = settings.loaders
        if loaders is None:
            loaders = _loaders(ranks.device.type, ranks.world)
        trained = train_classifier(plan, out, description, ranks, progress, loaders=loaders)
    if trained is None:
        return 0
    try:
        add_graph(out)
    except BundleError as error:
        print(f"The model needs torch wherever it is used: {error}", file=sys.stderr)
    waiting = sum(r.waiting * r.seconds for r in trained.fitted.history)
    seconds = sum(r.seconds for r in trained.fitted.history)
    print(
        f"Trained in {trained.fitted.precision} on {ranks.device}; {waiting / max(seconds, 1e-9):.0%} waiting for data."
    )
    places: tuple[tuple[Literal["patient", "slide"], str], ...] = (
        ("patient", "mean"),
        ("slide", "mean"),
        ("slide", "share"),
    )
    for level, rule in places:
        report = trained.evaluation.at(level, rule).report
        print(f"  balanced accuracy by {level}, {rule}: {report.balanced_accuracy}")
        print(f"  mean AUC by {level}, {rule}: {report.macro_auc}")
    print(f"Bundle: {out}\nReport: {out / 'report.html'}\nResearch use only.")
    return 0


def _loaders(device: str, world: int) -> int:
    """Number of loader processes: all cores except the trainers' on a GPU, a quarter of the cores on a CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (cores - world) // world if device == "cuda" else cores // 4)


class _Cutting(LineProgress):
    """Progress of tiling, one line per slide."""

    def began(self, slides: int, unchanged: int) -> None:
        """Report the number of slides to tile; silent if all are tiled already."""
        self._total = slides
        if slides:
            self._say(f"{slides} slides to tile, {unchanged} already tiled.")


class _Shown:
    """Training progress: bars on a terminal, lines in a log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self.tiling = _Cutting()
        self._bars: Progress | None = None
        self._bar: TaskID | None = None

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def say(self, line: str) -> None:
        """Print one line."""
        self._stop()
        print(line, file=sys.stderr, flush=True)

    def step(self, stage: int, epoch: int, step: int, steps: int, loss: float) -> None:
        """Advance the epoch bar with the running loss; a log gets one line per epoch."""
        if not self._console.is_terminal:
            return
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]:.3f}"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        if self._bar is None:
            self._bar = self._bars.add_task(f"stage {stage}, epoch {epoch}", total=steps, loss=loss)
        self._bars.update(self._bar, completed=step, loss=loss)

    def epoch(self, record: object) -> None:
        """Print the losses of an epoch."""
        from pathology.evaluation.history import EpochRecord

        assert isinstance(record, EpochRecord)
        self.say(
            f"stage {record.stage}, epoch {record.epoch}: loss {record.loss:.4f}, validation loss "
            f"{record.validation_loss:.4f}, patch accuracy {record.validation_accuracy:.3f}, "
            f"{record.patches_per_second:.1f} patches/s, {record.waiting:.0%} waiting for data"
            + (", best so far" if record.best else "")
        )

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._bar = None

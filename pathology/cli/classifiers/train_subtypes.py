"""``pathology train subtypes``: train a head on features of slides."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["run"]


def run(given: Mapping[str, Any], out: Path, *, config: Path | None, options: Mapping[str, str]) -> int:
    """Train and return the exit status.

    Parameters
    ----------
    given
        Fields of :class:`pathology.training.heads.HeadSettings` that the command line gives.
    out
        The bundle's folder.
    config
        YAML file with further fields.
    options
        The command line's option for each field.
    """
    from pathology.configuration import configured
    from pathology.folder_lock import locked_folder
    from pathology.training.heads import HeadSettings, train_heads

    settings = configured(HeadSettings, given, file=config, options=options)
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with locked_folder(out), bars:
        task = bars.add_task("reading features", total=None)

        def say(line: str) -> None:
            if console.is_terminal:
                bars.update(task, description=line)
            elif line.endswith("done"):
                print(line, file=sys.stderr, flush=True)

        trained = train_heads(
            settings, out, say=say, reading=lambda done, total: bars.update(task, completed=done, total=total)
        )
    for kind, area in trained.areas.items():
        print(f"  mean AUC within the outer folds, {kind}: {area}")
    for difference in trained.differences:
        print(f"  {difference}")
    sets = trained.card.trust.conformal
    if sets is not None and sets.threshold is None:
        print("  Too few patients for prediction sets.")
    print(f"Head: {trained.card.head}\nBundle: {out}\nResearch use only.")
    return 0

"""Metrics measured with this implementation: read from, and written to, one JSON file per system.

The files are data of the package (``pathology/systems/measured``), written by the scripts that measure.  A file holds
one group per script and part of it, so that measuring again replaces what that measurement found before, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from pathology.atomic_files import write_text
from pathology.bundle.card import Metric
from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["MEASURED", "OwnMetric", "own_metric", "read_own_metrics", "record_by_system", "record_own_metrics"]

MEASURED = Path(__file__).parent / "measured"
"""Where the files of the published systems lie."""


class OwnMetric(Record):
    """A metric measured with this implementation."""

    metric: Annotated[str, Field(min_length=1)]
    value: float
    interval: tuple[float, float]
    """95 % confidence interval."""
    n: Annotated[int, Field(ge=1)]
    unit: Annotated[str, Field(min_length=1)]
    """What n counts: patients, slides, tiles."""
    data: Annotated[str, Field(min_length=1)]
    """On which data and split."""

    @model_validator(mode="after")
    def _value_in_interval(self) -> OwnMetric:
        if not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(f"{self.metric}: {self.value} lies outside its interval {self.interval}")
        return self


class _Group(Record):
    """What one measurement found."""

    by: Annotated[str, Field(min_length=1)]
    """The script, and the part of it, that measured."""
    metrics: tuple[OwnMetric, ...]


class _File(Record):
    system: str
    measured: tuple[_Group, ...]


def read_own_metrics(system_id: str, folder: Path = MEASURED) -> tuple[OwnMetric, ...]:
    """Return what was measured of a system; nothing where it has no file.

    Raises
    ------
    UsageError
        If the file cannot be read, or is of another system.
    """
    return tuple(metric for group in _read(system_id, folder).measured for metric in group.metrics)


def record_own_metrics(system_id: str, by: str, metrics: Sequence[OwnMetric], folder: Path = MEASURED) -> Path:
    """Write what a measurement found into a system's file, in place of what the same measurement found before.

    Parameters
    ----------
    system_id
        Such as ``foersch-2021``.
    by
        The script, and the part of it, that measured.
    metrics
        What it found; at least one.
    folder
        Where the file lies or is made.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        If a file is there that cannot be read.
    OutputError
        If it cannot be written.
    """
    groups = {group.by: group for group in _read(system_id, folder).measured}
    groups[by] = _Group(by=by, metrics=tuple(metrics))
    record = _File(system=system_id, measured=tuple(groups.values())).model_dump(mode="json")
    path = folder / f"{system_id}.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def record_by_system(
    found: Mapping[str, Sequence[Metric]], by: str, systems: Sequence[str], folder: Path = MEASURED
) -> list[Path]:
    """Record the metrics of several systems, found under names such as ``liang-2022, T1``.

    Parameters
    ----------
    found
        Metrics by name.  What stands before the comma is a system's id, what follows says on what.  A name without a
        system's id is that of a baseline, which goes with every system of the same measurement.
    by
        The script, and the part of it, that measured.
    systems
        All ids there are.
    folder
        Where the files lie or are made.

    Returns
    -------
    list of Path
        The files written.
    """
    measured: dict[str, list[OwnMetric]] = {}
    baselines: list[OwnMetric] = []
    for name, metrics in found.items():
        system, _, detail = name.partition(", ")
        own = [made for metric in metrics if (made := own_metric(metric, detail if system in systems else name))]
        (measured.setdefault(system, []) if system in systems else baselines).extend(own)
    return [record_own_metrics(system, by, [*own, *baselines], folder) for system, own in measured.items() if own]


def own_metric(metric: Metric, detail: str = "") -> OwnMetric | None:
    """Return a card's metric as a system's; ``None`` where it could not be estimated.

    Parameters
    ----------
    metric
        As measured.
    detail
        Added to the metric's name.
    """
    if metric.value is None or metric.interval is None or metric.n == 0:
        return None
    low, high = metric.interval
    name = f"{metric.metric}, {detail}" if detail else metric.metric
    return OwnMetric(
        metric=name,
        value=round(metric.value, 3),
        interval=(round(low, 3), round(high, 3)),
        n=metric.n,
        unit=metric.unit,
        data=metric.data,
    )


def _read(system_id: str, folder: Path) -> _File:
    path = folder / f"{system_id}.json"
    if not path.is_file():
        return _File(system=system_id, measured=())
    try:
        file = _File.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"not a file of measured metrics ({error})", where=path) from error
    if file.system != system_id:
        raise UsageError(f"the metrics are those of {file.system}", where=path, remedy=f"Expected {system_id}")
    return file

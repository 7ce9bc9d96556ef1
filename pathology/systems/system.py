"""Catalogue entries of the published systems.

Every published system is one module of this package with a module-level ``SYSTEM``.  The module composes parts
of other packages and implements no algorithm itself.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Annotated, Literal

from pydantic import Field, computed_field

from pathology.settings import Record
from pathology.systems.own_metrics import OwnMetric, read_own_metrics

__all__ = ["PublishedMetric", "System", "all_systems", "system_modules"]


class PublishedMetric(Record):
    """A metric as published by the authors.  It says nothing about this implementation."""

    metric: str
    value: str
    """As printed, with its interval or spread where given."""
    cohort: str
    """Evaluation data, with n."""
    source: str = ""
    """Where it was published: abstract, table, review."""


class System(Record):
    """One published system."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    """Name on the command line, such as ``foersch-2021``."""
    code: str
    """Catalogue code, such as ``A1``."""
    title: str
    reference: str
    """Citation."""
    task: str
    network: str
    parameters: Annotated[int, Field(gt=0)] | None
    """Learnable parameters; ``None`` where the method has no fixed network."""
    status: Literal["works", "planned"]
    data: str
    """What the authors trained on."""
    published: tuple[PublishedMetric, ...] = ()
    notes: tuple[str, ...] = ()
    """Choices made where the publication is silent, and known defects of the publication."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic's way to write a property
    @cached_property
    def own(self) -> tuple[OwnMetric, ...]:
        """Metrics measured with this implementation, from the file that the measuring scripts write."""
        return read_own_metrics(self.id)


def system_modules() -> dict[str, ModuleType]:
    """Return the module of every system in this package, by the system's id."""
    package = import_module("pathology.systems")
    modules = (import_module(found.name) for found in walk_packages(package.__path__, "pathology.systems."))
    return {module.SYSTEM.id: module for module in modules if isinstance(getattr(module, "SYSTEM", None), System)}


def all_systems() -> tuple[System, ...]:
    """Return every system of this package, in the order of their codes (A1, A2, ..., B1, ...).

    Examples
    --------
    >>> any(system.id == "foersch-2021" for system in all_systems())
    True
    """
    found = [module.SYSTEM for module in system_modules().values()]
    return tuple(sorted(found, key=lambda s: (s.code[0], int(s.code[1:] or 0), s.id)))

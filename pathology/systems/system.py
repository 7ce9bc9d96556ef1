"""Catalogue entries of the published systems.

Every published system is one module of this package with a module-level ``SYSTEM``.  The module composes parts
of other packages and implements no algorithm itself.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Annotated, Literal

from pydantic import Field

from pathology.settings import Record

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


class OwnMetric(Record):
    """A metric measured with this implementation."""

    metric: str
    value: float
    interval: tuple[float, float]
    """95 % confidence interval."""
    n: Annotated[int, Field(ge=1)]
    unit: str
    """What n counts: patients, slides, tiles."""
    data: str
    """Evaluation data and split."""


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
    own: tuple[OwnMetric, ...] = ()
    notes: tuple[str, ...] = ()
    """Choices made where the publication is silent, and known defects of the publication."""


def system_modules() -> dict[str, ModuleType]:
    """Return the module of every system in this package, by the system's id."""
    package = import_module("pathology.systems")
    modules = (import_module(found.name) for found in walk_packages(package.__path__, "pathology.systems."))
    return {module.SYSTEM.id: module for module in modules if isinstance(getattr(module, "SYSTEM", None), System)}


def all_systems() -> tuple[System, ...]:
    """Return every system of this package, in the order of their codes (A1, A2, ..., B1, ...)."""
    found = [module.SYSTEM for module in system_modules().values()]
    return tuple(sorted(found, key=lambda s: (s.code[0], int(s.code[1:] or 0), s.id)))

"""The classes and training recipe of a published slide classifier."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from pathology.errors import UsageError
from pathology.systems.system import system_modules

if TYPE_CHECKING:
    from pathology.systems.system import System
    from pathology.training.classifier.recipe import SlideRecipe

__all__ = ["SlideClassifier", "find_classifier", "slide_classifiers"]


@dataclass(frozen=True)
class SlideClassifier:
    """A published classifier that ``pathology train`` can train.

    Attributes
    ----------
    system
        Its catalogue entry.
    classes
        Class names as published, codes of :mod:`pathology.findings.vocabulary` for histotypes.
    recipe
        Its training recipe.
    """

    system: System
    classes: tuple[str, ...]
    recipe: SlideRecipe


def slide_classifiers() -> tuple[str, ...]:
    """Return the ids of all classifiers that can be trained, in alphabetical order.

    Examples
    --------
    >>> slide_classifiers()
    ('foersch-2021', 'foersch-2021-survival', 'frankel-2022', 'zhang-2022', 'zhang-2022-prognosis')
    """
    return tuple(sorted(_modules()))


def find_classifier(system_id: str) -> SlideClassifier:
    """Return a classifier by its id, such as ``foersch-2021``.

    Raises
    ------
    UsageError
        If no slide classifier has this id.

    Examples
    --------
    >>> find_classifier("foersch-2021").classes
    ('DDLPS', 'LMS', 'MFS', 'SS', 'UPS')
    """
    modules = _modules()
    if system_id not in modules:
        raise UsageError(
            f"no slide classifier is called {system_id!r}", remedy=f"Choose one of {', '.join(sorted(modules))}"
        )
    module = modules[system_id]
    return SlideClassifier(module.SYSTEM, module.CLASSES, module.recipe())


def _modules() -> dict[str, ModuleType]:
    """Modules of classifiers by id: those that define their classes."""
    return {
        name: module
        for name, module in system_modules().items()
        if hasattr(module, "CLASSES") and hasattr(module, "recipe")
    }

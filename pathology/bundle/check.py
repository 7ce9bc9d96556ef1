"""One step of verifying a bundle, and the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pathology.errors import PathologyError

__all__ = ["Check", "checked"]


@dataclass(frozen=True)
class Check:
    """One verification step.

    Attributes
    ----------
    what : str
        What was checked.
    error : PathologyError or None
        ``None`` if it holds.
    found : str
        What was found, such as the hash.
    """

    what: str
    error: PathologyError | None = None
    found: str = ""


def checked(steps: Sequence[tuple[str, Callable[[], str]]]) -> list[Check]:
    """Run steps, each with what it checks, until the first failure; a step returns what it found."""
    checks: list[Check] = []
    for what, step in steps:
        try:
            checks.append(Check(what, found=step()))
        except PathologyError as error:
            checks.append(Check(what, error=error))
            break
    return checks

"""What every grading system needs: inputs that can be missing, rows with a source, and a record of the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["Assessment", "MissingInputsError", "MitosesInArea", "NotApplicableError", "Origin", "Part", "require"]

Origin = Literal["pathologist", "model"]
"""Who supplied a value.  A model may supply mitoses and necrosis; everything else is a pathologist's to say."""


class MissingInputsError(UsageError):
    """A grade was asked for and not all of its inputs are known.  Nothing is assumed in their place."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The inputs still needed, in words."""
        return tuple(self.what.partition(": ")[2].split("; "))


class NotApplicableError(UsageError):
    """The system was not made for this tumour, site or specimen."""


def require(system: str, inputs: Mapping[str, object]) -> None:
    """Refuse to go on while an input is ``None``.

    Parameters
    ----------
    system
        Name for the message.
    inputs
        Description in words to value.

    Raises
    ------
    MissingInputsError
        Naming every missing input.
    """
    missing = [description for description, value in inputs.items() if value is None]
    if missing:
        raise MissingInputsError(
            f"{system} cannot be given yet, these inputs are missing: {'; '.join(missing)}",
            remedy="Supply them; none is assumed",
        )


class MitosesInArea(Record):
    """A mitotic count with the area in which it was counted, without which it means nothing."""

    count: Annotated[int, Field(ge=0)]
    """Mitoses counted."""
    area_mm2: Annotated[float, Field(gt=0)]
    """Area of all fields together, in mm²."""
    origin: Origin = "pathologist"
    """Who counted; a model's count is one of candidates that a pathologist accepted, or not yet."""

    @property
    def per_mm2(self) -> float:
        """Count divided by area."""
        return self.count / self.area_mm2

    def in_area(self, area_mm2: float) -> float:
        """Return the count expected in another area; exactly the count itself in its own."""
        return float(self.count) if area_mm2 == self.area_mm2 else self.per_mm2 * area_mm2


@dataclass(frozen=True, slots=True)
class Part:
    """One row of a table that was used.

    Attributes
    ----------
    name
        What was judged: differentiation, mitoses, T, ...
    value
        The input, in words.
    result
        Score, category or diagnosis it leads to.
    source
        Where the row stands.
    origin
        Who supplied the input.
    """

    name: str
    value: str
    result: str
    source: str
    origin: Origin = "pathologist"


@dataclass(frozen=True, slots=True)
class Assessment:
    """A grade, stage or diagnosis and how it came about.

    Attributes
    ----------
    system
        Name and edition.
    result
        Such as ``grade 2`` or ``stage IIIA``.
    parts
        The rows used, in the order of the system.
    notes
        What a reader must know.
    """

    system: str
    result: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the record as plain values for JSON."""
        return {
            "system": self.system,
            "result": self.result,
            "parts": [
                {"name": p.name, "value": p.value, "result": p.result, "source": p.source, "origin": p.origin}
                for p in self.parts
            ],
            "notes": list(self.notes),
        }

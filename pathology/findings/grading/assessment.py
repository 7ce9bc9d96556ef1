"""Common parts of the grading systems: inputs that may be missing, criteria with a source, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record

__all__ = ["Assessment", "MissingInputsError", "MitosesInArea", "NotApplicableError", "Origin", "Part", "require"]

Origin = Literal["pathologist", "model"]
"""Who supplied a value.  A model may supply mitoses and necrosis; everything else requires a pathologist."""


class MissingInputsError(UsageError):
    """A grade was requested without all of its inputs.  Missing inputs are never assumed."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Descriptions of the missing inputs."""
        return tuple(self.what.partition(": ")[2].split("; "))


class NotApplicableError(UsageError):
    """The system does not apply to this tumour, site or specimen."""


def require(system: str, inputs: Mapping[str, object]) -> None:
    """Raise an error if an input is ``None``.

    Parameters
    ----------
    system
        Name for the message.
    inputs
        Values, keyed by their descriptions.

    Raises
    ------
    MissingInputsError
        Naming every missing input.
    """
    missing = [description for description, value in inputs.items() if value is None]
    if missing:
        raise MissingInputsError(
            f"{system}: missing inputs: {'; '.join(missing)}",
            remedy="Supply them; missing inputs are never assumed",
        )


class MitosesInArea(Record):
    """A mitotic count with the area in which it was counted, which is needed to interpret it."""

    count: Annotated[int, Field(ge=0)]
    """Mitoses counted."""
    area_mm2: Annotated[float, Field(gt=0)]
    """Total area of all fields, in mm²."""
    origin: Origin = "pathologist"
    """Who counted; ``model`` until a pathologist has reviewed every counted detection."""
    basis: str = ""
    """Basis of the count, as text; empty if a pathologist gave count and area."""

    @property
    def per_mm2(self) -> float:
        """Count divided by area."""
        return self.count / self.area_mm2

    def in_area(self, area_mm2: float) -> float:
        """Return the count scaled to another area; unchanged for its own area."""
        return float(self.count) if area_mm2 == self.area_mm2 else self.per_mm2 * area_mm2


@dataclass(frozen=True, slots=True)
class Part:
    """One criterion that was applied.

    Attributes
    ----------
    name
        What was assessed: differentiation, mitoses, T, ...
    value
        The input, as text.
    result
        Resulting score, category or diagnosis.
    source
        Source of the criterion.
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
    """A grade, stage or diagnosis and how it was derived.

    Attributes
    ----------
    system
        Name and edition.
    result
        Such as ``grade 2`` or ``stage IIIA``.
    parts
        The criteria applied, in the order of the system.
    notes
        Caveats for the reader.
    """

    system: str
    result: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the record as JSON-compatible values."""
        return {
            "system": self.system,
            "result": self.result,
            "parts": [
                {"name": p.name, "value": p.value, "result": p.result, "source": p.source, "origin": p.origin}
                for p in self.parts
            ],
            "notes": list(self.notes),
        }

"""Detections of a slide and the reviewers' decisions about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.findings.detections import Detections
from pathology.findings.hotspot import HotspotWindow
from pathology.settings import Record

__all__ = ["Decision", "DetectionClass", "DetectionHeader", "SlideDetections", "Verdict"]


class DetectionClass(Record):
    """One class of objects that a detector finds."""

    name: str
    """Name on the model card, such as ``mitosis``."""
    colour: str
    """Display colour ``#rrggbb``."""
    counted: bool = True
    """Whether it is counted; mimics are not."""


class DetectionHeader(Record):
    """Provenance and counting rules of a slide's detections."""

    slide_id: str
    fingerprint: str | None = None
    """Fingerprint of the slide."""
    model: str
    """``name version`` of the detector."""
    model_sha256: str
    """SHA-256 of the detector's weights."""
    classes: Annotated[tuple[DetectionClass, ...], Field(min_length=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]
    """Lowest score at which a detection counts without review."""
    window: HotspotWindow = HotspotWindow()
    """The window of the hotspot."""


@dataclass(frozen=True)
class SlideDetections:
    """All detections of a slide.

    Attributes
    ----------
    header
        Their provenance and counting rules.
    found
        Boxes and scores.
    kinds
        ``(N,)`` uint8: index of each detection's class in ``header.classes``.
    """

    header: DetectionHeader
    found: Detections
    kinds: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.kinds.shape != (len(self.found),):
            raise UsageError(f"kinds: expected ({len(self.found)},), got {self.kinds.shape}")
        if len(self.kinds) and int(self.kinds.max()) >= len(self.header.classes):
            raise UsageError(f"kinds: there are only {len(self.header.classes)} classes, got {int(self.kinds.max())}")

    def __len__(self) -> int:
        return len(self.found)

    @cached_property
    def identity(self) -> str:
        """32 hexadecimal digits that change when any box, score, class or the model changes."""
        digest = hashlib.sha256(self.header.model_dump_json().encode())
        for values, kind in ((self.found.boxes, "<f4"), (self.found.scores, "<f4"), (self.kinds, "u1")):
            digest.update(np.ascontiguousarray(values, kind).data)
        return digest.hexdigest()[:32]

    def uuid(self, row: int) -> str:
        """Return the UUID under which a detection is exported; :meth:`row_of` is the inverse."""
        # Version 8: custom content (RFC 9562).
        digits = f"{self.identity[:12]}8{self.identity[13:16]}8{row:015x}"
        return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))

    def row_of(self, uuid: str) -> int | None:
        """Return the row that was exported under a UUID, ``None`` if it does not belong to these detections."""
        digits = uuid.replace("-", "").lower()
        try:
            row = int(digits[17:], 16)
        except ValueError:
            return None
        return row if row < len(self) and self.uuid(row).replace("-", "") == digits else None

    def counted(self, decisions: Mapping[int, Decision] | None = None) -> NDArray[np.bool_]:
        """Return which detections count.

        A detection of a counted class counts if a reviewer accepted it, or if its score is at least the threshold and
        no reviewer rejected it.

        Parameters
        ----------
        decisions
            By row.
        """
        included = np.array([c.counted for c in self.header.classes])
        result: NDArray[np.bool_] = included[self.kinds] & (self.found.scores >= np.float32(self.header.threshold))
        for row, decision in (decisions or {}).items():
            if row < len(self):  # the others are mitoses that a reviewer added
                result[row] = decision.verdict == "accepted"
        return result

    @cached_property
    def counted_class(self) -> int:
        """Index of the first class that is counted; 0 if none is."""
        return next((index for index, kind in enumerate(self.header.classes) if kind.counted), 0)

    def added_box(self, decision: Decision) -> tuple[float, float, float, float]:
        """Return a box around a mitosis that a reviewer added, as large as the detector's boxes usually are."""
        sizes = self.found.boxes[:, 2:] - self.found.boxes[:, :2]
        half = float(np.median(sizes)) / 2 if len(self) else _ADDED_SIDE / 2
        return decision.x - half, decision.y - half, decision.x + half, decision.y + half


class Decision(Record):
    """A reviewer's decision about one detection, or a mitosis that the reviewer added."""

    row: Annotated[int, Field(ge=0)]
    """Row in ``detections.parquet``, from 0; of an added mitosis, a number from the number of detections on."""
    verdict: Verdict
    x: float
    """Centre, level-0 pixels."""
    y: float
    """Centre, level-0 pixels."""
    at: str
    """Time of the decision, ISO 8601."""

    @classmethod
    def on(cls, detections: SlideDetections, row: int, verdict: Verdict) -> Decision:
        """Create a decision with the current time.

        Raises
        ------
        UsageError
            If the row is out of range.
        """
        if not 0 <= row < len(detections):
            raise UsageError(f"detection {row} does not exist; the slide has {len(detections)}")
        left, top, right, bottom = detections.found.boxes[row].tolist()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(row=row, verdict=verdict, x=(left + right) / 2, y=(top + bottom) / 2, at=now)

    @classmethod
    def adding(cls, row: int, x: float, y: float) -> Decision:
        """Create an added mitosis with the current time."""
        return cls(row=row, verdict="added", x=x, y=y, at=datetime.now(UTC).isoformat(timespec="seconds"))


Verdict = Literal["accepted", "rejected", "added"]
"""``added``: the detector did not find it, and the reviewer did."""

_ADDED_SIDE = 50.0
"""Side of the box of an added mitosis on a slide without detections, in level-0 pixels: 12.5 µm at 40x."""

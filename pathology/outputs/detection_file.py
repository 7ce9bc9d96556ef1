"""``detections.parquet``: what a detector found on a slide, and ``decisions.json``: what people think of it.

``detections.parquet`` has one row a detection, in the detector's order (by falling score):

==========================  ==========================================================================
``left, top, right, bottom``  float32, level-0 pixels
``score``                     float32, 0 to 1
``class``                     text (a dictionary column), one of the classes of the header
==========================  ==========================================================================

The header (JSON, under ``pathology`` in the file's key-value metadata) is a :class:`DetectionHeader`.

``decisions.json`` lies beside it and is the only file that the viewer writes.  A decision names a row, and keeps the
place it was made at, so that a person can find it again if the detections are made anew; the file's ``detections``
is the identity of the detections that it is about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from pathology.errors import StoreError, UsageError
from pathology.findings.detections import Detections
from pathology.findings.hotspot import HotspotWindow
from pathology.outputs.atomic import output_error, replacing, write_text
from pathology.settings import Settings

__all__ = [
    "DECISIONS",
    "DETECTIONS",
    "Decision",
    "Decisions",
    "DetectionClass",
    "DetectionHeader",
    "SlideDetections",
    "Verdict",
    "read_decisions",
    "read_detections",
    "write_decisions",
    "write_detections",
]

DETECTIONS: Final = "detections.parquet"
DECISIONS: Final = "decisions.json"

_ROWS: Final = 2**17
"""Rows written at once, and in one row group: 2.6 MB."""

_BOX: Final = ("left", "top", "right", "bottom")

Verdict = Literal["accepted", "rejected"]


class DetectionClass(Settings):
    """One kind of object that a detector finds."""

    name: str
    """As on the model card, such as ``mitosis``."""
    colour: str
    """Display colour ``#rrggbb``."""
    counted: bool = True
    """Whether it goes into the count; look-alikes do not."""


class DetectionHeader(Settings):
    """What the detections of a slide are."""

    slide_id: str
    fingerprint: str | None = None
    """Of the slide."""
    model: str
    """``name version`` of the detector."""
    model_sha256: str
    """SHA-256 of its weights."""
    classes: Annotated[tuple[DetectionClass, ...], Field(min_length=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]
    """Score from which on a detection counts without anybody's decision."""
    window: HotspotWindow = HotspotWindow()
    """The window of the hotspot."""


@dataclass(frozen=True)
class SlideDetections:
    """All detections of a slide.

    Attributes
    ----------
    header
        What they are.
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
        """Return the UUID under which a detection is exported; :meth:`row_of` leads back."""
        # Version 8: custom content (RFC 9562).
        digits = f"{self.identity[:12]}8{self.identity[13:16]}8{row:015x}"
        return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))

    def row_of(self, uuid: str) -> int | None:
        """Return the row that was exported under a UUID, ``None`` if it is none of these detections."""
        digits = uuid.replace("-", "").lower()
        try:
            row = int(digits[17:], 16)
        except ValueError:
            return None
        return row if row < len(self) and self.uuid(row).replace("-", "") == digits else None

    def counted(self, decisions: Mapping[int, Decision] | None = None) -> NDArray[np.bool_]:
        """Tell which detections count.

        A detection of a counted class counts if somebody accepted it, or if its score is at least the threshold
        and nobody rejected it.

        Parameters
        ----------
        decisions
            By row.
        """
        included = np.array([c.counted for c in self.header.classes])
        result: NDArray[np.bool_] = included[self.kinds] & (self.found.scores >= np.float32(self.header.threshold))
        for row, decision in (decisions or {}).items():
            result[row] = decision.verdict == "accepted"
        return result


class Decision(Settings):
    """What somebody decided about one detection."""

    row: Annotated[int, Field(ge=0)]
    """Row in ``detections.parquet``, from 0."""
    verdict: Verdict
    x: float
    """Centre of the box, level-0 pixels."""
    y: float
    """Centre of the box, level-0 pixels."""
    at: str
    """When, ISO 8601."""

    @classmethod
    def on(cls, detections: SlideDetections, row: int, verdict: Verdict) -> Decision:
        """Decide now.

        Raises
        ------
        UsageError
            If there is no such detection.
        """
        if not 0 <= row < len(detections):
            raise UsageError(f"there is no detection {row}; there are {len(detections)}")
        left, top, right, bottom = detections.found.boxes[row].tolist()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(row=row, verdict=verdict, x=(left + right) / 2, y=(top + bottom) / 2, at=now)


class Decisions(Settings):
    """``decisions.json``."""

    version: Literal[1] = 1
    slide_id: str
    detections: str
    """:attr:`SlideDetections.identity` of the detections decided about."""
    decisions: tuple[Decision, ...] = ()
    """By row, one a row at most."""
    note: str = "Decisions of people about detections. Research use only."


def write_detections(folder: Path, detections: SlideDetections) -> None:
    """Write ``detections.parquet`` into a slide's folder, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / DETECTIONS
    names = pa.array([c.name for c in detections.header.classes], pa.string())
    fields = [*((side, pa.float32()) for side in _BOX), ("score", pa.float32())]
    schema = pa.schema(
        [*fields, ("class", pa.dictionary(pa.uint8(), pa.string()))],
        metadata={"pathology": detections.header.model_dump_json()},
    )
    with replacing(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for start in range(0, len(detections), _ROWS):
            part = slice(start, start + _ROWS)
            columns = [pa.array(detections.found.boxes[part, side]) for side in range(4)]
            columns.append(pa.array(detections.found.scores[part]))
            columns.append(pa.DictionaryArray.from_arrays(pa.array(detections.kinds[part]), names))
            writer.write_table(pa.table(columns, schema=schema))


def read_detections(folder: Path) -> SlideDetections | None:
    """Return a slide's detections; ``None`` if it has none (the model is no detector).

    Raises
    ------
    StoreError
        If the file is not what :func:`write_detections` writes.
    """
    path = folder / DETECTIONS
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"this is no file of detections ({error})", where=path) from error
    try:
        header = DetectionHeader.model_validate_json((table.schema.metadata or {})[b"pathology"])
        boxes = np.stack([table[side].to_numpy() for side in _BOX], axis=1).astype(np.float32)
        scores = table["score"].to_numpy().astype(np.float32)
        order = {c.name: index for index, c in enumerate(header.classes)}
        kinds = np.empty(len(scores), np.uint8)
        start = 0
        for chunk in table["class"].chunks:
            coded = chunk if isinstance(chunk, pa.DictionaryArray) else chunk.dictionary_encode()
            places = np.array([order[name] for name in coded.dictionary.to_pylist()], np.uint8)
            kinds[start : start + len(chunk)] = places[coded.indices.to_numpy()]
            start += len(chunk)
        return SlideDetections(header, Detections(boxes, scores), kinds)
    except (KeyError, ValidationError, ValueError, pa.ArrowInvalid) as error:
        raise StoreError(f"this is no file of detections ({error})", where=path) from error


def write_decisions(folder: Path, detections: SlideDetections, decisions: Iterable[Decision]) -> None:
    """Write ``decisions.json``, whole or not at all.

    Decisions about other detections that stand there are not lost: the file is first renamed after the detections
    it is about.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / DECISIONS
    earlier = _read(path)
    if earlier is not None and earlier.detections != detections.identity and earlier.decisions:
        try:
            path.replace(path.with_name(f"decisions.{earlier.detections[:12]}.json"))
        except OSError as error:
            raise output_error(error, path) from error
    ordered = tuple(sorted(decisions, key=lambda decision: decision.row))
    record = Decisions(slide_id=detections.header.slide_id, detections=detections.identity, decisions=ordered)
    write_text(path, record.model_dump_json(indent=1))


def read_decisions(folder: Path, detections: SlideDetections) -> dict[int, Decision]:
    """Return the decisions about a slide's detections by row; none if those on disk are about other detections.

    Raises
    ------
    StoreError
        If the file is not what :func:`write_decisions` writes.
    """
    record = _read(folder / DECISIONS)
    if record is None or record.detections != detections.identity:
        return {}
    return {decision.row: decision for decision in record.decisions if decision.row < len(detections)}


def _read(path: Path) -> Decisions | None:
    try:
        return Decisions.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"this is no file of decisions ({error})", where=path, remedy="Move it away") from error

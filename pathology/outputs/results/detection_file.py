"""``detections.parquet``: the detections on a slide, and ``decisions.json``: the reviewers' decisions.

``detections.parquet`` has one row per detection, by decreasing score:

==========================  ==========================================================================
``left, top, right, bottom``  float32, level-0 pixels
``score``                     float32, 0 to 1
``class``                     text (a dictionary column), one of the classes of the header
==========================  ==========================================================================

The header (JSON, under ``pathology`` in the file's key-value metadata) is a :class:`DetectionHeader`.

``decisions.json`` is in the same folder and is the only file that the viewer writes.  A decision contains a row and the
position of the detection, so that it can be located if the detections are recomputed; the file's ``detections`` is the
identity of the detections it refers to.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pathology.atomic_files import output_error, replacing, write_text
from pathology.errors import StoreError
from pathology.findings.detections import Detections
from pathology.findings.slide_detections import Decision, DetectionHeader, SlideDetections
from pathology.input_files import read_json
from pathology.settings import Record

__all__ = [
    "DECISIONS",
    "DETECTIONS",
    "Decisions",
    "read_decisions",
    "read_detections",
    "write_decisions",
    "write_detections",
]

DETECTIONS: Final = "detections.parquet"
DECISIONS: Final = "decisions.json"

_ROWS: Final = 2**17
"""Rows per write and per row group: 2.6 MB."""

_BOX: Final = ("left", "top", "right", "bottom")


class Decisions(Record):
    """``decisions.json``."""

    version: Literal[1] = 1
    slide_id: str
    detections: str
    """:attr:`SlideDetections.identity` of the reviewed detections."""
    decisions: tuple[Decision, ...] = ()
    """In order of rows, at most one per row."""
    note: str = "Reviewers' decisions about detections. Research use only."


def write_detections(folder: Path, detections: SlideDetections) -> None:
    """Write ``detections.parquet`` into a slide's folder, completely or not at all.

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
    """Return a slide's detections; ``None`` if it has none (the model is not a detector).

    Raises
    ------
    StoreError
        If the file is not a valid detections file.
    """
    path = folder / DETECTIONS
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        return None
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"not a detections file ({error})", where=path) from error
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
        raise StoreError(f"not a detections file ({error})", where=path) from error


def write_decisions(folder: Path, detections: SlideDetections, decisions: Iterable[Decision]) -> None:
    """Write ``decisions.json``, completely or not at all.

    Existing decisions about other detections are kept: that file is first renamed after the detections it refers to.

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
    """Return the decisions about a slide's detections by row; empty if those on disk refer to other detections.

    Raises
    ------
    StoreError
        If the file is not a valid decisions file.
    """
    record = _read(folder / DECISIONS)
    if record is None or record.detections != detections.identity:
        return {}
    return {decision.row: decision for decision in record.decisions if _fits(decision, detections)}


def _fits(decision: Decision, detections: SlideDetections) -> bool:
    return (decision.row >= len(detections)) == (decision.verdict == "added")


def _read(path: Path) -> Decisions | None:
    if not path.exists():
        return None
    try:
        return Decisions.model_validate(read_json(path, StoreError))
    except ValueError as error:
        raise StoreError(f"not a decisions file ({error})", where=path, remedy="Move or delete it") from error

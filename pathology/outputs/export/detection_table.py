"""Review of detections in a spreadsheet: a CSV file, and the decisions read back from it.

=======================  ==============================================================================
``id``                   identifies the detection; do not change
``number``               row of ``detections.parquet``, from 1, by decreasing score
``class``, ``score``     output of the detector
``x``, ``y``             centre in level-0 pixels
``in_hotspot``           ``yes`` if it counts in the hotspot, at the time of writing
``decision``             empty, ``accepted`` or ``rejected``: the column to edit; ``added`` where a reviewer
                         added the mitosis in QuPath, any other entry removes it
=======================  ==============================================================================
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pathology.atomic_files import write_text
from pathology.errors import InputTableError
from pathology.findings.mitotic_count import HotspotCount
from pathology.findings.slide_detections import Decision, SlideDetections, Verdict

__all__ = ["COLUMNS", "read_detection_table", "write_detection_table"]

COLUMNS: Final = ("id", "number", "class", "score", "x", "y", "in_hotspot", "decision")

_WORDS: Final[Mapping[str, Verdict | None]] = {
    "": None,
    "accepted": "accepted",
    "accept": "accepted",
    "rejected": "rejected",
    "reject": "rejected",
}


def write_detection_table(
    path: Path,
    detections: SlideDetections,
    decisions: Mapping[int, Decision],
    hotspot: HotspotCount | None = None,
) -> None:
    """Write the table.

    Parameters
    ----------
    path
        The CSV file.
    detections, decisions
        Of the slide.
    hotspot
        The hotspot, whose members are marked; ``None`` if it is unknown.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    members = set(hotspot.members) if hotspot is not None else set()
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, ((x, y), score, kind) in enumerate(
        zip(detections.found.centres.tolist(), detections.found.scores.tolist(), detections.kinds.tolist(), strict=True)
    ):
        verdict = decisions[row].verdict if row in decisions else ""
        place = "yes" if row in members else ""
        name = detections.header.classes[kind].name
        writer.writerow((detections.uuid(row), row + 1, name, f"{score:.4f}", f"{x:.1f}", f"{y:.1f}", place, verdict))
    name = detections.header.classes[detections.counted_class].name
    for row, decision in decisions.items():
        if decision.verdict == "added":
            place = "yes" if row in members else ""
            cells = ("", f"{decision.x:.1f}", f"{decision.y:.1f}", place, "added")
            writer.writerow((detections.uuid(row), row + 1, name, *cells))
    write_text(path, stream.getvalue())


def read_detection_table(
    path: Path, detections: SlideDetections, earlier: Mapping[int, Decision] | None = None
) -> dict[int, Decision]:
    """Read decisions back from an edited table.

    Changes made by spreadsheets are tolerated: other separators (semicolon, tab), a byte order mark, other letter case,
    reordered columns, additional columns, missing rows.  A detection without a row keeps its decision.

    Parameters
    ----------
    path
        The CSV file.
    detections
        Of the same slide.
    earlier
        Existing decisions, by row; an unchanged one keeps its time.

    Returns
    -------
    dict
        Decisions by row.

    Raises
    ------
    InputTableError
        If a column is missing, a row belongs to another slide or is duplicated, or a decision is invalid; the message
        names the line.  Nothing is imported from such a table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputTableError(f"cannot read the table ({error})", where=path, remedy="Save it as CSV, UTF-8") from error
    heading = text.partition("\n")[0]
    separator = max(",;\t", key=heading.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator)
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    for column in ("id", "decision"):
        if column not in names:
            raise InputTableError(f"the table has no column {column!r}", where=path, remedy="Edit the exported table")
    result = dict(earlier or {})
    added = {detections.uuid(row): row for row, decision in result.items() if decision.verdict == "added"}
    lines: dict[int, int] = {}
    for record in reader:
        line = reader.line_num
        identity = (record[names["id"]] or "").strip()
        word = (record[names["decision"]] or "").strip().lower()
        if not identity and not word:
            continue
        row = detections.row_of(identity)
        if row is None and identity.lower() in added:
            if word != "added":
                result.pop(added[identity.lower()], None)
            continue
        if row is None:
            raise InputTableError(f"line {line}: {identity!r} is not a detection of this slide", where=path)
        if row in lines:
            raise InputTableError(f"lines {lines[row]} and {line} are the same detection", where=path)
        lines[row] = line
        if word not in _WORDS:
            raise InputTableError(
                f"line {line}: {word!r} is not a decision", where=path, remedy="Enter accepted, rejected, or nothing"
            )
        verdict = _WORDS[word]
        if verdict is None:
            result.pop(row, None)
        elif row not in result or result[row].verdict != verdict:
            result[row] = Decision.on(detections, row, verdict)
    return result

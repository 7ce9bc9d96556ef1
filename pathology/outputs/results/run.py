"""``run.json``: how a batch was scored, the order of its slides, and checksums of the batch-level files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathology.atomic_files import write_text
from pathology.errors import StoreError
from pathology.input_files import read_json
from pathology.outputs.results.record import checksum_of, file_checksum

__all__ = ["RUN", "batch_files_whole", "read_run", "write_run"]

RUN = "run.json"
_BATCH_FILES = ("results.csv", "results.parquet", "index.html")


def write_run(out: Path, record: Mapping[str, Any], *, finished: bool = False) -> None:
    """Write the record of a run.

    Parameters
    ----------
    out
        The results folder.
    record
        Facts about the run.
    finished
        Whether the tables and the batch report are written; their checksums are then added to the record.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    files = {name: file_checksum(out / name) for name in _BATCH_FILES} if finished else {}
    whole = {**{k: v for k, v in record.items() if k not in ("checksum", "files")}, "files": files}
    text = json.dumps({"checksum": checksum_of(whole), **whole}, indent=1, ensure_ascii=False)
    write_text(out / RUN, text)


def read_run(out: Path) -> dict[str, Any]:
    """Read the record of the last run; empty if there is none or it is damaged."""
    try:
        record = read_json(out / RUN, StoreError)
        stated = record.pop("checksum")
        return dict(record) if stated == checksum_of(record) else {}
    except (StoreError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def batch_files_whole(out: Path) -> bool:
    """Whether the batch-level files are unchanged since the last finished run."""
    files = read_run(out).get("files") or {}
    try:
        return set(files) == set(_BATCH_FILES) and all(file_checksum(out / n) == s for n, s in files.items())
    except OSError:
        return False

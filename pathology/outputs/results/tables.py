"""``results.csv`` and ``results.parquet``: one row per slide.

Both hold the same columns and values.  Missing values are empty cells in CSV and nulls in Parquet; empty text
counts as missing.  The CSV is RFC 4180 (UTF-8, comma, CRLF, fields quoted where needed).

A spreadsheet interprets a cell that begins with ``=``, ``+``, ``-`` or ``@`` as a formula, and slide names come from
file names.  In the CSV, such text (and text beginning with a tab or carriage return) is prefixed with an apostrophe,
which marks text in spreadsheets; :func:`read_results` removes it again, exactly.  Numbers and
Parquet are untouched.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pathology.atomic_files import write_bytes, write_text
from pathology.errors import StoreError, UsageError
from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.record import file_checksum
from pathology.outputs.results.run import read_run
from pathology.path_text import valid_text

__all__ = ["check_table", "columns", "read_results", "results_frame", "write_results"]

# The order is a contract: programs read the first ones by position.
_BEFORE_CLASSES = {
    "slide_id": pa.string(),
    "patient_id": pa.string(),
    "path": pa.string(),
    "status": pa.string(),
    "prediction": pa.string(),  # empty where the model abstained
    "most_probable_class": pa.string(),
}
_AFTER_CLASSES = {
    "abstained_because": pa.string(),
    "patches": pa.int64(),
    "patches_total": pa.int64(),
    "unreadable_tiles": pa.int64(),
    "tissue_mm2": pa.float64(),
    "seconds": pa.float64(),
    "reader": pa.string(),
    "mpp": pa.float64(),
    "error": pa.string(),
}
_FURTHER = {
    "masked_patches": pa.int64(),
    "mpp_source": pa.string(),
    "width": pa.int64(),
    "height": pa.int64(),
    "model": pa.string(),
    "model_sha256": pa.string(),
    "engine": pa.string(),
    "fingerprint": pa.string(),
    "attempts": pa.int64(),
    "warnings": pa.string(),
    "key": pa.string(),
    "prediction_set": pa.string(),  # classes joined by " | "; "none" where no class is in it
    "out_of_domain": pa.bool_(),
    "domain_score": pa.float64(),
}
_COUNT = {
    "mitoses": pa.int64(),
    "mitoses_per_mm2": pa.float64(),  # of tissue
    "hotspot_mitoses": pa.int64(),
    "hotspot_mm2": pa.float64(),
    "hotspot_tissue_mm2": pa.float64(),  # in the window
    "hotspot_mitoses_per_mm2": pa.float64(),  # of the tissue in the window
}
_FURTHER |= _COUNT
_FIXED = _BEFORE_CLASSES | _AFTER_CLASSES | _FURTHER
_PER_CLASS = {"p_": "probability", "share_": "share", "area_mm2_": "area_mm2"}

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def columns(classes: Sequence[str]) -> list[str]:
    """Return the column names for a model's classes, in order."""
    return [field.name for field in _schema(classes)]


def _schema(classes: Sequence[str]) -> pa.Schema:
    fields = [
        *_BEFORE_CLASSES.items(),
        *((f"p_{name}", pa.float64()) for name in classes),
        *_AFTER_CLASSES.items(),
        *((f"share_{name}", pa.float64()) for name in classes),
        *((f"area_mm2_{name}", pa.float64()) for name in classes),
        *_FURTHER.items(),
    ]
    return pa.schema(fields)


def _row(result: SlideResult) -> dict[str, Any]:
    row = {name: getattr(result, name) for name in _FIXED if name not in ("warnings", "prediction_set", *_COUNT)}
    row["warnings"] = " | ".join(result.warnings)
    if result.prediction_set is not None:
        row["prediction_set"] = " | ".join(result.prediction_set) or "none"
    count = result.mitoses
    if count is not None:
        spot = count.hotspot
        window = (None,) * 3 if spot is None else (spot.count, spot.area_mm2, spot.tissue_mm2)
        values = (count.total, count.overall_per_mm2, *window, count.hotspot_per_mm2)
        row |= dict(zip(_COUNT, values, strict=True))
    for finding in result.classes:
        row |= {prefix + finding.name: getattr(finding, field) for prefix, field in _PER_CLASS.items()}
    # Text that is not valid UTF-8 (a file name in another encoding) would make the whole table fail.
    return {name: (valid_text(value) or None) if isinstance(value, str) else value for name, value in row.items()}


def _table(results: Sequence[SlideResult], classes: Sequence[str]) -> pa.Table:
    for result in results:
        unknown = [finding.name for finding in result.classes if finding.name not in classes]
        if unknown:
            raise UsageError(
                f"the result has a class {unknown[0]!r} that the table has no column for", where=result.path
            )
    return pa.Table.from_pylist([_row(result) for result in results], schema=_schema(classes))


def _frame(table: pa.Table) -> pd.DataFrame:
    kinds = {pa.string(): pd.StringDtype("python"), pa.int64(): pd.Int64Dtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=kinds.get)
    return frame


def results_frame(results: Sequence[SlideResult], classes: Sequence[str]) -> pd.DataFrame:
    """Return one row per slide.

    Parameters
    ----------
    results
        In the order of the rows.
    classes
        The model's classes; the result of a failed slide has none.

    Returns
    -------
    pandas.DataFrame
        Text as ``string``, counts as ``Int64``, measures as ``float64`` (NaN if unknown), ``abstained`` as
        ``bool``.

    Raises
    ------
    UsageError
        If a result has a class that is not among ``classes``.
    """
    return _frame(_table(results, classes))


def check_table(path: Path) -> None:
    """Check a table of a results folder against the checksum in ``run.json``, if there is one.

    Raises
    ------
    StoreError
        If its checksum differs.
    """
    stated = (read_run(path.parent).get("files") or {}).get(path.name)
    if stated is not None and path.is_file() and file_checksum(path) != stated:
        raise StoreError(
            "this table was modified or damaged after it was written",
            where=path,
            remedy="Run the same pathology score command again; save an edited table under another name",
        )


def write_results(folder: Path, results: Sequence[SlideResult], classes: Sequence[str]) -> None:
    """Write ``results.csv`` and ``results.parquet`` into a folder, each completely or not at all.

    Raises
    ------
    UsageError
        If a result has a class that is not among ``classes``.
    OutputError
        If they cannot be written; each existing file is then either unchanged or completely replaced.
    """
    table = _table(results, classes)
    parquet = io.BytesIO()
    pq.write_table(table, parquet, compression="zstd")
    write_text(folder / "results.csv", _csv(table))
    write_bytes(folder / "results.parquet", parquet.getvalue())


def _csv(table: pa.Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text)  # CRLF and quoting where needed, as in RFC 4180
    writer.writerow([_harmless(name) for name in table.column_names])
    for row in table.to_pylist():
        writer.writerow([_cell(value) for value in row.values()])
    return text.getvalue()


def _cell(value: str | float | int | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    # repr of a float is the shortest text that reads back as the same number
    return _harmless(value) if isinstance(value, str) else repr(value)


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _original(text: str) -> str:
    return text[1:] if _ESCAPED.match(text) else text


def read_results(path: Path) -> pd.DataFrame:
    """Read ``results.csv`` or ``results.parquet``.

    Returns
    -------
    pandas.DataFrame
        Equal to the :func:`results_frame` that was written.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    StoreError
        If it is not a results table.

    Examples
    --------
    >>> read_results(results_path / "results.csv")[["slide_id", "status"]]
      slide_id  status
    0    first  scored
    1   second  scored
    2   broken  failed
    """
    check_table(path)
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else _read_csv(path)
    except (pa.ArrowInvalid, ValueError, csv.Error) as error:
        raise StoreError(f"not a results table ({error})", where=path) from error
    missing = [name for name in (*_BEFORE_CLASSES, *_AFTER_CLASSES) if name not in table.column_names]
    if missing:
        raise StoreError(f"not a results table: the column {missing[0]!r} is missing", where=path)
    return _frame(table)


def _read_csv(path: Path) -> pa.Table:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, strict=True))
    names = [_original(name) for name in rows[0]] if rows else []
    short = next((number for number, row in enumerate(rows, 1) if len(row) != len(names)), None)
    if short is not None:
        raise ValueError(f"row {short} has {len(rows[short - 1])} cells instead of {len(names)}")
    kinds = [
        _FIXED.get(name) or (pa.float64() if name.startswith(tuple(_PER_CLASS)) else pa.string()) for name in names
    ]
    data = [[_value(row[i], kind) for row in rows[1:]] for i, kind in enumerate(kinds)]
    return pa.table([pa.array(values, kind) for values, kind in zip(data, kinds, strict=True)], names=names)


def _value(cell: str, kind: pa.DataType) -> str | float | int | bool | None:
    if cell == "":
        return None
    if kind == pa.string():
        return _original(cell)
    if kind == pa.bool_():
        return cell == "true"
    return int(cell) if kind == pa.int64() else float(cell)

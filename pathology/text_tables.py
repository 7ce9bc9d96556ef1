"""Tables that other people's programs write, read in one way: text with a header and one record per row.

Spreadsheets and other pathology tools differ in encoding, separator, capitals and names of columns.  What is
unambiguous is read; anything else is refused with the line and the remedy, because a column that is read wrongly costs
a patient.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from pathology.errors import InputTableError
from pathology.input_files import read_limited

__all__ = ["TableRow", "TextTable", "read_number", "read_text_table"]

logger = logging.getLogger(__name__)

_SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

_LARGEST_TABLE: Final = 256 * 2**20
"""Bytes of a table that is read: a million slides."""
_LONGEST_FIELD: Final = 10_000_000
"""Characters of one value; the standard library's own limit refuses long notes."""


@dataclass(frozen=True)
class TableRow:
    """One record.

    Attributes
    ----------
    line
        Line of the file on which it ends, from 1.
    values
        Column name to value, without surrounding blanks; a missing value is empty.
    excess
        Values beyond the last column.
    """

    line: int
    values: Mapping[str, str]
    excess: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextTable:
    """A table as read.

    Attributes
    ----------
    columns
        Column names in the order of the file, known ones by their standard name.
    rows
        Records that hold anything at all.
    """

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_text_table(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    *,
    required: Collection[str],
    kind: str,
    list_of: str | None = None,
    list_suffixes: Collection[str] = (),
) -> TextTable:
    r"""Read a table with a header.

    The text is UTF-8 or UTF-16, with or without a byte order mark.  The separator is the one that a first line such as
    ``sep=;`` names, else the one with which the header names most of the known columns.  Column names match in any
    case, with or without blanks, hyphens and underscores.  Rows without any value are skipped.

    Parameters
    ----------
    path
        The file.
    columns
        Standard name of each known column to the other names it goes by.
    required
        Standard names that must be there.
    kind
        What the table is, for messages, such as ``manifest``.
    list_of
        Standard name of the column to read if the file is a bare list without a header.
    list_suffixes
        File name endings by which a bare list is recognised.

    Raises
    ------
    InputTableError
        If the file is no such text, a required column is missing, a column is named twice, or a row is torn.

    Examples
    --------
    >>> path = folder / "table.csv"
    >>> _ = path.write_text("sep=;\nWSI;MPP\na.svs;0,5\n;\n")
    >>> table = read_text_table(path, {"path": ["wsi"], "mpp": []}, required=["path"], kind="manifest")
    >>> [dict(row.values) for row in table.rows]
    [{'path': 'a.svs', 'mpp': '0,5'}]
    """
    text = _text(path, kind)
    stated, skipped = None, 0
    first, _, rest = text.partition("\n")
    if match := re.fullmatch(r"\"?sep=(.)\"?[,;\t]*\r?", first, re.IGNORECASE):
        stated, text, skipped = match[1], rest, 1
    if list_of is not None and _is_list(text, list_suffixes):
        rows = [(n + skipped, line.strip().strip('"')) for n, line in enumerate(text.splitlines(), 1)]
        return TextTable((list_of,), tuple(TableRow(n, {list_of: value}) for n, value in rows if value))
    separator = stated or _separator(text, columns)
    records = _records(text, separator, path, kind, skipped)
    header = [name.strip() for name in records[0][1]] if records else []
    names = _names(header, columns, path, kind)
    for column in required:
        if column not in names:
            raise _missing(column, columns[column], header, separator, path, kind)
    found = []
    for line, cells in records[1:]:
        values = [cell.strip() for cell in cells]
        if any(values):
            values += [""] * (len(header) - len(values))
            excess = tuple(value for value in values[len(header) :] if value)
            if excess:
                _check_excess(values, len(header), path, line)
            found.append(TableRow(line, {n: v for n, v in zip(names, values, strict=False) if n}, excess))
    return TextTable(tuple(name for name in names if name), tuple(found))


def read_number(text: str) -> float:
    """Read a number with a decimal point or a decimal comma.

    Raises
    ------
    ValueError
        If it is none, is not finite, or may have separators of thousands.

    Examples
    --------
    >>> read_number("0,25")
    0.25
    """
    if not re.fullmatch(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?", text):
        raise ValueError(f"{text!r} is not a number")
    return float(text.replace(",", "."))


def _text(path: Path, kind: str) -> str:
    data = read_limited(path, InputTableError, _LARGEST_TABLE)
    if data.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        raise InputTableError(f"the {kind} is an Excel workbook", where=path, remedy="Save it as CSV UTF-8")
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data[1:2] == b"\0" and data[:1] != b"\0":
        encoding = "utf-16-le"
    elif data[:1] == b"\0" and data[1:2] != b"\0":
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_unicode(data, error, path, kind) from error
    if "\0" in text:
        raise InputTableError(f"the {kind} is not a text file", where=path, remedy="Save it as CSV UTF-8")
    return text


def _not_unicode(data: bytes, error: UnicodeDecodeError, path: Path, kind: str) -> InputTableError:
    """Name the line.  A text in 8 bits does not state its encoding, and a wrong guess renames files and patients."""
    line = data.count(b"\n", 0, error.start) + 1
    shown = data[: error.start].rpartition(b"\n")[2] + data[error.start :].partition(b"\n")[0]
    western = shown.decode("cp1252", errors="replace").strip()[:60]
    return InputTableError(
        f"the {kind} is not UTF-8 text (line {line}, perhaps {western!r})",
        where=path,
        remedy="Save it as CSV UTF-8",
    )


def _is_list(text: str, suffixes: Collection[str]) -> bool:
    """Tell whether the first line that says anything is already a file name and nothing else."""
    first = next((line.strip().strip('"') for line in text.splitlines() if line.strip()), "")
    if not first or any(separator in first for separator in ";\t|"):
        return False
    endings = [suffix for suffix in suffixes if first.lower().endswith(suffix)]
    # A comma in the only file name of a line is rare; a second value is common.
    return bool(endings) and "," not in first


def _separator(text: str, columns: Mapping[str, Sequence[str]]) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")
    known = {_plain(name) for standard, others in columns.items() for name in (standard, *others)}

    def suits(separator: str) -> tuple[int, int]:
        cells = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        return sum(_plain(cell) in known for cell in cells), len(cells)

    return max(_SEPARATORS, key=suits)


def _records(text: str, separator: str, path: Path, kind: str, skipped: int) -> list[tuple[int, list[str]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        return [(reader.line_num + skipped, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputTableError(
            f"the {kind} is not a table of values ({error})",
            where=f"{path}, line {reader.line_num + skipped}",
            remedy="Check the quotation marks",
        ) from error


def _names(header: Sequence[str], columns: Mapping[str, Sequence[str]], path: Path, kind: str) -> list[str]:
    """Return the name under which each column is kept: known ones by their standard name."""
    plain = [_plain(name) for name in header]
    result = list(header)
    taken: dict[str, int] = {}
    for standard, others in columns.items():
        own = [place for place, name in enumerate(plain) if name == _plain(standard)]
        also = [_plain(other) for other in others]
        places = own or [place for place, name in enumerate(plain) if name in also and place not in taken.values()]
        if len(places) > 1:
            named = " and ".join(repr(header[place]) for place in places)
            raise InputTableError(
                f"the {kind} has several columns for '{standard}': {named}",
                where=path,
                remedy=f"Name one of them '{standard}', and the others otherwise",
            )
        if places:
            taken[standard] = places[0]
            result[places[0]] = standard
    for place, name in enumerate(result):
        if name and name in result[:place]:
            raise InputTableError(
                f"the {kind} has two columns {name!r}", where=path, remedy="Rename or remove one of them"
            )
    return result


def _missing(
    column: str, others: Sequence[str], header: Sequence[str], separator: str, path: Path, kind: str
) -> InputTableError:
    shown = ", ".join(name for name in header if name) or "none"
    near = difflib.get_close_matches(_plain(column), {_plain(name): name for name in header}, n=1, cutoff=0.4)
    guess = next((name for name in header if near and _plain(name) == near[0]), None)
    known = f" or {', '.join(others)}" if others else ""
    return InputTableError(
        f"the {kind} has no column '{column}' (available, separated by {_SEPARATORS.get(separator, separator)}:"
        f" {shown})",
        where=path,
        remedy=f"Name a column '{column}'{known}{f' (instead of {guess!r}?)' if guess else ''}, "
        "and separate columns by commas, semicolons or tabs",
    )


def _check_excess(values: Sequence[str], width: int, path: Path, line: int) -> None:
    """Refuse a row with a number that its decimal comma has torn in two; warn about other excess values."""
    where = f"{path}, line {line}"
    for left, right in pairwise(values):
        if left.lstrip("+-").isdigit() and right.isdigit():
            raise InputTableError(
                f"{len(values)} values for {width} columns: {left},{right} may be one number with a decimal comma",
                where=where,
                remedy="Put it in quotation marks, or use a decimal point",
            )
    logger.warning("%s: %d values for %d columns; those beyond the last column are ignored", where, len(values), width)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())

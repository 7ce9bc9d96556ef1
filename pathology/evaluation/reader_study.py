"""Reader studies: readers with and without AI assistance, one row per reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from pathology.errors import InputTableError
from pathology.input_files import reading, require_regular
from pathology.stats.reader_study import ReaderStudy, reader_study

__all__ = ["read_reader_study"]

_COLUMNS = ("reader", "case", "truth", "unaided", "aided")


def read_reader_study(path: Path, *, resamples: int = 2000, seed: int = 0) -> ReaderStudy:
    r"""Compare the accuracy of readers with and without AI assistance.

    Parameters
    ----------
    path
        CSV with the columns ``reader``, ``case``, ``truth``, ``unaided`` and ``aided``: the diagnosis of each reader
        for each case, without and with AI assistance.
    resamples, seed
        Bootstrap over readers and cases.

    Raises
    ------
    InputTableError
        If a column or value is missing, a reader read a case twice or not at all, or a case has two truth values.
    UsageError
        If there are fewer than two readers or cases.

    Examples
    --------
    >>> table = folder / "readers.csv"
    >>> rows = ["reader,case,truth,unaided,aided"]
    >>> rows += [f"R{r},C{c},a,{'a' if (r + c) % 2 else 'b'},a" for r in range(3) for c in range(6)]
    >>> _ = table.write_text("\n".join(rows))
    >>> read_reader_study(table, resamples=200).gain.value
    0.5
    """
    require_regular(path, InputTableError)
    with reading(path, InputTableError, what="the reader table cannot be read"):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in _COLUMNS:
        if column not in table:
            raise InputTableError(
                f"the reader table has no column '{column}'",
                where=path,
                remedy=f"Required columns: {', '.join(_COLUMNS)}",
            )
        empty = np.flatnonzero(table[column].str.strip() == "")
        if empty.size:
            raise InputTableError(f"column '{column}' is empty", where=f"{path}, line {empty[0] + 2}")
    doubled = table[table.duplicated(["reader", "case"])]
    if len(doubled):
        first = doubled.iloc[0]
        raise InputTableError(f"reader {first['reader']} read case {first['case']} twice", where=path)
    truths = table.groupby("case")["truth"].nunique()
    if (truths > 1).any():
        raise InputTableError(f"case {truths[truths > 1].index[0]} has two different truth values", where=path)
    answers = table.set_index(["reader", "case"])
    readers, cases = sorted(set(table["reader"])), sorted(set(table["case"]))
    missing = next(((r, c) for r in readers for c in cases if (r, c) not in answers.index), None)
    if missing is not None:
        raise InputTableError(
            f"reader {missing[0]} did not read case {missing[1]}",
            where=path,
            remedy="Exclude cases that some readers did not read",
        )
    ordered = answers.loc[[(r, c) for r in readers for c in cases]]
    shape = len(readers), len(cases)
    unaided, aided = ((ordered[how] == ordered["truth"]).to_numpy().reshape(shape) for how in ("unaided", "aided"))
    return reader_study(unaided, aided, resamples=resamples, seed=seed)

"""Preprocess table columns to a covariate matrix; all parameters are estimated on the training patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, model_validator
from sklearn.impute import KNNImputer

from pathology.errors import InputTableError, UsageError
from pathology.settings import Record
from pathology.survival.outcome import Outcome

__all__ = ["CovariateSettings", "Preparation", "read_outcome_columns"]

Floats = npt.NDArray[np.float64]
RARE = "(rare)"
"""Name of the pooled level of rare categories."""


class CovariateSettings(Record):
    """Covariate columns and their preprocessing."""

    numeric: tuple[str, ...] = ()
    """Numeric columns; standardised."""
    categorical: tuple[str, ...] = ()
    """Categorical columns; each level except the most frequent becomes an indicator covariate."""
    imputation: Literal["median", "knn"] = "median"
    """Imputation: the training median (most frequent level), or the mean of the nearest training patients.
    ``knn`` stores the preprocessed training rows in the model; ``median`` stores two numbers per column."""
    neighbours: Annotated[int, Field(ge=1)] = 5
    """Number of neighbours of ``knn``."""
    min_patients: Annotated[int, Field(ge=1)] = 5
    """Levels with fewer training patients are pooled: too few patients for an estimate."""

    @model_validator(mode="after")
    def _named_once(self) -> CovariateSettings:
        names = (*self.numeric, *self.categorical)
        if not names:
            raise ValueError("at least one covariate is required")
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice")
        return self


class Preparation:
    """Coding, imputation and scaling, fitted on training patients and then fixed.

    Parameters
    ----------
    settings
        Covariate settings.

    Attributes
    ----------
    names : tuple of str
        Covariates in the order of the matrix, such as ``age`` and ``site=uterus``.
    levels, reference : dict
        Levels with an indicator covariate, and the reference level (most frequent), of each categorical column.
    dropped : dict
        Columns without information in the training patients, with the reason.
    """

    def __init__(self, settings: CovariateSettings) -> None:
        self.settings = settings
        self.names: tuple[str, ...] = ()
        self.levels: dict[str, tuple[str, ...]] = {}
        self.reference: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self._numeric: list[str] = []
        self._centre: Floats = np.zeros(0)
        self._scale: Floats = np.ones(0)
        self._fill: Floats = np.zeros(0)
        self._neighbours: Floats | None = None
        self._imputer: KNNImputer | None = None

    def fit(self, table: pd.DataFrame) -> Preparation:
        """Estimate levels, means, standard deviations and imputation values on the training patients.

        Parameters
        ----------
        table
            One row per patient, with the covariate columns.

        Returns
        -------
        Preparation
            Itself.

        Raises
        ------
        InputTableError
            A column is missing, a value is not a number, or no column is informative.
        """
        names: list[str] = []
        self.dropped, self.levels, self.reference = {}, {}, {}
        self._numeric = []
        for column in self.settings.numeric:
            values = _numbers(table, column)
            known = values[np.isfinite(values)]
            if known.size == 0 or np.ptp(known) == 0:
                self.dropped[column] = "no values" if known.size == 0 else "constant"
                continue
            self._numeric.append(column)
            names.append(column)
        for column in self.settings.categorical:
            counts = Counter(t for t in _texts(table, column) if t is not None)
            ordered = sorted(counts, key=lambda level, c=counts: (-c[level], level))  # type: ignore[misc]
            kept = [level for level in ordered if counts[level] >= self.settings.min_patients]
            rare = [level for level in ordered if counts[level] < self.settings.min_patients]
            if sum(counts[level] for level in rare) >= self.settings.min_patients and kept:
                kept.append(RARE)
            if len(kept) < 2:
                self.dropped[column] = f"fewer than two levels with {self.settings.min_patients} patients"
                continue
            self.reference[column] = kept[0]
            self.levels[column] = tuple(kept[1:])
            names += [f"{column}={level}" for level in kept[1:]]
        if not names:
            reasons = "; ".join(f"'{c}': {why}" for c, why in self.dropped.items())
            raise InputTableError(f"no informative covariate in the training patients ({reasons})")
        self.names = tuple(names)
        coded = self._code(table)
        numeric = len(self._numeric)
        self._centre, self._scale = np.zeros(len(names)), np.ones(len(names))
        self._centre[:numeric] = np.nanmean(coded[:, :numeric], axis=0) if numeric else 0.0
        self._scale[:numeric] = np.nanstd(coded[:, :numeric], axis=0) if numeric else 1.0
        scaled = (coded - self._centre) / self._scale
        self._fill = np.nanmedian(scaled, axis=0)
        # The median of an indicator is 0 unless most patients have the level, so missing becomes the reference level.
        self._fill[numeric:] = np.round(self._fill[numeric:])
        if self.settings.imputation == "knn":
            self._remember(scaled)
        return self

    def transform(self, table: pd.DataFrame) -> Floats:
        """Return the covariates of patients, with the parameters of the training patients.

        Parameters
        ----------
        table
            One row per patient, with the covariate columns.

        Returns
        -------
        ndarray, shape (N, P)
            Without missing values; columns as in ``names``.

        Raises
        ------
        UsageError
            Called before :meth:`fit`.
        InputTableError
            A column is missing or a value is not a number.
        """
        if not self.names:
            raise UsageError("the preparation has not been fitted")
        scaled = (self._code(table) - self._centre) / self._scale
        if self._imputer is not None:
            return np.asarray(self._imputer.transform(scaled), dtype=float)
        return np.where(np.isnan(scaled), self._fill, scaled)

    def scale_of(self, name: str) -> float:
        """Return the size of one unit of this covariate in units of the original column."""
        return float(self._scale[self.names.index(name)])

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return the fitted state as JSON-serialisable values and arrays."""
        arrays = {"centre": self._centre, "scale": self._scale, "fill": self._fill}
        if self._neighbours is not None:
            arrays["neighbours"] = self._neighbours
        return {
            "settings": self.settings.model_dump(mode="json"),
            "names": list(self.names),
            "levels": {c: list(v) for c, v in self.levels.items()},
            "reference": self.reference,
            "numeric": self._numeric,
            "dropped": self.dropped,
        }, arrays

    @classmethod
    def from_state(cls, values: dict[str, Any], arrays: dict[str, Floats]) -> Preparation:
        """Rebuild a fitted preparation from :meth:`state`."""
        self = cls(CovariateSettings(**values["settings"]))
        self.names = tuple(values["names"])
        self.levels = {c: tuple(v) for c, v in values["levels"].items()}
        self.reference, self.dropped = dict(values["reference"]), dict(values["dropped"])
        self._numeric = list(values["numeric"])
        self._centre, self._scale, self._fill = (
            np.asarray(arrays[k], dtype=float) for k in ("centre", "scale", "fill")
        )
        if "neighbours" in arrays:
            self._remember(np.asarray(arrays["neighbours"], dtype=float))
        return self

    def _remember(self, scaled: Floats) -> None:
        self._neighbours = scaled
        self._imputer = KNNImputer(n_neighbors=self.settings.neighbours, keep_empty_features=True).fit(scaled)

    def _code(self, table: pd.DataFrame) -> Floats:
        columns = [_numbers(table, column) for column in self._numeric]
        for column in self.levels:
            texts = _texts(table, column)
            known = {self.reference[column], *self.levels[column]}
            missing = np.array([t is None for t in texts])
            for level in self.levels[column]:
                # A level unseen in training counts as rare or, without a rare level, as the reference.
                match = [t == level or (level == RARE and t is not None and t not in known) for t in texts]
                columns.append(np.where(missing, np.nan, np.asarray(match, dtype=float)))
        return np.stack(columns, axis=1)


def read_outcome_columns(table: pd.DataFrame, time: str, event: str) -> tuple[Outcome, npt.NDArray[np.int64]]:
    """Read follow-up from a table, and the rows that have it.

    Parameters
    ----------
    table
        One row per patient.
    time, event
        Column names.

    Returns
    -------
    tuple
        Follow-up of the M patients with both values, and their row numbers, shape (M,).

    Raises
    ------
    InputTableError
        A column is missing, a time is invalid or negative, an event is neither 0 nor 1, or no row has both; the
        message names the first row.

    Examples
    --------
    >>> import pandas as pd
    >>> outcome, rows = read_outcome_columns(pd.DataFrame({"days": [100, 250], "died": [1, 0]}), "days", "died")
    >>> outcome.time.tolist(), outcome.event.tolist()
    ([100.0, 250.0], [True, False])
    """
    t, e = _numbers(table, time), _numbers(table, event)
    rows = np.flatnonzero(np.isfinite(t) & np.isfinite(e))
    if rows.size == 0:
        raise InputTableError(f"no row has both '{time}' and '{event}'")
    for i in rows:
        if t[i] < 0:
            raise InputTableError(f"row {i + 2}: '{time}' is {t[i]:g}", remedy="Times must not be negative")
        if e[i] not in (0, 1):
            raise InputTableError(f"row {i + 2}: '{event}' is {e[i]:g}", remedy="Use 1 for observed, 0 for censored")
    return Outcome(t[rows], e[rows].astype(bool)), rows


def _column(table: pd.DataFrame, name: str) -> pd.Series[Any]:
    if name not in table.columns:
        raise InputTableError(
            f"missing column '{name}'", remedy=f"Available columns: {', '.join(map(str, table.columns))}"
        )
    return table[name]


def _numbers(table: pd.DataFrame, name: str) -> Floats:
    column = _column(table, name)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    for i, (value, raw) in enumerate(zip(values, column, strict=True)):
        if np.isnan(value) and not pd.isna(raw) and str(raw).strip():
            # Row 1 of the file is the header.
            raise InputTableError(
                f"row {i + 2}: '{name}' is '{raw}', expected a number", remedy="Correct the cell or leave it empty"
            )
        if np.isinf(value):
            raise InputTableError(f"row {i + 2}: '{name}' is infinite", remedy="Correct the cell or leave it empty")
    return values


def _texts(table: pd.DataFrame, name: str) -> Sequence[str | None]:
    return [None if pd.isna(v) or not str(v).strip() else str(v).strip() for v in _column(table, name)]

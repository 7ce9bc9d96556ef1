"""Promoter features from DNA methylation, as used by MethylationToActivity (Williams 2021, Genome Biol 22:24).

Each transcription start has 20 windows of 250 base pairs and 20 of 2,500.  A window is described by the mean M value of
its CpG sites, by the sum of their squared deviations (SSD) as a fraction of the region's, by the SSD itself and by the
SSD per site.  The computation follows the authors' published scripts, including their rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pathology.errors import InputTableError, UsageError

__all__ = [
    "CHANNELS",
    "WINDOWS",
    "WINDOW_SIZES",
    "histone_enrichment",
    "promoter_features",
    "read_methylation",
    "read_promoters",
    "read_signals",
    "scale_features",
]

Floats = npt.NDArray[np.float64]
WINDOWS = 20
"""Windows around a transcription start, ten on each side."""
WINDOW_SIZES = (250, 2500)
"""Base pairs."""
CHANNELS = ("mean", "fraction of SSD", "SSD", "variance")
"""Order of the features.  The authors' script sorts them by name (Ave, FracSSD, SSD, Var), so that channels 0, 1 and 3,
which the network uses, are the mean, the fraction of the SSD and the variance."""


def read_methylation(path: Path) -> pd.DataFrame:
    """Read methylation calls: tab-separated, columns ``chrom``, ``pos`` (5' cytosine, plus strand), ``mval``.

    Parameters
    ----------
    path
        The file; compression is inferred from the suffix.

    Returns
    -------
    DataFrame
        ``chrom`` without the prefix ``chr``, ``pos`` int64, ``mval`` float64 (log2(beta / (1 - beta))), sorted; calls
        without a value are dropped.

    Raises
    ------
    InputTableError
        A column is missing or has an invalid value; the message gives the row.
    """
    table = _read(path, ("chrom", "pos", "mval"))
    calls = pd.DataFrame(
        {
            "chrom": table["chrom"].str.removeprefix("chr"),
            "pos": _integers(table["pos"], path, "pos"),
            "mval": _floats(table["mval"], path, "mval"),
        }
    )
    known: pd.DataFrame = calls.loc[np.isfinite(calls["mval"])]
    return known.sort_values(["chrom", "pos"], kind="stable").reset_index(drop=True)


def read_promoters(path: Path) -> pd.DataFrame:
    """Read transcripts: tab-separated, columns ``EnsmblID_T``, ``Strand``, ``Chr``, ``Start`` and ``End``.

    Parameters
    ----------
    path
        The file; compression is inferred from the suffix.

    Returns
    -------
    DataFrame
        In file order, ``Chr`` without the prefix ``chr``; other columns are kept as text.

    Raises
    ------
    InputTableError
        A column is missing or has an invalid value, or a transcript is duplicated; the message gives the row.
    """
    table = _read(path, ("EnsmblID_T", "Strand", "Chr", "Start", "End"))
    odd = np.flatnonzero(~table["Strand"].isin(["+", "-"]))
    if odd.size:
        raise InputTableError(
            f"row {odd[0] + 2}: 'Strand' is '{table['Strand'].iloc[odd[0]]}', expected + or -", where=path
        )
    twice = table["EnsmblID_T"].duplicated()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise InputTableError(f"row {row + 2}: duplicate transcript '{table['EnsmblID_T'].iloc[row]}'", where=path)
    return table.assign(
        Chr=table["Chr"].str.removeprefix("chr"),
        Start=_integers(table["Start"], path, "Start"),
        End=_integers(table["End"], path, "End"),
    )


def read_signals(path: Path, promoters: pd.DataFrame) -> tuple[Floats, Floats]:
    """Read histone signals: tab-separated, columns ``EnsmblID_T``, ``chip`` and ``control``.

    Parameters
    ----------
    path
        The file; compression is inferred from the suffix.  Other transcripts are ignored.
    promoters
        N transcripts, from :func:`read_promoters`.

    Returns
    -------
    tuple of ndarray, each of shape (N,)
        Signal and control within 1,000 base pairs of each transcription start, in the order of ``promoters``.

    Raises
    ------
    InputTableError
        A column is missing or has an invalid value, or a transcript is duplicated or missing; the message names it.
    """
    table = _read(path, ("EnsmblID_T", "chip", "control"))
    twice = np.flatnonzero(table["EnsmblID_T"].duplicated())
    if twice.size:
        raise InputTableError(
            f"row {twice[0] + 2}: duplicate transcript '{table['EnsmblID_T'].iloc[twice[0]]}'", where=path
        )
    values = pd.DataFrame(
        {name: _floats(table[name], path, name) for name in ("chip", "control")}, index=table["EnsmblID_T"]
    )
    wanted = values.reindex(promoters["EnsmblID_T"])
    unknown = np.flatnonzero(wanted.isna().any(axis=1))
    if unknown.size:
        raise InputTableError(
            f"{unknown.size} transcripts have no signal, such as '{wanted.index[unknown[0]]}'",
            where=path,
            remedy="Provide a signal for every promoter, or remove promoters without one",
        )
    return wanted["chip"].to_numpy(dtype=float), wanted["control"].to_numpy(dtype=float)


def promoter_features(promoters: pd.DataFrame, calls: pd.DataFrame) -> Floats:
    """Describe the windows around each transcription start.

    Parameters
    ----------
    promoters
        N transcripts, from :func:`read_promoters`.
    calls
        From :func:`read_methylation`, in any order.

    Returns
    -------
    ndarray, shape (N, 2, 20, 4)
        Window sizes, windows in the direction of transcription, features in the order of :data:`CHANNELS`, rounded
        to three decimals; NaN for windows without a call.  If the whole region is constant, SSD, its fraction and the
        variance are 0.

    Examples
    --------
    >>> import pandas as pd
    >>> promoters = pd.DataFrame({"Chr": ["chr1"], "Start": [10_000], "End": [12_000], "Strand": ["+"]})
    >>> calls = pd.DataFrame({"chrom": ["chr1"] * 3, "pos": [9_900, 10_050, 10_400], "mval": [0.1, 0.8, 0.4]})
    >>> promoter_features(promoters, calls).shape
    (1, 2, 20, 4)
    """
    result = np.full((len(promoters), len(WINDOW_SIZES), WINDOWS, len(CHANNELS)), np.nan)
    by_chromosome = {
        chromosome: (part["pos"].to_numpy(), part["mval"].to_numpy(dtype=float))
        for chromosome, part in calls.sort_values("pos", kind="stable").groupby("chrom", sort=False)
    }
    chromosomes = promoters["Chr"].to_numpy()
    forward = promoters["Strand"].to_numpy() == "+"
    start = np.where(forward, promoters["Start"].to_numpy(), promoters["End"].to_numpy())
    for i, chromosome in enumerate(chromosomes):
        if chromosome not in by_chromosome:
            continue
        position, value = by_chromosome[chromosome]
        for s, size in enumerate(WINDOW_SIZES):
            edges = start[i] - size * WINDOWS // 2 + size * np.arange(WINDOWS + 1)
            cut = np.searchsorted(position, edges, side="left")
            windows = _windows(value, cut)
            result[i, s] = windows if forward[i] else windows[::-1]
    return result


def _windows(value: Floats, cut: npt.NDArray[np.int64]) -> Floats:
    """Compute features of 20 windows, in order of position; ``cut`` holds 21 indices into ``value``."""
    features = np.full((WINDOWS, len(CHANNELS)), np.nan)
    region = value[cut[0] : cut[-1]]
    if region.size == 0:
        return features
    region_ssd = round(float(np.sum((region - region.mean()) ** 2)), 3)
    for w in range(WINDOWS):
        inside = value[cut[w] : cut[w + 1]]
        if inside.size == 0:
            continue
        mean = inside.mean()
        if region_ssd == 0:
            features[w] = mean, 0, 0, 0
        else:
            ssd = float(np.sum((inside - mean) ** 2))
            features[w] = mean, ssd / region_ssd, ssd, ssd / inside.size
    return np.round(features, 3)


def scale_features(features: Floats) -> Floats:
    """Scale each feature of each window size to 0.1..1 over all promoters and windows; missing windows become 0.

    The range is that of the sample itself, as published, so a promoter's value depends on the others in the sample.

    Parameters
    ----------
    features
        Shape (N, 2, 20, 4).

    Returns
    -------
    ndarray, shape (N, 2, 20, 4)

    Examples
    --------
    >>> scale_features(np.ones((1, 2, 20, 4))).shape
    (1, 2, 20, 4)
    """
    low = np.nanmin(features, axis=(0, 2), keepdims=True)
    high = np.nanmax(features, axis=(0, 2), keepdims=True)
    # As in scikit-learn's scaler, constant features map to the lower end.
    width = np.where(high > low, high - low, 1.0)
    scaled = 0.1 + 0.9 * (features - low) / width
    return np.where(np.isnan(features), 0.0, scaled)


def histone_enrichment(chip: npt.ArrayLike, control: npt.ArrayLike) -> Floats:
    """Return the target of transfer learning, log2((ChIP + a) / (control + a)).

    Parameters
    ----------
    chip, control
        Summed signal within 1,000 base pairs of each transcription start, shape (N,).

    Returns
    -------
    ndarray, shape (N,)
        ``a`` is the 25th percentile of the control; undefined values (no signal in either) become 0.

    Raises
    ------
    UsageError
        Shapes differ or a signal is negative.
    """
    above, below = np.asarray(chip, dtype=float), np.asarray(control, dtype=float)
    if above.shape != below.shape or above.ndim != 1 or above.size == 0 or min(above.min(), below.min()) < 0:
        raise UsageError(
            f"signals have shapes {above.shape} and {below.shape}, expected equal lengths and no negative values"
        )
    alpha = np.quantile(below, 0.25)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log2((above + alpha) / (below + alpha))
    return np.where(np.isfinite(value), value, 0.0)


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InputTableError(f"the table cannot be read ({error})", where=path) from error
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputTableError(
            f"missing column {', '.join(missing)}",
            where=path,
            remedy=f"Required columns, tab-separated: {', '.join(columns)}",
        )
    return table


def _integers(column: pd.Series[str], path: Path, name: str) -> npt.NDArray[np.int64]:
    bad = np.flatnonzero(~column.str.fullmatch(r"\d+"))
    if bad.size:
        raise InputTableError(f"row {bad[0] + 2}: '{name}' is '{column.iloc[bad[0]]}', expected an integer", where=path)
    return np.asarray(column.astype(np.int64), dtype=np.int64)


def _floats(column: pd.Series[str], path: Path, name: str) -> Floats:
    empty = column.str.strip().str.lower().isin(["", "na", "nan", "."])
    values = pd.to_numeric(column.mask(empty), errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(values) & ~empty.to_numpy())
    if bad.size:
        raise InputTableError(f"row {bad[0] + 2}: '{name}' is '{column.iloc[bad[0]]}', expected a number", where=path)
    return values

"""Apparent diffusion coefficients from diffusion-weighted MRI."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pathology.errors import UsageError
from pathology.radiology.io.geometry import check_same_geometry
from pathology.radiology.io.volume import Volume

__all__ = ["adc_map"]


def adc_map(volumes: Mapping[float, Volume], *, floor: float | None = None) -> Volume:
    """Fit ``S(b) = S(0) exp(-b ADC)`` in every voxel.

    Least squares on the logarithm of the signal (Stejskal and Tanner 1965), exact for two b-values.

    Parameters
    ----------
    volumes
        b-value in s/mm² to volume, two b-values or more.
    floor
        Signal below which a voxel is noise and set to 0; ``None``: 1 % of the maximum signal at the lowest
        b-value.

    Returns
    -------
    Volume
        ADC in mm²/s, negative fits set to 0.

    Raises
    ------
    UsageError
        If there are fewer than two b-values or one is negative.
    GeometryError
        If the volumes do not lie on one grid.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry, Volume
    >>> grid = Geometry((4, 4, 2), (1.0, 1.0, 4.0))
    >>> b0 = Volume(np.full((2, 4, 4), 1000.0, np.float32), grid, "MR")
    >>> b800 = Volume(np.full((2, 4, 4), 449.3, np.float32), grid, "MR")
    >>> round(float(adc_map({0.0: b0, 800.0: b800}).array.mean()), 6)
    0.001
    """
    b = np.asarray(sorted(volumes), float)
    if len(b) < 2 or b[0] < 0:
        raise UsageError(f"an ADC map requires two non-negative b-values, got {[f'{v:g}' for v in b]}")
    ordered = [volumes[v] for v in sorted(volumes)]
    for value, volume in zip(b, ordered, strict=True):
        check_same_geometry(ordered[0].geometry, volume.geometry, names=(f"b = {b[0]:g}", f"b = {value:g}"))
    lowest = float(ordered[0].array.max()) / 100 if floor is None else floor
    signal = np.stack([v.array for v in ordered]).astype(np.float64)
    valid = signal.min(axis=0) > 0
    valid &= signal[0] >= lowest
    logarithm = np.log(np.where(signal > 0, signal, 1.0))
    centred = b - b.mean()
    slope = np.tensordot(centred, logarithm, axes=1) / float((centred**2).sum())
    adc = np.where(valid, np.maximum(-slope, 0), 0)
    first = ordered[0]
    return Volume(adc.astype(np.float32), first.geometry, "MR", "mm2/s", "ADC")

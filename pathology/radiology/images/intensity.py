"""Intensity normalisation by modality."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.volume import Mask, Modality, Volume
from pathology.settings import Record

__all__ = ["IntensitySettings", "default_intensity", "normalise"]


class IntensitySettings(Record):
    """Settings of intensity normalisation."""

    method: Literal["window", "zscore", "percentile", "none"]
    """``window``: ``low``..``high`` in the unit of the image maps to 0..1, clipped (CT in HU, PET in SUV: absolute
    scales must not depend on the image content).  ``zscore``: mean 0 and standard deviation 1 over the
    foreground, clipped at ±5 (MRI has arbitrary units).  ``percentile``: the ``low``-th to ``high``-th percentile of
    the foreground maps to 0..1, clipped."""
    low: float = 0.0
    """Lower end, in the image's unit or as a percentile."""
    high: float = 1.0
    """Upper end, in the image's unit or as a percentile."""
    bias_correction: bool = False
    """Correct the MRI bias field first (N4); takes seconds to minutes per volume."""

    @model_validator(mode="after")
    def _ordered(self) -> IntensitySettings:
        if self.method in ("window", "percentile") and not self.low < self.high:
            raise ValueError(f"low ({self.low}) must lie below high ({self.high})")
        if self.method == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ValueError("percentiles lie between 0 and 100")
        return self


def default_intensity(modality: Modality) -> IntensitySettings:
    """Return the defaults: CT -160 to 240 HU (soft tissue), PET 0 to 20 SUV, z-score for everything else."""
    if modality == "CT":
        return IntensitySettings(method="window", low=-160, high=240)
    if modality == "PT":
        return IntensitySettings(method="window", low=0, high=20)
    return IntensitySettings(method="zscore")


def normalise(volume: Volume, settings: IntensitySettings | None = None, *, foreground: Mask | None = None) -> Volume:
    """Normalise intensities.

    Parameters
    ----------
    volume
        Image in its own unit.
    settings
        ``None``: :func:`default_intensity` of the modality.
    foreground
        Voxels for the statistics; ``None``: voxels above a tenth of the 99th percentile, which in
        MRI excludes the background air.

    Raises
    ------
    StudyError
        If the foreground is empty or constant.
    UsageError
        If bias correction is requested for another modality than MR.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> volume, _ = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> normalise(volume).array.shape
    (16, 32, 32)
    """
    chosen = settings or default_intensity(volume.modality)
    if chosen.bias_correction:
        from pathology.radiology.images.registration import correct_bias

        volume = correct_bias(volume)
    if chosen.method == "none":
        return volume
    if chosen.method == "window":
        low, high = chosen.low, chosen.high
        return volume.with_array(np.clip((volume.array - low) / (high - low), 0, 1), unit="")
    inside = volume.array > 0.1 * np.percentile(volume.array, 99) if foreground is None else foreground.array
    values = volume.array[inside]
    if values.size < 2 or float(values.std()) == 0:
        raise StudyError(f"'{volume.name}' cannot be normalised: its foreground is empty or has one value")
    if chosen.method == "zscore":
        return volume.with_array(np.clip((volume.array - values.mean()) / values.std(), -5, 5), unit="")
    low, high = (float(v) for v in np.percentile(values, [chosen.low, chosen.high]))
    if low == high:
        raise StudyError(f"'{volume.name}' cannot be normalised: its percentiles coincide")
    return volume.with_array(np.clip((volume.array - low) / (high - low), 0, 1), unit="")

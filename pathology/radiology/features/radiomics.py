"""Radiomic features as the Image Biomarker Standardisation Initiative (IBSI) defines them, through MIRP.

The only file that imports MIRP (Zwanenburg et al. 2024, doi 10.21105/joss.06413).  Its values for the IBSI's digital
phantom are held against the published reference values in the tests.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import mirp
import numpy as np
from mirp.data_import.import_image import import_image
from mirp.data_import.import_mask import import_mask
from pydantic import Field, model_validator

from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.nifti import write_nifti
from pathology.radiology.io.volume import Mask, Modality, Volume, crop_to_mask
from pathology.settings import Record

__all__ = ["FeatureSettings", "default_features", "extract_features"]

# MIRP checks that a bin width is asked of calibrated images only, so it must know which these are.
_MODALITIES = {"CT": "ct", "MR": "mr", "PT": "pet"}

Family = Literal[
    "morphology", "local_intensity", "statistics", "ih", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm"
]


class FeatureSettings(Record):
    """How features are computed.  Part of every model that uses them: other settings give other numbers."""

    spacing_mm: Annotated[float, Field(gt=0)] | None = 2.0
    """Side of the cubic voxels that image and mask are resampled to (cubic spline for the image, linear for the mask,
    cut at one half), mm; ``None`` keeps the image's own.  2 mm lies between the in-plane spacing and the slice
    distance of usual MRI and CT."""
    bins: Annotated[int, Field(ge=2)] | None = 32
    """Number of grey levels between the tumour's least and greatest value: for MRI, which has no unit."""
    bin_width: Annotated[float, Field(gt=0)] | None = None
    """Width of a grey level in the image's unit: for CT and PET.  Exactly one of ``bins`` and ``bin_width``."""
    lowest: float | None = None
    """Where the first grey level begins when ``bin_width`` is given; voxels below are left out."""
    families: tuple[Family, ...] = (
        "morphology",
        "statistics",
        "ih",
        "glcm",
        "glrlm",
        "glszm",
        "gldzm",
        "ngtdm",
        "ngldm",
    )
    """Families by MIRP's names.  ``local_intensity`` is left out: it needs the surroundings and is slow."""
    least_voxels: Annotated[int, Field(ge=1)] = 27
    """Tumours with fewer voxels after resampling are refused: texture of a handful of voxels is noise."""

    @model_validator(mode="after")
    def _one_discretisation(self) -> FeatureSettings:
        if (self.bins is None) == (self.bin_width is None):
            raise ValueError("give either bins or bin_width")
        return self


def default_features(modality: Modality) -> FeatureSettings:
    """Return the usual settings: 25 HU from -1000 in CT, 0.25 SUV from 0 in PET, 32 levels in everything else."""
    if modality == "CT":
        return FeatureSettings(bins=None, bin_width=25.0, lowest=-1000.0)
    if modality == "PT":
        return FeatureSettings(bins=None, bin_width=0.25, lowest=0.0)
    return FeatureSettings()


def extract_features(volume: Volume, mask: Mask, settings: FeatureSettings | None = None) -> dict[str, float]:
    """Compute the features of one region.

    Parameters
    ----------
    volume
        The image in its own unit, not normalised to 0..1 where a bin width is used.
    mask
        The region, on the image's grid.
    settings
        ``None`` takes :func:`default_features` of the modality.

    Returns
    -------
    dict
        MIRP's feature names to values, in its order.  A value that is not defined (the correlation of a flat region)
        is NaN.

    Raises
    ------
    EmptyMaskError, GeometryError
        If the mask marks nothing or lies on another grid.
    StudyError
        If the region is too small.
    """
    mask.check(volume)
    chosen = settings or default_features(volume.modality)
    voxel = volume.geometry.voxel_mm3 if chosen.spacing_mm is None else chosen.spacing_mm**3
    if mask.volume_mm3 / voxel < chosen.least_voxels:
        raise StudyError(
            f"'{mask.name}' is {mask.volume_mm3:.0f} mm³, less than {chosen.least_voxels} voxels of {voxel:.3g} mm³",
            remedy="Leave the lesion out, or choose a smaller spacing",
        )
    # The spline's reach beyond the mask; more would only cost time.
    image, region = crop_to_mask(volume, mask, 12.0)
    modality = _MODALITIES.get(volume.modality)
    with tempfile.TemporaryDirectory(prefix="features-") as folder, _quiet():
        write_nifti(image, Path(folder) / "image.nii")
        write_nifti(region, Path(folder) / "mask.nii")
        tables = mirp.extract_features(
            image=_nameless(import_image(str(Path(folder) / "image.nii"), image_modality=modality)),
            mask=_nameless(import_mask(str(Path(folder) / "mask.nii"))),
            num_cpus=1,
            new_spacing=chosen.spacing_mm,
            base_feature_families=list(chosen.families),
            base_discretisation_method="fixed_bin_number" if chosen.bins is not None else "fixed_bin_size",
            base_discretisation_n_bins=chosen.bins,
            base_discretisation_bin_width=chosen.bin_width,
            resegmentation_intensity_range=None if chosen.lowest is None else [chosen.lowest, np.nan],
            glcm_spatial_method="3d_volume_merge",
            glrlm_spatial_method="3d_volume_merge",
            glszm_spatial_method="3d",
            gldzm_spatial_method="3d",
            ngtdm_spatial_method="3d",
            ngldm_spatial_method="3d",
        )
    row = tables[0].iloc[0]
    described = ("sample_name", "image_")
    return {str(k): float(v) for k, v in row.items() if not str(k).startswith(described)}


def _nameless(files: Any) -> Any:  # noqa: ANN401  # MIRP's file objects, which it does not export
    """Take the temporary folder off MIRP's files.

    From 1000 voxels on MIRP estimates Moran's I and Geary's C from random points, whose seed is a hash of the image
    *and of where it lies*: from another folder the same tumour would have other features.
    """
    for file in files:
        file.dir_path = file.sample_name = "region"
    return files


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MIRP from setting up the program's logging: it configures the root logger to print every step."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # a root logger that has a handler is left alone by basicConfig
    try:
        yield
    finally:
        root.removeHandler(handler)

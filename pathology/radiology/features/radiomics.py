"""Radiomic features as defined by the Image Biomarker Standardisation Initiative (IBSI), computed with MIRP.

The only file that imports MIRP (Zwanenburg et al. 2024, doi 10.21105/joss.06413).  Its values for the IBSI's digital
phantom are tested against the published reference values.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pathology.extras import missing_extra
from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.nifti import write_nifti
from pathology.radiology.io.volume import Mask, Modality, Volume, crop_to_mask
from pathology.settings import Record

__all__ = ["FeatureSettings", "default_features", "extract_features"]

# MIRP accepts a fixed bin width only for calibrated modalities, so it must know the modality.
_MODALITIES = {"CT": "ct", "MR": "mr", "PT": "pet"}

Family = Literal[
    "morphology", "local_intensity", "statistics", "ih", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm"
]


class FeatureSettings(Record):
    """Feature extraction settings.  Part of every model that uses the features, because they change the values."""

    spacing_mm: Annotated[float, Field(gt=0)] | None = 2.0
    """Side of the cubic voxels that image and mask are resampled to (cubic spline for the image, linear for the mask,
    threshold 0.5), mm; ``None``: no resampling.  2 mm is between the in-plane spacing and the slice
    distance of typical MRI and CT."""
    bins: Annotated[int, Field(ge=2)] | None = 32
    """Fixed bin number, between the minimum and maximum of the tumour: for MRI, which has arbitrary units."""
    bin_width: Annotated[float, Field(gt=0)] | None = None
    """Fixed bin width in the unit of the image: for CT and PET.  Exactly one of ``bins`` and ``bin_width``."""
    lowest: float | None = None
    """Lower bound of the first bin if ``bin_width`` is given; voxels below are excluded."""
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
    """MIRP feature families.  ``local_intensity`` is excluded: it needs surrounding voxels and is slow."""
    least_voxels: Annotated[int, Field(ge=1)] = 27
    """Minimum number of voxels after resampling: texture of a few voxels is noise."""

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
        Image in its own unit, not normalised if a bin width is used.
    mask
        Region of interest, on the image grid.
    settings
        ``None``: :func:`default_features` of the modality.

    Returns
    -------
    dict
        Values by MIRP feature name, in MIRP order.  Undefined values (such as the correlation of a flat region)
        are NaN.

    Raises
    ------
    EmptyMaskError, GeometryError
        If the mask is empty or on another grid.
    StudyError
        If the region is too small.
    MissingDependencyError
        If MIRP is not installed.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> volume, tumour = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> len(extract_features(volume, tumour)) > 100
    True
    """
    mirp = _mirp()
    mask.check(volume)
    chosen = settings or default_features(volume.modality)
    voxel = volume.geometry.voxel_mm3 if chosen.spacing_mm is None else chosen.spacing_mm**3
    if mask.volume_mm3 / voxel < chosen.least_voxels:
        raise StudyError(
            f"'{mask.name}' is {mask.volume_mm3:.0f} mm³, less than {chosen.least_voxels} voxels of {voxel:.3g} mm³",
            remedy="Exclude the lesion, or choose a smaller spacing",
        )
    # Margin for the spline support; a larger one only costs time.
    image, region = crop_to_mask(volume, mask, 12.0)
    modality = _MODALITIES.get(volume.modality)
    with tempfile.TemporaryDirectory(prefix="features-") as folder, _quiet():
        write_nifti(image, Path(folder) / "image.nii")
        write_nifti(region, Path(folder) / "mask.nii")
        read = mirp.data_import
        tables = mirp.extract_features(
            image=_nameless(read.import_image.import_image(str(Path(folder) / "image.nii"), image_modality=modality)),
            mask=_nameless(read.import_mask.import_mask(str(Path(folder) / "mask.nii"))),
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


def _mirp() -> Any:  # noqa: ANN401  # an untyped module
    try:
        import mirp
        import mirp.data_import.import_image
        import mirp.data_import.import_mask
    except ImportError as error:
        raise missing_extra("radiomic features need MIRP", "radiomics") from error
    return mirp


def _nameless(files: Any) -> Any:  # noqa: ANN401  # MIRP's file objects, which it does not export
    """Remove the temporary folder from MIRP's file objects.

    Above 1000 voxels, MIRP estimates Moran's I and Geary's C from random points, seeded by a hash of the image
    *and its path*: the same tumour in another folder would have different features.
    """
    for file in files:
        file.dir_path = file.sample_name = "region"
    return files


@contextmanager
def _quiet() -> Iterator[None]:
    """Prevent MIRP from configuring the root logger, which would print every step."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # basicConfig does nothing if the root logger has a handler
    try:
        yield
    finally:
        root.removeHandler(handler)

"""Synthetic volumes with known ground truth, for tests and for modalities without accessible real images.

Results on phantoms say nothing about patients; cards of models demonstrated on phantoms state this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Modality, Volume

__all__ = ["ellipsoid", "tumour_phantom"]


def ellipsoid(geometry: Geometry, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Mask:
    """Mark the voxels whose centres lie within an ellipsoid along the patient's axes.

    Parameters
    ----------
    geometry
        The grid.
    centre, radii
        In mm, LPS (x, y, z).
    """
    z, y, x = np.indices(geometry.shape)
    points = geometry.to_patient(np.column_stack([x.ravel(), y.ravel(), z.ravel()]))
    inside = (((points - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(axis=1) <= 1
    return Mask(inside.reshape(geometry.shape), geometry, "tumour")


def tumour_phantom(
    geometry: Geometry, *, seed: int = 0, modality: Modality = "MR", contrast: float = 300.0, noise: float = 20.0
) -> tuple[Volume, Mask]:
    """Create a limb-like volume with a tumour of random position and shape.

    A bright ellipse (muscle) on a dark background (air) contains an ellipsoid (tumour) that is ``contrast`` brighter,
    with Gaussian noise added.  Muscle and air are 50 and -1000 HU in CT, 400 and 0 elsewhere; MR values are clipped at
    0.

    Returns
    -------
    Volume, Mask
        Image and tumour.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> volume, tumour = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> volume.array.shape == tumour.array.shape
    True
    """
    random = np.random.default_rng(seed)
    extent = np.asarray(geometry.size) * np.asarray(geometry.spacing)
    middle = geometry.to_patient((np.asarray([geometry.size]) - 1) / 2)[0]
    limb_radii = extent * (0.42, 0.42, 2.0)
    limb = ellipsoid(geometry, _three(middle), _three(limb_radii))
    radii = extent * random.uniform(0.12, 0.2, 3)
    centre = middle + extent * random.uniform(-0.12, 0.12, 3)
    tumour = ellipsoid(geometry, _three(centre), _three(radii))
    air, muscle = (-1000.0, 50.0) if modality == "CT" else (0.0, 400.0)
    values = np.where(limb.array, muscle, air) + contrast * tumour.array + random.normal(0, noise, geometry.shape)
    if modality == "MR":
        values = np.maximum(values, 0)
    return Volume(values.astype(np.float32), geometry, modality, "HU" if modality == "CT" else "", "phantom"), tumour


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])

"""Synthetic cohorts on disk, for systems whose modality has no accessible public sarcoma dataset.

Each has a known ground truth that exposes failures: an outcome that needs both inputs, a fraction that can be counted.
Results on them show that a model's implementation works, and nothing about patients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from pathology.radiology.images.shells import dilate
from pathology.radiology.io.cohort import Cohort, read_cohort
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.nifti import write_nifti
from pathology.radiology.io.volume import Mask, Modality, Volume
from pathology.testing.radiology_phantoms import ellipsoid, tumour_phantom

__all__ = [
    "adc_cohort",
    "constructed_cohort",
    "fat_cohort",
    "hypoxia_cohort",
    "oct_cohort",
    "readers_cohort",
    "two_sequence_cohort",
]

Array = NDArray[np.float64]
Random = np.random.Generator


def _write(
    folder: Path,
    patients: int,
    seed: int,
    make: Callable[[Path, int, Random], dict[str, object]],
) -> Cohort:
    rows = []
    for number in range(patients):
        name = f"C{number:03d}"
        case = folder / "images" / name
        case.mkdir(parents=True)
        rows.append({"patient": name} | make(case, number, np.random.default_rng([seed, number])))
    table = folder / "clinical.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return read_cohort(folder / "images", table)


def _ball(geometry: Geometry, random: Random, share: float = 0.28) -> Mask:
    extent = np.asarray(geometry.size) * np.asarray(geometry.spacing)
    middle = geometry.to_patient((np.asarray([geometry.size]) - 1) / 2)[0]
    centre = middle + extent * random.uniform(-0.05, 0.05, 3)
    radii = extent * share * random.uniform(0.85, 1.15, 3)
    return ellipsoid(geometry, _three(centre), _three(radii))


def _texture(geometry: Geometry, random: Random, sigma: float, strength: float) -> Array:
    field = ndimage.gaussian_filter(random.normal(size=geometry.shape), sigma)
    return np.asarray(strength * field / max(field.std(), 1e-9), float)


def two_sequence_cohort(
    folder: Path, *, patients: int = 24, seed: int = 0, names: tuple[str, str] = ("T1GD", "DWI"), size: int = 32
) -> Cohort:
    """Create a cohort whose class cannot be predicted from either sequence alone.

    In each sequence the tumour is independently brighter or darker than its surroundings; the class is ``same`` if both
    agree and ``different`` otherwise.  A classifier of one sequence performs at chance; one that fuses both does not.

    Returns
    -------
    Cohort
        Clinical column ``class``; masks on both sequences.
    """
    geometry = Geometry((size, size, max(8, size // 2)), (2.0, 2.0, 2.0 if size < 16 else 4.0))

    def make(case: Path, number: int, random: Random) -> dict[str, object]:
        mask = _ball(geometry, random)
        # All four combinations equally often.
        signs = (1 if number % 2 else -1, 1 if (number // 2) % 2 else -1)
        for name, sign in zip(names, signs, strict=True):
            unit = {"PET": ("PT", "SUV", 5.0, 3.0), "CT": ("CT", "HU", 20.0, 90.0)}.get(name, ("MR", "", 400.0, 160.0))
            modality, what, base, contrast = unit
            values = base + contrast * sign * mask.array + _texture(geometry, random, 1.0, contrast * 0.12)
            if modality != "CT":
                values = np.maximum(values, 0)
            _save(case, name, values, geometry, modality, what, mask)
        return {"class": "same" if signs[0] == signs[1] else "different"}

    return _write(folder, patients, seed, make)


def adc_cohort(folder: Path, *, patients: int = 30, seed: int = 0, size: int = 32) -> Cohort:
    """Create ADC maps of three time points under treatment.

    Viable tumour has 1.0e-3 mm²/s; in dying tumour the ADC rises towards 2.2e-3 over the time points.  The dying
    fraction is drawn within one of the published classes.

    Returns
    -------
    Cohort
        Sequences ``ADC_1`` to ``ADC_3``; columns ``effect`` (class) and ``dead_share``.
    """
    geometry = Geometry((size, size, 8), (2.0, 2.0, 5.0))
    classes = ("up to 20 %", "20-90 %", "90 % and more")
    limits = ((0.0, 0.2), (0.3, 0.8), (0.9, 1.0))

    def make(case: Path, number: int, random: Random) -> dict[str, object]:
        mask = _ball(geometry, random, 0.33)
        label = number % 3
        share = float(random.uniform(*limits[label]))
        # A connected part dies first: the lowest values of a smooth field.
        field = _texture(geometry, random, 3.0, 1.0)
        threshold = np.quantile(field[mask.array], share)
        dead = mask.array & (field <= threshold) if share > 0 else np.zeros_like(mask.array)
        for time in range(3):
            values = np.full(geometry.shape, 1.5e-3) + _texture(geometry, random, 0.8, 6e-5)
            values[mask.array] = 1.0e-3 + 6e-5 * random.normal(size=int(mask.array.sum()))
            values[dead] += 1.2e-3 * (time / 2)
            _save(case, f"ADC_{time + 1}", np.maximum(values, 0), geometry, "MR", "mm2/s", mask)
        return {"effect": classes[label], "dead_share": share}

    return _write(folder, patients, seed, make)


def oct_cohort(folder: Path, *, patients: int = 16, seed: int = 0, size: int = 64) -> Cohort:
    """Create OCT volumes of surgical margins, one B-scan per slice.

    Adipose margins show a honeycomb of dark cells under a bright surface; tumour shows a homogeneous signal that fades
    faster with depth.

    Returns
    -------
    Cohort
        Sequence ``OCT``; column ``margin`` with ``clear`` and ``tumour``.
    """
    geometry = Geometry((size, size, 6), (0.02, 0.02, 0.1))
    depth = np.arange(size)[:, None] * np.ones(size)

    def make(case: Path, number: int, random: Random) -> dict[str, object]:
        tumour = bool(number % 2)
        scans = []
        for _ in range(geometry.size[2]):
            surface = 6 + 2 * np.sin(np.arange(size) / random.uniform(8, 14) + random.uniform(0, 6))
            below = np.maximum(depth - surface, 0)
            signal = np.exp(-below / random.uniform(12, 16) if tumour else -below / random.uniform(20, 28))
            if not tumour:
                cells = ndimage.gaussian_filter(random.normal(size=(size, size)), 2.2)
                signal *= np.where(cells > 0.02, 0.45, 1.0)
            signal[depth < surface] = 0.05
            speckle = random.gamma(4.0, 0.25, size=(size, size))
            scans.append(100 * signal * speckle)
        _save(case, "OCT", np.stack(scans), geometry, "OCT", "", None)
        return {"margin": "tumour" if tumour else "clear"}

    return _write(folder, patients, seed, make)


def fat_cohort(folder: Path, *, patients: int = 30, seed: int = 0, size: int = 40) -> Cohort:
    """Create fatty tumours in CT and T1: lipomas and well-differentiated liposarcomas.

    Both are fat; the liposarcoma has thick septa and nodules of soft tissue, and its patients are older, with higher
    lactate dehydrogenase, as in the publication's clinical model, with much overlap.

    Returns
    -------
    Cohort
        Sequences ``CT`` and ``MR_T1``; columns ``diagnosis``, ``age`` and ``ldh``.
    """
    geometry = Geometry((size, size, size // 2), (2.0, 2.0, 3.0))

    def make(case: Path, number: int, random: Random) -> dict[str, object]:
        malignant = bool(number % 2)
        mask = _ball(geometry, random, 0.3)
        field = np.abs(_texture(geometry, random, 2.0, 1.0))
        septa = mask.array & (field < (0.22 if malignant else 0.08))
        nodules = mask.array & (_texture(geometry, random, 2.5, 1.0) > (1.5 if malignant else 2.6))
        soft = septa | nodules
        for name, fat, tissue, around, noise in (
            ("CT", -100.0, 40.0, 55.0, 12.0),
            ("MR_T1", 900.0, 350.0, 300.0, 40.0),
        ):
            values = np.full(geometry.shape, around)
            values[mask.array] = fat
            values[soft] = tissue
            values = ndimage.gaussian_filter(values, 0.6) + noise * random.normal(size=geometry.shape)
            modality: Modality = "CT" if name == "CT" else "MR"
            _save(case, name, np.maximum(values, 0) if name != "CT" else values, geometry, modality, "", mask)
        return {
            "diagnosis": "liposarcoma" if malignant else "lipoma",
            "age": round(float(random.normal(62 if malignant else 54, 10))),
            "ldh": round(float(random.normal(205 if malignant else 185, 30))),
        }

    return _write(folder, patients, seed, make)


def hypoxia_cohort(folder: Path, *, patients: int = 10, seed: int = 0, size: int = 40) -> Cohort:
    """Create multiparametric mouse tumours with a known hypoxic part.

    In hypoxic tissue, T2 signal is unchanged, contrast uptake is low and ADC slightly low, with noise that makes
    single pixels ambiguous.

    Returns
    -------
    Cohort
        Sequences ``T2``, ``DCE``, ``ADC``; tumour masks on ``T2`` and the truth as mask ``hypoxia``; column
        ``hypoxic_fraction``.
    """
    geometry = Geometry((size, size, 4), (0.2, 0.2, 1.0))

    def make(case: Path, _number: int, random: Random) -> dict[str, object]:
        mask = _ball(geometry, random, 0.36)
        field = _texture(geometry, random, 3.0, 1.0)
        share = float(random.uniform(0.1, 0.7))
        hypoxic = mask.array & (field <= np.quantile(field[mask.array], share))
        contrast = {"T2": 0.0, "DCE": -160.0, "ADC": -60.0}
        for name, change in contrast.items():
            values = 300.0 + 120.0 * mask.array + change * hypoxic + 45.0 * random.normal(size=geometry.shape)
            _save(case, name, np.maximum(values, 0), geometry, "MR", "", mask if name == "T2" else None)
        write_nifti(Mask(hypoxic, geometry, "hypoxia"), case / "hypoxia_mask.nii.gz")
        return {"hypoxic_fraction": float(hypoxic[mask.array].mean())}

    return _write(folder, patients, seed, make)


def readers_cohort(
    folder: Path, *, patients: int = 8, readers: int = 4, seed: int = 0, modality: Modality = "CT", size: int = 48
) -> Cohort:
    """Create tumours outlined by several readers, each slightly wider or narrower than the truth.

    Returns
    -------
    Cohort
        Sequence ``CT`` (or ``T2``) with ``readers`` contours each.
    """
    geometry = Geometry((size, size, 16), (2.0, 2.0, 4.0))
    name = "CT" if modality == "CT" else "T2"

    def make(case: Path, number: int, random: Random) -> dict[str, object]:
        image, truth = tumour_phantom(
            geometry, seed=seed * 1000 + number, modality=modality, contrast=120.0, noise=15.0
        )
        write_nifti(image, case / f"{name}_image.nii.gz")
        for reader in range(readers):
            contour = dilate(truth, float(random.uniform(-2.5, 4.0)))
            suffix = "" if reader == 0 else f"-{reader + 1}"
            write_nifti(contour, case / f"{name}_mask{suffix}.nii.gz")
        return {"volume_cm3": truth.volume_mm3 / 1000}

    return _write(folder, patients, seed, make)


def _save(
    case: Path, name: str, values: NDArray[np.floating], geometry: Geometry, modality: str, unit: str, mask: Mask | None
) -> None:
    write_nifti(Volume(values.astype(np.float32), geometry, modality, unit, name), case / f"{name}_image.nii.gz")  # type: ignore[arg-type]
    if mask is not None:
        write_nifti(mask, case / f"{name}_mask.nii.gz")


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def constructed_cohort(system: str, folder: Path, *, patients: int, seed: int = 0) -> Cohort:
    """Create the synthetic cohort for a published system.

    Parameters
    ----------
    system
        The system's id, such as ``banerjee-2018``.
    folder
        Output folder for images and table.
    patients, seed
        Number of patients and random seed.
    """
    makers: dict[str, Callable[..., Cohort]] = {
        "banerjee-2018": partial(two_sequence_cohort, names=("T1GD", "DWI")),
        "gao-2021": adc_cohort,
        "jardim-perassi-2021": hypoxia_cohort,
        "marin-2022": partial(readers_cohort, readers=4),
        "peng-2019": partial(two_sequence_cohort, names=("PET", "CT")),
        "yang-2022-lipoma": fat_cohort,
        "ye-2021": oct_cohort,
    }
    return makers[system](folder, patients=patients, seed=seed)

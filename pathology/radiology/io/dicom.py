"""Read DICOM series: sort, validate and assemble slices into a volume.  The only radiology file that imports pydicom.

Only unambiguous series are accepted.  A folder with two series, a missing slice, a tilted
gantry or slices of different orientation is rejected with the reason, because every derived value (a volume in cm³,
a distance in mm, an SUV) would be silently wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from pathology.input_files import files_below, reading, require_regular
from pathology.radiology.io.errors import GeometryError, MissingSliceError, MixedSeriesError, StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.suv import suv_factor
from pathology.radiology.io.volume import Modality, Volume

__all__ = [
    "UID",
    "Dataset",
    "DicomSequence",
    "ExplicitVRLittleEndian",
    "FileDataset",
    "FileMetaDataset",
    "Series",
    "generate_uid",
    "read_dataset",
    "read_diffusion_series",
    "read_series",
]

_MODALITIES: dict[str, Modality] = {"CT": "CT", "MR": "MR", "PT": "PT", "OCT": "OCT", "OPT": "OCT"}
_SAME_MM = 0.01
"""Positions closer than this, in mm, are equal: half a percent of the thinnest usual slice (2 mm)."""
_SPACING_TOLERANCE = 0.02
"""Maximum relative deviation of a slice distance from the median.  Positions are stored with limited precision."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """An image series: its slices in order along the normal.

    Attributes
    ----------
    slices
        Headers with pixel data, ordered from index z = 0 upwards.
    geometry
        The grid they make.
    uid
        SeriesInstanceUID.
    """

    slices: tuple[Dataset, ...]
    geometry: Geometry
    uid: str

    @property
    def modality(self) -> Modality:
        """DICOM modality."""
        return _MODALITIES.get(str(self.slices[0].get("Modality", "")), "OTHER")


def read_dataset(path: Path, *, pixels: bool = True) -> Dataset:
    """Read one DICOM file.

    Raises
    ------
    StudyError
        If the file is not DICOM or is corrupt.
    """
    require_regular(path, StudyError)
    with reading(path, StudyError, what="not a readable DICOM file", remedy="Export the series again"):
        return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _image_headers(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """Headers of all images under a folder, by series."""
    found: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in files_below(folder, StudyError):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue  # archive folders also contain DICOMDIR, readme and viewer files
        except Exception as error:
            # A slice left out silently would be a gap; what begins like DICOM and cannot be read is named.
            raise StudyError(
                f"not a readable DICOM file ({error})", where=path, remedy="Export the series again"
            ) from error
        if "Rows" in header and header.get("Modality") not in ("SEG", "RTDOSE") and "SeriesInstanceUID" in header:
            found[str(header.SeriesInstanceUID)].append((path, header))
    return dict(found)


def read_series(folder: Path, *, series_uid: str | None = None, name: str = "") -> tuple[Volume, Series]:
    """Read the image series of a folder.

    PET in Bq/ml becomes SUV (body weight); CT comes in HU; MRI in the scanner's arbitrary units.

    Parameters
    ----------
    folder
        Searched with its subfolders.
    series_uid
        Which series, where there are several.
    name
        Name of the volume; empty takes the series description.

    Returns
    -------
    Volume, Series
        The pixels, and the headers that a segmentation written for this series refers to.

    Raises
    ------
    StudyError
        No image, damaged pixels, or an enhanced multi-frame object.
    MixedSeriesError
        Several series, or several images of one place.
    GeometryError
        Orientation, size or pixel spacing differ between slices, or the gantry was tilted.
    MissingSliceError
        A gap between slices.
    MissingDoseError
        PET that cannot be turned into SUV.
    """
    series = _select(folder, series_uid)
    images = _load(series)
    return _assemble(images, folder, name)


def read_diffusion_series(folder: Path, *, series_uid: str | None = None) -> dict[float, Volume]:
    """Read a diffusion-weighted series as one volume per b-value.

    Returns
    -------
    dict
        b-value in s/mm² (DICOM tag (0018,9087)) to volume, ascending.

    Raises
    ------
    StudyError
        If an image does not state its b-value; otherwise as :func:`read_series`.
    """
    by_value: dict[float, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path, header in _select(folder, series_uid):
        if "DiffusionBValue" not in header:
            raise StudyError(
                "an image does not state its b-value in (0018,9087)",
                where=path,
                remedy="Older scanners keep it in private tags: convert the series first",
            )
        by_value[float(header.DiffusionBValue)].append((path, header))
    return {b: _assemble(_load(by_value[b]), folder, f"b{b:g}")[0] for b in sorted(by_value)}


def _select(folder: Path, series_uid: str | None) -> list[tuple[Path, Dataset]]:
    if not folder.is_dir():
        raise StudyError("folder not found", where=folder)
    found = _image_headers(folder)
    if not found:
        raise StudyError("no DICOM image in the folder", where=folder)
    if series_uid is not None:
        if series_uid not in found:
            raise StudyError(
                f"series {series_uid} not found", where=folder, remedy="List the series with 'pathology radiology info'"
            )
        return found[series_uid]
    if len(found) > 1:
        listing = "; ".join(f"{len(i)} images {i[0][1].get('Modality', '?')} {uid}" for uid, i in found.items())
        raise MixedSeriesError(
            f"the folder contains {len(found)} series ({listing})",
            where=folder,
            remedy="Choose one with --series, or use one folder per series",
        )
    return next(iter(found.values()))


def _load(images: Iterable[tuple[Path, Dataset]]) -> list[tuple[Path, Dataset]]:
    loaded = []
    for path, header in images:
        if int(header.get("NumberOfFrames", 1) or 1) > 1:
            raise StudyError(
                "enhanced multi-frame objects are not supported",
                where=path,
                remedy="Convert it to NIfTI or single-frame DICOM",
            )
        loaded.append((path, read_dataset(path)))
    return loaded


def _assemble(images: Sequence[tuple[Path, Dataset]], folder: Path, name: str) -> tuple[Volume, Series]:
    ordered, geometry = _order(images, folder)
    first = ordered[0][1]
    modality = _MODALITIES.get(str(first.get("Modality", "")), "OTHER")
    array = np.empty(geometry.shape, np.float32)
    for index, (path, dataset) in enumerate(ordered):
        array[index] = _pixels(path, dataset)
    unit = "HU" if modality == "CT" else ""
    if modality == "PT":
        array *= np.float32(suv_factor([d for _, d in ordered], where=folder))
        unit = "SUV"
    label = name or str(first.get("SeriesDescription", "")) or modality
    series = Series(tuple(d for _, d in ordered), geometry, str(first.SeriesInstanceUID))
    return Volume(array, geometry, modality, unit, label), series


def _pixels(path: Path, dataset: Dataset) -> NDArray[np.float32]:
    try:
        stored = dataset.pixel_array
    except Exception as error:  # pydicom's decoders raise whatever their codec raises
        raise StudyError(
            f"the pixels cannot be decoded ({type(error).__name__})", where=path, remedy="Export the series again"
        ) from error
    if stored.ndim != 2:
        raise StudyError(f"expected a greyscale image, got shape {stored.shape}", where=path)
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    scaled: NDArray[np.float32] = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return scaled


def _order(images: Sequence[tuple[Path, Dataset]], folder: Path) -> tuple[list[tuple[Path, Dataset]], Geometry]:
    """Sort along the normal and check that the slices make one rectangular grid."""
    for path, dataset in images:
        for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
            if keyword not in dataset:
                raise GeometryError(
                    f"{keyword} is missing, so the slice position is unknown",
                    where=path,
                    remedy="Export the original series, not screen captures",
                )
    first = images[0][1]
    orientation = np.asarray(first.ImageOrientationPatient, float)
    counts = Counter(tuple(np.round(np.asarray(d.ImageOrientationPatient, float), 3)) for _, d in images)
    for path, dataset in images:
        if np.abs(np.asarray(dataset.ImageOrientationPatient, float) - orientation).max() > 1e-3:
            raise GeometryError(
                f"the slices have {len(counts)} orientations (a localiser or reformatted images mixed in?)",
                where=folder,
                remedy="Use one orientation per series",
            )
        if (dataset.Rows, dataset.Columns) != (first.Rows, first.Columns):
            raise GeometryError(
                f"slices of {first.Columns} x {first.Rows} and {dataset.Columns} x {dataset.Rows} pixels are mixed",
                where=path,
            )
        if not np.allclose(np.asarray(dataset.PixelSpacing, float), np.asarray(first.PixelSpacing, float), rtol=1e-3):
            raise GeometryError(
                f"the pixel spacing differs between slices: {first.PixelSpacing}, {dataset.PixelSpacing} mm",
                where=path,
            )
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    positions = np.asarray([np.asarray(d.ImagePositionPatient, float) for _, d in images])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = [images[i] for i in order]
    positions, heights = positions[order], heights[order]
    distance = _slice_distance(heights, first, folder)
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(sideways).max() > max(_SAME_MM * 10, 0.01 * distance):
        raise GeometryError(
            f"the slices are shifted against each other by up to {np.abs(sideways).max():.2f} mm (gantry tilt?)",
            where=folder,
            remedy="Resample the tilted series first",
        )
    spacing_rows, spacing_columns = (float(v) for v in first.PixelSpacing)
    direction = np.column_stack([row, column, normal])
    geometry = Geometry(
        size=(int(first.Columns), int(first.Rows), len(ordered)),
        # PixelSpacing is (between rows, between columns): y before x.
        spacing=(spacing_columns, spacing_rows, distance),
        origin=tuple(float(v) for v in positions[0]),  # type: ignore[arg-type]
        direction=tuple(float(v) for v in direction.ravel()),  # type: ignore[arg-type]
    )
    return ordered, geometry


def _slice_distance(heights: NDArray[np.float64], first: Dataset, folder: Path) -> float:
    if len(heights) == 1:
        thickness = float(first.get("SpacingBetweenSlices", 0) or first.get("SliceThickness", 0) or 0)
        if thickness <= 0:
            raise GeometryError("a single slice without slice thickness has no volume", where=folder)
        return thickness
    steps = np.diff(heights)
    if steps.min() < _SAME_MM:
        raise MixedSeriesError(
            f"{int((steps < _SAME_MM).sum())} positions have more than one image "
            "(several b-values, echoes or time points, or duplicate slices)",
            where=folder,
            remedy="Split the series; diffusion series are read by b-value",
        )
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > _SPACING_TOLERANCE * usual)
    if len(odd):
        at = int(odd[0])
        missing = round(float(steps[at]) / usual) - 1
        where_mm = f"between {heights[at]:.1f} and {heights[at + 1]:.1f} mm"
        if missing >= 1 and abs(steps[at] / usual - missing - 1) < 0.1:
            raise MissingSliceError(
                f"{missing} slice(s) are missing {where_mm} (slices are {usual:.2f} mm apart)",
                where=folder,
                remedy="Copy the whole series again",
            )
        raise GeometryError(
            f"slices are {usual:.2f} mm apart but {steps[at]:.2f} mm {where_mm}",
            where=folder,
            remedy="Resample the series to even slices first",
        )
    return float(heights[-1] - heights[0]) / (len(heights) - 1)

"""Slide annotations in DICOM SEG, converted to polygons in level-0 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from pathology.errors import CorruptSlideError, UsageError
from pathology.outputs.export.geojson import Feature, write_geojson
from pathology.outputs.figures.polygons import Polygon, outlines

__all__ = ["SlideRegions", "read_slide_regions", "write_slide_regions"]

_PALETTE = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
_CELLS = 40_000_000
"""Maximum size of a segmentation, in cells."""
_STANDING = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
"""Default row and column directions: the slide held with its label at the top."""


@dataclass(frozen=True)
class SlideRegions:
    """The polygons of one segment.

    Attributes
    ----------
    label
        SegmentLabel.
    polygons
        Polygons in level-0 pixels of the slide.
    cell
        Side of a segmentation cell in level-0 pixels: the resolution of the polygons.
    """

    label: str
    polygons: tuple[Polygon, ...]
    cell: float


def read_slide_regions(
    path: Path, *, mpp: float, slide: Path | None = None, threshold: float = 0.5
) -> tuple[SlideRegions, ...]:
    """Read a segmentation of a slide.

    Parameters
    ----------
    path
        A DICOM SEG in the slide's coordinate system, binary or fractional.
    mpp
        Level-0 micrometres per pixel of the slide.
    slide
        The DICOM series of the slide, whose header gives the position of its first pixel; ``None``: the origin.
    threshold
        Threshold of a fractional segmentation, as a fraction of its maximum.

    Raises
    ------
    CorruptSlideError
        If the file is not a segmentation of a slide.
    UsageError
        If the segmentation is too large.
    """
    from pathology.outputs.export.highdicom_library import highdicom

    try:
        seg = highdicom.seg.segread(path)
        rows, columns = int(seg.TotalPixelMatrixRows), int(seg.TotalPixelMatrixColumns)
    except (AttributeError, ValueError, OSError, RuntimeError) as error:
        raise CorruptSlideError(f"not a segmentation of a slide ({error})", where=path) from error
    if rows * columns > _CELLS:
        raise UsageError(
            f"the segmentation is too large: {columns:,} x {rows:,} cells", where=path, remedy="Use a coarser one"
        )
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    down, across = (float(value) * 1000 / mpp for value in measures.PixelSpacing)
    corner = _corner(seg, slide, mpp, across, down)
    result = []
    for number, mask in _masks(seg, threshold):
        polygons = tuple(outlines(mask, origin=corner, cell=(across, down)))
        result.append(SlideRegions(str(seg.get_segment_description(number).segment_label), polygons, across))
    return tuple(result)


def _origin(dataset: Any) -> NDArray[np.float64]:  # noqa: ANN401 - pydicom's elements have no static type
    start = (dataset.get("TotalPixelMatrixOriginSequence") or [None])[0]
    if start is None:
        return np.zeros(2)
    return np.array([float(start.XOffsetInSlideCoordinateSystem), float(start.YOffsetInSlideCoordinateSystem)])


def _corner(seg: Any, slide: Path | None, mpp: float, across: float, down: float) -> tuple[float, float]:  # noqa: ANN401
    """Return the corner of the first segmentation cell in level-0 pixels.

    Origins are centres of first pixels, in mm on the slide (PS3.3, C.8.12.4.1.1).
    """
    start = np.zeros(2)
    if slide is not None:
        files = [file for file in sorted(slide.iterdir() if slide.is_dir() else [slide]) if file.is_file()]
        headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
        levels = [header for header in headers if "TotalPixelMatrixColumns" in header]
        if not levels:
            raise CorruptSlideError("not a DICOM slide", where=slide)
        start = _origin(max(levels, key=lambda header: int(header.TotalPixelMatrixColumns)))
    directions = np.asarray(seg.get("ImageOrientationSlide") or _STANDING, float)
    moved = (_origin(seg) - start) * 1000 / mpp
    x = float(moved @ directions[:2]) + 0.5 - across / 2
    y = float(moved @ directions[3:5]) + 0.5 - down / 2
    return x, y


def _masks(seg: Any, threshold: float) -> Iterator[tuple[int, NDArray[np.bool_]]]:  # noqa: ANN401
    fractional = str(seg.SegmentationType) == "FRACTIONAL"
    for number in seg.segment_numbers:
        values = seg.get_total_pixel_matrix(
            segment_numbers=[number], rescale_fractional=True, relabel=False, combine_segments=False
        )[..., 0]
        yield int(number), np.asarray(values >= threshold if fractional else values > 0, bool)


def write_slide_regions(path: Path, regions: tuple[SlideRegions, ...]) -> int:
    """Write regions as GeoJSON for QuPath and for training; returns the number of outlines."""
    return write_geojson(
        path,
        (
            Feature((polygon,), classification=region.label, colour=_PALETTE[index % len(_PALETTE)])
            for index, region in enumerate(regions)
            for polygon in region.polygons
        ),
    )

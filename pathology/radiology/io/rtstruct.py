"""RTSTRUCT contours as masks.

A contour is a closed polygon in one slice, in mm.  A voxel belongs to it when its centre lies inside; contours
of one structure in one slice are combined by exclusive or, so that a contour within another is a hole (the
convention of DICOM PS3.3 C.8.8.6 for keyhole-free structures).
"""

# mypy: disable-error-code="no-untyped-call"
# scikit-image is not typed.
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage.draw import polygon2mask

from pathology.radiology.io.errors import EmptyMaskError, GeometryError, StudyError
from pathology.radiology.io.volume import Mask

if TYPE_CHECKING:
    from pathology.radiology.io.dicom import Dataset, Series

__all__ = ["contour_mask", "structure_names"]


def structure_names(rtstruct: Dataset) -> tuple[str, ...]:
    """Names of the structures in an RTSTRUCT, in its order."""
    return tuple(str(roi.ROIName) for roi in rtstruct.get("StructureSetROISequence", []))


def contour_mask(
    rtstruct: Dataset, series: Series, *, structure: str | None = None, where: str | Path | None = None
) -> Mask:
    """Fill one structure's contours on the grid of its image series.

    Parameters
    ----------
    rtstruct
        The contours.
    series
        The series they were drawn on.
    structure
        Structure name; optional if there is only one.
    where
        File to name in errors.

    Raises
    ------
    StudyError
        No such structure, several and none named, or contours of another series.
    GeometryError
        A contour that lies off the slices.
    EmptyMaskError
        A structure without contours.
    """
    if str(rtstruct.get("Modality", "")) != "RTSTRUCT":
        raise StudyError("not an RTSTRUCT", where=where)
    names = structure_names(rtstruct)
    if structure is None:
        if len(names) != 1:
            raise StudyError(
                f"several structures: {', '.join(names)}",
                where=where,
                remedy="Choose one with --structure",
            )
        structure = names[0]
    if names.count(structure) != 1:
        raise StudyError(f"no unique structure '{structure}' among {', '.join(names) or 'none'}", where=where)
    known = {str(s.SOPInstanceUID) for s in series.slices}
    number = next(int(r.ROINumber) for r in rtstruct.StructureSetROISequence if str(r.ROIName) == structure)
    items = [c for c in rtstruct.get("ROIContourSequence", []) if int(c.ReferencedROINumber) == number]
    contours = [c for item in items for c in item.get("ContourSequence", [])]
    if not contours:
        raise EmptyMaskError(f"structure '{structure}' has no contour", where=where)
    geometry = series.geometry
    array = np.zeros(geometry.shape, bool)
    for contour in contours:
        for image in contour.get("ContourImageSequence", []):
            if str(image.ReferencedSOPInstanceUID) not in known:
                raise StudyError(
                    f"structure '{structure}' was drawn on another series",
                    where=where,
                    remedy="Use the series the contours refer to",
                )
        if str(contour.ContourGeometricType) != "CLOSED_PLANAR":
            raise GeometryError(
                f"a contour of '{structure}' is {contour.ContourGeometricType}, not a closed polygon", where=where
            )
        points = geometry.to_index(np.asarray(contour.ContourData, float).reshape(-1, 3))
        level = float(points[:, 2].mean())
        plane = round(level)
        if np.abs(points[:, 2] - level).max() > 0.1 or abs(level - plane) > 0.25 or not 0 <= plane < geometry.size[2]:
            raise GeometryError(f"a contour of '{structure}' is not in a slice of the series", where=where)
        array[plane] ^= polygon2mask(geometry.shape[1:], points[:, [1, 0]])
    if not array.any():
        raise EmptyMaskError(f"structure '{structure}' covers no voxel centre", where=where)
    return Mask(array, geometry, structure)

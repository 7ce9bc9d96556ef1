"""Region of a slide to search: the tumour according to a classifier that was run on the same slides before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology.errors import StoreError
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.results.record import read_slide_record
from pathology.settings import RegionSettings

__all__ = ["check_region", "region_key", "region_mask", "within"]


def check_region(region: RegionSettings) -> None:
    """Reject an invalid region before any work starts.

    Raises
    ------
    StoreError
        If the folder is not a results folder of a classifier.
    """
    if not (Path(region.results) / "slides").is_dir():
        raise StoreError(
            "not a results folder of a classifier",
            where=region.results,
            remedy="Give the --out folder of an earlier run of pathology score",
        )


def region_key(region: RegionSettings, slide_id: str) -> str:
    """Return what the classifier's result for a slide depends on; empty if there is no result."""
    try:
        return read_slide_record(_folder(region, slide_id)).result.key
    except (OSError, StoreError):
        return ""


def region_mask(
    region: RegionSettings, slide_id: str, fingerprint: str, shape: tuple[int, int], dimensions: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the mask of the region to search.

    Parameters
    ----------
    region
        The classifier's results and which of its classes are tumour.
    slide_id, fingerprint
        Of the slide.
    shape
        ``(rows, columns)`` of the returned mask, over the whole slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.

    Returns
    -------
    numpy.ndarray
        ``(rows, columns)`` bool: true where the sum of the classes' probabilities reaches the threshold.

    Raises
    ------
    StoreError
        If the classifier has no map of this slide, or the map belongs to another file.
    UsageError
        If the classifier does not have one of the classes.
    """
    from pathology.outputs.results.predictions import read_heatmap

    folder = _folder(region, slide_id)
    try:
        found = read_slide_record(folder).result
    except FileNotFoundError:
        found = None
    if found is None or not found.has_maps:
        raise StoreError(
            "the classifier has no result for this slide", where=folder, remedy="Score it with the classifier first"
        )
    if found.fingerprint != fingerprint:
        raise StoreError("the classifier's map belongs to another file with this name", where=folder)
    heatmap, _ = read_heatmap(folder)
    return _where(heatmap, region, shape, dimensions)


def _where(
    heatmap: Heatmap, region: RegionSettings, shape: tuple[int, int], dimensions: tuple[int, int]
) -> NDArray[np.bool_]:
    together = np.sum([heatmap.probability(name) for name in region.classes], axis=0)
    # Unknown values are NaN and reach no threshold.
    tumour = np.zeros((together.shape[0] + 1, together.shape[1] + 1), bool)
    with np.errstate(invalid="ignore"):
        tumour[:-1, :-1] = together >= region.threshold
    # The last row and column represent everything outside the map.
    cells = []
    for axis, (count, extent, start) in enumerate(
        zip(shape, reversed(dimensions), reversed(heatmap.origin), strict=True)
    ):
        centres = (np.arange(count) + 0.5) * extent / count
        cell = np.floor((centres - start) / heatmap.stride).astype(int)
        outside = (cell < 0) | (cell >= together.shape[axis])
        cells.append(np.where(outside, together.shape[axis], cell))
    result: NDArray[np.bool_] = tumour[np.ix_(*cells)]
    return result


def within(points: NDArray[np.floating], mask: NDArray[np.bool_], dimensions: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which points lie where a mask over the whole slide is true.

    Parameters
    ----------
    points
        ``(N, 2)`` level-0 ``(x, y)`` on the slide.
    mask
        ``(rows, columns)`` bool.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    """
    shape = np.array(mask.shape)[::-1]
    cells = np.floor(points / np.array(dimensions) * shape).astype(int).clip(0, shape - 1)
    result: NDArray[np.bool_] = mask[cells[:, 1], cells[:, 0]]
    return result


def _folder(region: RegionSettings, slide_id: str) -> Path:
    return Path(region.results) / "slides" / slide_id

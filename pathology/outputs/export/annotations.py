"""A slide's results as QuPath objects: predicted classes, tissue, hotspot, detections, patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pathology.findings.hotspot import Hotspot, HotspotWindow
from pathology.findings.mitotic_count import HotspotCount
from pathology.findings.slide_detections import Decision, SlideDetections
from pathology.findings.slide_result import SlideResult
from pathology.outputs.export.geojson import Feature, rectangle
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.figures.palette import hex_to_rgb
from pathology.outputs.figures.polygons import outlines, ring_area

__all__ = [
    "CANDIDATE",
    "REJECTED",
    "class_features",
    "detection_features",
    "exported_names",
    "hotspot_feature",
    "patch_features",
    "tissue_features",
]

CANDIDATE = "candidate"
"""Class of an unreviewed detection below the threshold."""

REJECTED = "rejected"
"""Class of a rejected detection; assigning this class in QuPath rejects a detection."""

_CANDIDATE_COLOUR = (240, 228, 66)
_GREY = (120, 120, 120)


def class_features(result: SlideResult, heatmap: Heatmap) -> Iterator[Feature]:
    """Yield one annotation per predicted class, along the edges of the map's cells.

    Measurements: the class's mean probability in the region, its area in mm² and the number of cells.
    """
    predicted = heatmap.predicted()
    colours = {finding.name: hex_to_rgb(finding.colour) for finding in result.classes}
    for index, name in enumerate(heatmap.classes):
        where = predicted == index
        if not where.any():
            continue
        measurements = {
            "Mean probability": float(heatmap.values[index][where].mean()),
            "Cells": float(where.sum()),
        }
        if result.mpp is not None:
            measurements["Cell area mm^2"] = float(where.sum()) * (heatmap.stride * result.mpp / 1000) ** 2
        yield Feature(
            tuple(outlines(where, origin=heatmap.origin, cell=(heatmap.stride, heatmap.stride))),
            classification=name,
            colour=colours.get(name),
            name=result.marked(name),
            measurements=measurements,
            locked=True,
        )


def tissue_features(mask: NDArray[np.bool_], dimensions: tuple[int, int], mpp: float | None) -> Iterator[Feature]:
    """Yield one annotation per piece of tissue, along the edges of the mask's pixels.

    Parameters
    ----------
    mask
        ``(rows, columns)`` bool over the whole slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    mpp
        Micrometres per level-0 pixel, for the area.
    """
    cell = dimensions[0] / mask.shape[1], dimensions[1] / mask.shape[0]
    for number, polygon in enumerate(outlines(mask, cell=cell), 1):
        area = sum(ring_area(ring) for ring in polygon)  # holes have the opposite orientation
        yield Feature(
            (polygon,),
            classification="tissue",
            colour=_GREY,
            name=f"tissue {number}",
            measurements={} if mpp is None else {"Area mm^2": area * (mpp / 1000) ** 2},
            locked=True,
        )


def hotspot_feature(result: SlideResult, count: HotspotCount) -> Feature:
    """Return the hotspot as an annotation with its count, density and 95 % interval.

    Parameters
    ----------
    result
        The slide, whose mark the name carries.
    count
        The hotspot, as scored or after review.
    """
    shape = "rectangle" if count.shape == "rectangle" else "circle"
    window = HotspotWindow(shape=shape, area_mm2=count.area_mm2, aspect=count.half_width / count.half_height)
    ring = Hotspot(window, count.x, count.y, count.half_width, count.half_height, count.members).outline()
    low, high = count.per_mm2_interval
    return Feature(
        ((ring,),),
        classification="hotspot",
        colour=(213, 94, 0),
        name=result.marked(f"hotspot: {count.basis}"),
        measurements={
            "Count": float(count.count),
            "Per mm^2": count.per_mm2,
            "Per mm^2, 95 % CI low": low,
            "Per mm^2, 95 % CI high": high,
            "Area mm^2": count.area_mm2,
            **({} if count.tissue_mm2 is None else {"Tissue mm^2": count.tissue_mm2}),
        },
        locked=True,
    )


def detection_features(
    detections: SlideDetections, decisions: Mapping[int, Decision] | None = None
) -> Iterator[Feature]:
    """Yield every detection as a box, one at a time, and then the mitoses that a reviewer added.

    Its class shows whether it counts: the detector's class if it is counted (or belongs to a class that never is),
    ``candidate`` if its score is below the threshold, ``rejected`` if a reviewer rejected it.  Its UUID identifies its
    row, so that :func:`pathology.outputs.export.qupath_review.read_review` can determine what was changed in QuPath.
    """
    decisions = decisions or {}
    colours = {kind.name: hex_to_rgb(kind.colour) for kind in detections.header.classes}
    places = _rows(detections.found.boxes)
    scores = detections.found.scores
    for row, (place, name) in enumerate(zip(places, exported_names(detections, decisions), strict=True)):
        yield Feature(
            (rectangle(*place),),
            kind="detection",
            classification=name,
            colour=colours.get(name, _CANDIDATE_COLOUR if name == CANDIDATE else _GREY),
            measurements={"Score": round(float(scores[row]), 6)},
            identity=detections.uuid(row),
        )
    kind = detections.header.classes[detections.counted_class]
    for decision in decisions.values():
        if decision.verdict == "added":
            yield Feature(
                (rectangle(*detections.added_box(decision)),),
                kind="detection",
                classification=kind.name,
                colour=colours[kind.name],
                name="added by the reviewer",
                identity=detections.uuid(decision.row),
            )


def exported_names(detections: SlideDetections, decisions: Mapping[int, Decision]) -> Iterator[str]:
    """Yield the class under which each detection is exported."""
    kinds = detections.header.classes
    for row, (kind, counts) in enumerate(zip(detections.kinds, detections.counted(decisions), strict=True)):
        decision = decisions.get(row)
        if counts:
            yield kinds[kind].name if kinds[kind].counted else detections.header.classes[detections.counted_class].name
        elif decision is not None:
            yield REJECTED
        else:
            yield CANDIDATE if kinds[kind].counted else kinds[kind].name


def _rows(values: NDArray[np.float32], size: int = 4096) -> Iterator[list[float]]:
    # Convert a few thousand rows at a time to Python numbers: a million at once would take 200 MB.
    for start in range(0, len(values), size):
        yield from values[start : start + size].astype(np.float64).tolist()


def patch_features(
    coords: NDArray[np.int32],
    probabilities: NDArray[np.float32],
    extent: float,
    classes: tuple[str, ...],
    colours: tuple[str, ...],
    mark: str = "",
) -> Iterator[Feature]:
    """Yield every scored patch as a tile with its class probabilities.

    Parameters
    ----------
    coords, probabilities
        ``(N, 2)`` level-0 corners and ``(N, C)`` probabilities; rows of NaN are skipped.
    extent
        Side length of a patch in level-0 pixels.
    classes, colours
        Names, and ``#rrggbb``.
    mark
        Name of every tile, for example a note that the model abstained.
    """
    rgb = [hex_to_rgb(colour) for colour in colours]
    names = [f"Probability: {name}" for name in classes]
    for (x, y), scores in zip(_rows(coords.astype(np.float32)), _rows(probabilities), strict=True):
        if any(score != score for score in scores):
            continue
        predicted = max(range(len(scores)), key=scores.__getitem__)
        yield Feature(
            (rectangle(x, y, x + extent, y + extent),),
            kind="tile",
            classification=classes[predicted],
            colour=rgb[predicted],
            name=mark or None,
            measurements={name: round(score, 6) for name, score in zip(names, scores, strict=True)},
        )

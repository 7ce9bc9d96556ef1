"""Objects drawn on slides: QuPath's GeoJSON, ASAP's and ImageScope's XML, and results folders with a review."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from pathology.annotations.marks import BoxFile, Mark
from pathology.outputs.export.geojson import read_objects
from pathology.outputs.results.results_folder import open_results

__all__ = ["REGION", "read_asap", "read_imagescope", "read_qupath", "read_reviewed_results"]

REGION = "looked at"
"""Label of the tissue that a reviewer looked at."""


def read_qupath(path: Path) -> BoxFile:
    """Return the objects of a GeoJSON file of QuPath: boxes, points and polygons, by their class.

    The file is named as its slide, such as ``slide.geojson`` or ``slide.svs.geojson``.
    """
    image = path.name.removesuffix(".gz").removesuffix(".geojson").removesuffix(".json")
    marks: list[Mark] = []
    for number, feature in enumerate(read_objects(path), 1):
        label, where = feature.classification or "", f"{path.name}, object {number}"
        if feature.points:
            marks += [Mark(image, x, y, x, y, label, where, point=True) for x, y in feature.points]
        else:
            # A polygon's first ring is its outline; the others are holes.
            parts = [[(float(x), float(y)) for x, y in polygon[0]] for polygon in feature.polygons] or [[]]
            marks += [Mark.around(image, part, label, where) for part in parts]
    return BoxFile(str(path), "QuPath GeoJSON", tuple(marks), {image: None}, "regions")


def read_asap(path: Path, root: ET.Element) -> BoxFile:
    """Return the objects of an ASAP file, by their group, else by their name; the file is named as its slide."""
    marks: list[Mark] = []
    for number, entry in enumerate(root.iter("Annotation"), 1):
        group = (entry.get("PartOfGroup") or "").strip()
        label = group if group and group != "None" else (entry.get("Name") or "").strip()
        where = f"{path.name}, annotation {number}"
        corners = _corners(entry.iter("Coordinate"))
        if entry.get("Type") in ("Dot", "PointSet"):
            marks += [Mark.around(path.stem, [corner], label, where) for corner in corners or [(math.nan, math.nan)]]
        else:
            marks.append(Mark.around(path.stem, corners, label, where))
    return BoxFile(str(path), "ASAP XML", tuple(marks), {path.stem: None}, "regions")


def read_imagescope(path: Path, root: ET.Element) -> BoxFile:
    """Return the regions of an ImageScope file, by their layer's name or their own text; it is named as its slide."""
    marks: list[Mark] = []
    for number, layer in enumerate(root.findall("Annotation"), 1):
        described = layer.find("Attributes/Attribute[@Name='Description']")
        name = (layer.get("Name") or "").strip() or (
            "" if described is None else (described.get("Value") or "").strip()
        )
        for count, region in enumerate(layer.iter("Region"), 1):
            where = f"{path.name}, layer {number}, region {count}"
            label = name or (region.get("Text") or "").strip()
            marks.append(Mark.around(path.stem, _corners(region.iter("Vertex")), label, where))
    return BoxFile(str(path), "ImageScope XML", tuple(marks), {path.stem: None}, "regions")


def _corners(entries: Iterable[ET.Element]) -> list[tuple[float, float]]:
    found = []
    for entry in entries:
        try:
            found.append((float(entry.get("X", "")), float(entry.get("Y", ""))))
        except (TypeError, ValueError):
            found.append((math.nan, math.nan))
    return found


def read_reviewed_results(folder: Path) -> BoxFile:
    """Return the reviewed detections of a results folder: accepted and added are mitoses, rejected are look-alikes.

    Detections without a decision were not looked at, so nothing is said about them or about the tissue between the
    reviewed ones: only the reviewed boxes themselves count as looked at.
    """
    marks: list[Mark] = []
    images: dict[str, tuple[int, int] | None] = {}
    for slide in open_results(folder):
        detections = slide.detections
        if detections is None:
            continue
        decisions = slide.decisions()
        if decisions:
            images[slide.slide_id] = slide.dimensions
        for row, decision in sorted(decisions.items()):
            added = decision.verdict == "added"
            box = detections.added_box(decision) if added else detections.found.boxes[row].tolist()
            left, top, right, bottom = box
            label = "look-alike" if decision.verdict == "rejected" else "mitosis"
            where = f"{slide.slide_id}, detection {row + 1}"
            marks += [Mark(slide.slide_id, left, top, right, bottom, name, where) for name in (label, REGION)]
    return BoxFile(str(folder), "reviewed results", tuple(marks), images, "regions")

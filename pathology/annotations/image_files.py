"""Boxes on images: COCO and MIDOG's JSON, YOLO folders and Pascal VOC."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

from pathology.annotations.marks import BoxFile, Mark
from pathology.errors import InputTableError
from pathology.input_files import read_yaml

__all__ = ["read_coco", "read_voc", "read_yolo"]


def read_coco(path: Path, content: Mapping[str, Any]) -> BoxFile:
    """Return the boxes of a COCO file, ``[left, top, width, height]``, or of MIDOG's, ``[left, top, right, bottom]``.

    Both have the same layout.  Boxes are read as corners where the file describes itself as MIDOG, or where not all of
    them fit on their images as sizes but all do as corners.

    Parameters
    ----------
    path
        The file, for messages.
    content
        The parsed file.

    Raises
    ------
    InputTableError
        If an annotation belongs to no image, or an image has no name.

    Examples
    --------
    >>> content = {
    ...     "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80}],
    ...     "categories": [{"id": 1, "name": "mitosis"}],
    ...     "annotations": [{"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40]}],
    ... }
    >>> (mark,) = read_coco(Path("boxes.json"), content).marks
    >>> mark.right, mark.bottom
    (40.0, 60.0)
    """
    try:
        images = {entry["id"]: entry for entry in content["images"]}
        names = {entry["id"]: str(entry["name"]) for entry in content.get("categories") or []}
        listed = {str(entry["file_name"]): _size(entry.get("width"), entry.get("height")) for entry in images.values()}
        entries = [entry for entry in content.get("annotations") or [] if not entry.get("iscrowd")]
        corners = _as_corners(content, images, entries)
        marks = []
        for number, entry in enumerate(entries, 1):
            box = [_number(v) for v in entry.get("bbox") or ()]
            if len(box) != 4:
                box = [math.nan] * 4
            left, top, right, bottom = box if corners else (box[0], box[1], box[0] + box[2], box[1] + box[3])
            label = names.get(entry.get("category_id"), str(entry.get("category_id", "")))
            image = str(images[entry["image_id"]]["file_name"])
            marks.append(
                Mark(image, left, top, right, bottom, label, f"{path.name}, annotation {entry.get('id', number)}")
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputTableError(
            f"this JSON file is not in COCO's or MIDOG's format ({type(error).__name__}: {error})",
            where=path,
            remedy="It needs 'images' with id and file_name, 'categories', and 'annotations' with image_id and bbox",
        ) from error
    return BoxFile(str(path), "MIDOG JSON" if corners else "COCO JSON", tuple(marks), listed, "images")


def _as_corners(content: Mapping[str, Any], images: Mapping[Any, Any], entries: Sequence[Mapping[str, Any]]) -> bool:
    if "midog" in str((content.get("info") or {}).get("description", "")).casefold():
        return True
    sizes = corners = True
    for entry in entries:
        box = [_number(v) for v in entry.get("bbox") or ()]
        if len(box) != 4 or not all(map(math.isfinite, box)):
            continue
        image = images[entry["image_id"]]
        width, height = _number(image.get("width")), _number(image.get("height"))
        # Comparisons with an unknown size (NaN) are false and exclude nothing.
        sizes &= not (box[2] <= 0 or box[3] <= 0 or box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1)
        corners &= not (box[2] <= box[0] or box[3] <= box[1] or box[2] > width + 1 or box[3] > height + 1)
    return corners and not sizes


def read_yolo(folder: Path) -> BoxFile:
    """Return the boxes of a YOLO folder: a text file per image, with class, centre and size as fractions.

    The text files lie beside the images or below ``labels``.  An empty file says that its image was looked at and holds
    nothing; an image without a file was not looked at.  Class names come from ``names`` in a YAML file, or from
    ``classes.txt``; a class without a name keeps its number.
    """
    names = _yolo_names(folder)
    marks: list[Mark] = []
    images: dict[str, tuple[int, int] | None] = {}
    within = folder / "labels" if (folder / "labels").is_dir() else folder
    for path in sorted(within.rglob("*.txt")):
        if path.name.casefold() in _NOT_LABELS:
            continue
        images[path.stem] = None
        for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
            cells = line.split()
            if not cells:
                continue
            values = [_number(cell) for cell in cells[1:5]]
            x, y, w, h = values if len(values) == 4 else [math.nan] * 4
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            label = names.get(cells[0], cells[0])
            marks.append(Mark(path.stem, *box, label, f"{path.name}, line {number}", unit="fraction"))
    return BoxFile(str(folder), "YOLO", tuple(marks), images, "images")


_NOT_LABELS = frozenset({"classes.txt", "names.txt", "readme.txt", "train.txt", "val.txt", "test.txt"})


def _yolo_names(folder: Path) -> dict[str, str]:
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        content = read_yaml(path, InputTableError, what="this YAML file cannot be read")
        found = content.get("names") if isinstance(content, dict) else None
        if isinstance(found, list):
            return {str(index): str(name) for index, name in enumerate(found)}
        if isinstance(found, dict):
            return {str(index): str(name) for index, name in found.items()}
    for path in (folder / "classes.txt", folder / "names.txt", folder / "labels" / "classes.txt"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            return {str(index): line.strip() for index, line in enumerate(lines) if line.strip()}
    return {}


def read_voc(path: Path, root: ET.Element) -> BoxFile:
    """Return the boxes of a Pascal VOC file, one image each; its corners are read as they are, from 0.

    Examples
    --------
    >>> box = "<xmin>1</xmin><ymin>2</ymin><xmax>51</xmax><ymax>52</ymax>"
    >>> text = f"<annotation><filename>a.png</filename><object><name>mitosis</name><bndbox>{box}</bndbox></object>"
    >>> read = read_voc(Path("a.xml"), ET.fromstring(text + "</annotation>"))
    >>> read.marks[0].right
    51.0
    """
    image = PurePosixPath((root.findtext("filename") or path.stem).strip().replace("\\", "/")).name or path.stem
    marks = []
    for number, entry in enumerate(root.findall("object"), 1):
        sides = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (_number(entry.findtext(f"bndbox/{side}")) for side in sides)
        label = (entry.findtext("name") or "").strip()
        marks.append(Mark(image, left, top, right, bottom, label, f"{path.name}, object {number}"))
    size = _size(root.findtext("size/width"), root.findtext("size/height"))
    return BoxFile(str(path), "Pascal VOC", tuple(marks), {image: size}, "images")


def _size(width: object, height: object) -> tuple[int, int] | None:
    w, h = _number(width), _number(height)
    return (int(w), int(h)) if w > 0 and h > 0 else None


def _number(value: object) -> float:
    """Return a value as a number, NaN if it is none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def parse_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Return the content of a JSON file.

    Raises
    ------
    InputTableError
        If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputTableError(f"this JSON file cannot be read ({error})", where=path) from error

"""Find and read annotation files, whatever program wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from pathology.annotations.image_files import parse_json, read_coco, read_voc, read_yolo
from pathology.annotations.marks import BoxFile
from pathology.annotations.slide_files import read_asap, read_imagescope, read_qupath, read_reviewed_results
from pathology.annotations.tables import read_table
from pathology.errors import InputTableError

__all__ = ["read_boxes"]

_LARGEST_XML = 2**28
"""Largest XML file that is read, in bytes."""

_KNOWN = (
    "COCO or MIDOG JSON, a YOLO folder, Pascal VOC, QuPath GeoJSON, ASAP or ImageScope XML, CSV, or a results folder"
)


def read_boxes(sources: Sequence[Path]) -> tuple[BoxFile, ...]:
    r"""Read annotation files and folders; the format is recognised by the content.

    Parameters
    ----------
    sources
        Files, folders of files, YOLO folders, or results folders of ``pathology score`` with a review.

    Raises
    ------
    InputTableError
        If a source does not exist, or holds no annotations in a known format.

    Examples
    --------
    >>> _ = (folder / "slide.csv").write_text("slide,x,y,label,size_um\na,100,200,mitosis,12.5\n")
    >>> [(read.form, len(read.marks)) for read in read_boxes([folder / "slide.csv"])]
    [('CSV', 1)]
    """
    found: list[BoxFile] = []
    for source in sources:
        if not source.exists():
            raise InputTableError("no such file or folder", where=source, remedy="Check the path given to --boxes")
        found += _of_folder(source) if source.is_dir() else [_of_file(source)]
    return tuple(found)


def _of_folder(folder: Path) -> list[BoxFile]:
    if any(folder.glob("slides/*/slide.json")):
        return [read_reviewed_results(folder)]
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    others = [
        p for p in files if p.name.casefold().endswith((".json", ".geojson", ".geojson.gz", ".xml", ".csv", ".tsv"))
    ]
    if others:
        return [_of_file(path) for path in others]
    if any(p.suffix.casefold() == ".txt" for p in files):
        return [read_yolo(folder)]
    raise InputTableError("no annotations found in this folder", where=folder, remedy=f"Give {_KNOWN}")


def _of_file(path: Path) -> BoxFile:
    name = path.name.casefold()
    if name.endswith((".geojson", ".geojson.gz")):
        return read_qupath(path)
    if name.endswith(".json"):
        content = parse_json(path)
        if isinstance(content, dict) and "images" in content:
            return read_coco(path, content)
        return read_qupath(path)
    if name.endswith(".xml"):
        return _of_xml(path)
    if name.endswith((".csv", ".tsv", ".txt")):
        return read_table(path)
    raise InputTableError("the format of these annotations is not known", where=path, remedy=f"Give {_KNOWN}")


def _of_xml(path: Path) -> BoxFile:
    data = path.read_bytes() if path.stat().st_size <= _LARGEST_XML else b""
    # Entities can expand a small file to any size, and no annotation program writes them.
    if not data or b"<!ENTITY" in data or b"<!DOCTYPE" in data:
        raise InputTableError(
            "this XML file is empty, larger than 256 MB or declares entities", where=path, remedy=f"Give {_KNOWN}"
        )
    try:
        root = ET.fromstring(data)  # noqa: S314 - entities are refused above
    except ET.ParseError as error:
        raise InputTableError(f"this XML file is damaged ({error})", where=path) from error
    readers = {"annotation": read_voc, "ASAP_Annotations": read_asap, "Annotations": read_imagescope}
    if root.tag not in readers:
        raise InputTableError(
            f"this XML file holds <{root.tag}>, which is not an annotation format read here",
            where=path,
            remedy=f"Give {_KNOWN}",
        )
    return readers[root.tag](path, root)

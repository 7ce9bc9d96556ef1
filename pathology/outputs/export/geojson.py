"""GeoJSON in QuPath's format (0.4 and later), with streaming reading and writing.

A file is one ``FeatureCollection``.  Each feature has an ``id`` (a UUID), a ``geometry`` in level-0 pixels with the
origin at the top left, and ``properties``: ``objectType`` (``annotation``, ``detection`` or ``tile``),
``classification`` (``name`` and ``color``), ``name``, ``isLocked`` and ``measurements`` (a map from names to numbers),
named as in QuPath's ``QuPathTypeAdapters``.  Files of QuPath 0.2 and 0.3, with measurements as a list and other names,
are read too.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pathology.atomic_files import replacing
from pathology.errors import StoreError
from pathology.outputs.figures.polygons import Polygon

__all__ = ["Feature", "ObjectType", "read_geojson", "read_objects", "rectangle", "write_geojson"]

ObjectType = Literal["annotation", "detection", "tile"]

_TYPES: Final[Mapping[str, ObjectType]] = {
    "annotation": "annotation",
    "detection": "detection",
    "cell": "detection",
    "tile": "tile",
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "detection",
    "PathTileObject": "tile",
}
"""QuPath's names of object types, current and (as ids) of version 0.2."""

_CHUNK: Final = 2**20
"""Bytes per read, and characters buffered per write."""

_LARGEST_FEATURE: Final = 2**28
"""Largest size of a feature in characters; a larger one is rejected instead of read into memory."""


@dataclass(frozen=True)
class Feature:
    """One object on a slide.

    Attributes
    ----------
    polygons
        Outer ring and holes of each part, in level-0 pixels.  One part is written as ``Polygon``, several as
        ``MultiPolygon``.
    kind
        ``annotation`` (drawn areas, editable), ``detection`` (light-weight, many) or ``tile``.
    classification
        Class name; ``None``: none.
    colour
        ``(red, green, blue)``, 0 to 255, of the class.
    name
        Shown next to an annotation.
    measurements
        Name (with unit) to value.
    identity
        UUID as text; ``None``: none is written.
    locked
        Whether it is locked against editing in QuPath.
    """

    polygons: tuple[Polygon, ...]
    kind: ObjectType = "annotation"
    classification: str | None = None
    colour: tuple[int, int, int] | None = None
    name: str | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    identity: str | None = None
    locked: bool = False
    points: tuple[tuple[float, float], ...] = ()
    """Level-0 ``(x, y)`` of a point object; read, not written."""

    def place(self) -> tuple[float, float, float, float] | None:
        """Return the bounding box ``(left, top, right, bottom)``; ``None`` without a shape."""
        corners = [ring for polygon in self.polygons for ring in polygon]
        if self.points:
            corners.append(np.array(self.points, np.float64))
        if not corners:
            return None
        low, high = np.min([ring.min(axis=0) for ring in corners], axis=0), np.max([r.max(0) for r in corners], axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Return an axis-parallel rectangle as a polygon, clockwise on the screen."""
    return (np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], np.float64),)


def write_geojson(path: Path, features: Iterable[Feature], *, warnings: Sequence[str] = ()) -> int:
    """Write features sequentially, completely or not at all; memory does not grow with their number.

    Parameters
    ----------
    path
        The file.
    features
        In any order.
    warnings
        Of the slide: a member of the collection, and metadata of each annotation, which QuPath shows.

    Returns
    -------
    int
        Number of features written.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    count = 0
    with replacing(path) as aside, aside.open("x", encoding="utf-8", newline="\n", buffering=_CHUNK) as file:
        file.write('{"type":"FeatureCollection","features":[')
        for feature in features:
            file.write(",\n" if count else "\n")
            file.write(_encoded(feature, warnings))
            count += 1
        stated = f',"warnings":{json.dumps(list(warnings), ensure_ascii=False)}' if warnings else ""
        file.write(f"\n]{stated}}}\n")
        file.flush()
        os.fsync(file.fileno())
    return count


def _encoded(feature: Feature, warnings: Sequence[str]) -> str:
    parts = [_rings(polygon) for polygon in feature.polygons]
    kind, coordinates = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", f"[{','.join(parts)}]")
    properties: dict[str, Any] = {"objectType": feature.kind}
    if feature.name is not None:
        properties["name"] = feature.name
    if feature.classification is not None:
        properties["classification"] = {"name": feature.classification}
        if feature.colour is not None:
            properties["classification"]["color"] = list(feature.colour)
    if feature.locked:
        properties["isLocked"] = True
    if warnings and feature.kind == "annotation":
        properties["metadata"] = {"Warnings": " | ".join(warnings)}
    if feature.measurements:
        # JSON has no NaN; QuPath shows a missing measurement as NaN.
        properties["measurements"] = {n: v for n, v in feature.measurements.items() if math.isfinite(v)}
    identity = "" if feature.identity is None else f'"id":{json.dumps(feature.identity)},'
    return (
        f'{{"type":"Feature",{identity}"geometry":{{"type":"{kind}","coordinates":{coordinates}}},'
        f'"properties":{json.dumps(properties, ensure_ascii=False, separators=(",", ":"))}}}'
    )


def _rings(polygon: Polygon) -> str:
    return f"[{','.join(_ring(ring) for ring in polygon)}]"


def _ring(ring: NDArray[np.float64]) -> str:
    # To 1/1000 pixel, far below what can be drawn; integers are written without decimals.
    return f"[{','.join(f'[{_number(x)},{_number(y)}]' for x, y in ring.tolist())}]"


def _number(value: float) -> str:
    # A value within 1/1000 of an integer must also lose its decimal point: "900." is not valid JSON.
    return str(int(value)) if value.is_integer() else f"{value:.3f}".rstrip("0").rstrip(".")


def read_geojson(path: Path) -> Iterator[Feature]:
    """Yield the areas of a file; see :func:`read_objects`, which also yields points and objects without a shape.

    Examples
    --------
    >>> features = list(read_geojson(results_path / "slides" / "first" / "annotations.geojson"))
    >>> len(features) > 0
    True
    """
    return (feature for feature in read_objects(path) if feature.polygons)


def read_objects(path: Path) -> Iterator[Feature]:
    """Yield the objects of a file written by this package or by QuPath, one at a time; it may be gzipped.

    Lines and objects without a geometry are yielded without a shape.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    StoreError
        If it is not GeoJSON, or is truncated.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) if zipped else nullcontext(raw) as file:
            try:
                for number, entry in enumerate(_entries(file, path)):
                    try:
                        yield _decoded(entry)
                    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
                        raise StoreError(
                            f"feature {number + 1} is not a GeoJSON feature ({error})", where=path
                        ) from error
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise StoreError("the compressed file is damaged", where=path, remedy="Export it again") from error


def _entries(file: BinaryIO | gzip.GzipFile, path: Path) -> Iterator[Any]:
    """Yield the features of the file, which is a list of features or an object that contains one."""
    decoder, text = json.JSONDecoder(), codecs.getincrementaldecoder("utf-8-sig")()
    buffer, place, ended = "", 0, False

    def more() -> bool:
        nonlocal buffer, place, ended
        if ended:
            return False
        data = file.read(_CHUNK)
        ended = not data
        buffer = buffer[place:] + text.decode(data, final=ended)
        place = 0
        if len(buffer) > _LARGEST_FEATURE:
            raise StoreError("a feature of this file is too large to be an area drawn on a slide", where=path)
        return True

    def skip(signs: str) -> str:
        """Skip white space and the given characters; return the next character, empty at the end."""
        nonlocal place
        while True:
            while place < len(buffer) and buffer[place] in signs:
                place += 1
            if place < len(buffer):
                return buffer[place]
            if not more():
                return ""

    def value() -> Any:  # noqa: ANN401 - any JSON value
        nonlocal place
        while True:
            try:
                found, end = decoder.raw_decode(buffer, place)
            except RecursionError as error:
                raise StoreError("lists are nested too deeply for a GeoJSON file", where=path) from error
            except ValueError:
                if more():
                    continue
                raise StoreError("not a GeoJSON file, or truncated", where=path) from None
            # A number at the end of the buffer may continue in the next chunk; anything else has a closing character.
            if end < len(buffer) or ended or not isinstance(found, (int, float)):
                place = end
                return found
            more()

    blanks = " \t\r\n"
    try:
        first = skip(blanks)
        if first == "{":
            place += 1
            while True:
                sign = skip(blanks + ",")
                if sign != '"':
                    raise StoreError("this file contains no list of features", where=path)
                name = value()
                if skip(blanks) != ":":
                    raise StoreError("not a GeoJSON file, or truncated", where=path)
                place += 1
                opens = skip(blanks)
                if name == "features" and opens == "[":
                    break
                content = value()
                if name == "type" and content == "Feature":
                    raise StoreError(
                        "this file is a single feature, not a collection",
                        where=path,
                        remedy="Export it from QuPath as a FeatureCollection",
                    )
        elif first != "[":
            raise StoreError("not a GeoJSON file", where=path)
        place += 1
        while (sign := skip(blanks + ",")) != "]":
            if not sign:
                raise StoreError("this GeoJSON file is truncated", where=path, remedy="Export it again")
            yield value()
    except UnicodeDecodeError as error:
        raise StoreError("this file is not UTF-8 text", where=path) from error


def _decoded(entry: Mapping[str, Any]) -> Feature:
    polygons, points = _shape(entry.get("geometry") or {})
    properties = entry.get("properties") or {}
    stated = properties.get("objectType") or properties.get("object_type") or entry.get("id")
    identity = entry.get("id")
    classification = properties.get("classification") or {}
    if isinstance(classification, str):
        classification = {"name": classification}
    measurements = properties.get("measurements") or {}
    if isinstance(measurements, list):
        measurements = {m["name"]: m["value"] for m in measurements}
    return Feature(
        polygons,
        kind=_TYPES.get(str(stated), "annotation"),
        classification=classification.get("name") or ": ".join(classification.get("names", [])) or None,
        colour=_colour(classification),
        name=properties.get("name"),
        measurements={str(n): value for n, v in measurements.items() if (value := _measurement(v)) is not None},
        identity=None if identity is None or identity in _TYPES else str(identity),
        locked=bool(properties.get("isLocked", properties.get("is_locked", False))),
        points=points,
    )


def _shape(geometry: Mapping[str, Any]) -> tuple[tuple[Polygon, ...], tuple[tuple[float, float], ...]]:
    """Return the polygons that have an area, and the points."""
    kind = geometry.get("type")
    inside = geometry["coordinates"] if kind in ("Polygon", "MultiPolygon", "Point", "MultiPoint") else []
    if kind in ("Polygon", "MultiPolygon"):
        parts = [inside] if kind == "Polygon" else inside
        rings = (tuple(np.array(ring, np.float64)[:, :2] for ring in part if len(ring) > 2) for part in parts)
        return tuple(polygon for polygon in rings if polygon), ()
    if kind in ("Point", "MultiPoint") and inside:
        return (), tuple((float(p[0]), float(p[1])) for p in ([inside] if kind == "Point" else inside))
    return (), ()


def _measurement(value: object) -> float | None:
    """Return a measurement as a number; texts, which scripts add, are none."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _colour(classification: Mapping[str, Any]) -> tuple[int, int, int] | None:
    colour = classification.get("color")
    if isinstance(colour, list):
        red, green, blue = (int(v) for v in colour)
        return red, green, blue
    packed = classification.get("colorRGB", colour)
    if packed is None:
        return None
    value = int(packed) & 0xFFFFFF  # QuPath 0.3 packs alpha, red, green and blue into a signed number
    return value >> 16, value >> 8 & 255, value & 255

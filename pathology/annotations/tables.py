"""Boxes and points in a CSV file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from pathology.annotations.marks import BoxFile, Mark
from pathology.text_tables import TableRow, read_number, read_text_table

__all__ = ["read_table"]

_COLUMNS: Final = {
    "slide": ("slide_id", "image", "image_id", "file_name", "filename", "file", "path", "field"),
    "label": ("class", "category", "name", "type"),
    "left": ("xmin", "x1", "x_min"),
    "top": ("ymin", "y1", "y_min"),
    "right": ("xmax", "x2", "x_max"),
    "bottom": ("ymax", "y2", "y_max"),
    "x": ("centre_x", "center_x", "cx"),
    "y": ("centre_y", "center_y", "cy"),
    "size_um": ("size", "diameter_um", "side_um"),
}


def read_table(path: Path) -> BoxFile:
    r"""Return the objects of a table, in level-0 pixels.

    A row is a box (``left``, ``top``, ``right``, ``bottom``) or a point (``x``, ``y``), with ``slide`` and ``label``; a
    point's box has the side ``size_um``, in µm.  A row with a slide alone says that it was looked at and holds nothing.

    Raises
    ------
    InputTableError
        If the table is damaged or has no column for the slide.

    Examples
    --------
    >>> path = folder / "points.csv"
    >>> _ = path.write_text("slide,x,y,label,size_um\na,100,200,mitosis,12.5\nb,,,,\n")
    >>> read = read_table(path)
    >>> len(read.marks), sorted(read.images)
    (1, ['a', 'b'])
    """
    table = read_text_table(path, _COLUMNS, required=("slide",), kind="table of boxes")
    marks: list[Mark] = []
    images: dict[str, tuple[int, int] | None] = {}
    for row in table.rows:
        image = row.values["slide"]
        images[image] = None
        label, where = row.values.get("label", ""), f"{path.name}, line {row.line}"
        size = row.values.get("size_um")
        if any(row.values.get(side) for side in ("left", "top", "right", "bottom")):
            left, top, right, bottom = (_value(row, side) for side in ("left", "top", "right", "bottom"))
            marks.append(Mark(image, left, top, right, bottom, label, where))
        elif any(row.values.get(axis) for axis in ("x", "y")):
            x, y = _value(row, "x"), _value(row, "y")
            marks.append(Mark(image, x, y, x, y, label, where, True, size_um=_value(row, "size_um") if size else None))
        elif label:
            marks.append(Mark(image, math.nan, math.nan, math.nan, math.nan, label, where))
    return BoxFile(str(path), "CSV", tuple(marks), images, "regions")


def _value(row: TableRow, column: str) -> float:
    try:
        return read_number(row.values.get(column, ""))
    except ValueError:
        return math.nan

"""How objects show themselves in a notebook: a heading, a picture and a small table, whole in itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from pathology.formatting import one_line

__all__ = ["PICTURE_SIDE", "html_summary", "html_table"]

PICTURE_SIDE = 256
"""Longer side of a picture, in pixels: it travels inside the notebook's file, some 20 kB each."""


def html_summary(title: str, facts: Mapping[str, object], picture: NDArray[np.uint8] | None = None) -> str:
    """Return HTML of one object; every text is escaped, and nothing is loaded from elsewhere.

    Parameters
    ----------
    title
        The heading.
    facts
        Values by their names, in order.
    picture
        ``(H, W, 3)`` uint8 RGB, shown beside them.
    """
    rows = "".join(
        f'<tr><th style="text-align:left">{_text(name)}</th><td style="text-align:left">{_text(value)}</td></tr>'
        for name, value in facts.items()
    )
    shown = "" if picture is None else f'<img alt="" style="border:1px solid #888" src="{_jpeg_address(picture)}">'
    return (
        f'<div><strong>{_text(title)}</strong><div style="display:flex;gap:1em;align-items:flex-start">'
        f"{shown}<table>{rows}</table></div></div>"
    )


def html_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """Return HTML of a table; every text is escaped.

    Parameters
    ----------
    title
        The heading.
    columns
        Their names.
    rows
        Values, one sequence per row.
    note
        Said below, such as how many rows are not shown.
    """
    head = "".join(f'<th style="text-align:left">{_text(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{_text(value)}</td>' for value in row) + "</tr>" for row in rows
    )
    below = f"<div>{_text(note)}</div>" if note else ""
    return (
        f"<div><strong>{_text(title)}</strong><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"{below}</div>"
    )


def _text(value: object) -> str:
    return escape(one_line(str(value)))


def _jpeg_address(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

"""The survival report: one page with its pictures inside, after fitting a model or comparing several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pathology.reports.figures import save_picture
from pathology.reports.html import data_uri, page_environment
from pathology.settings import Record

__all__ = ["Cell", "Picture", "Section", "Table", "picture", "write_report"]


class Cell(Record):
    """A value and, below it, its interval."""

    value: str
    ci: str = ""


class Table(Record):
    """A table of cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Picture(Record):
    """A picture inside the page."""

    caption: str
    address: str
    width: int
    """CSS pixels."""


class Section(Record):
    """A part of the report."""

    heading: str
    text: str = ""
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    note: str = ""


def write_report(
    path: Path, title: str, subtitle: str, sections: Sequence[Section], *, warnings: Sequence[str] = ()
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        File to write.
    title, subtitle
        At its head: what was done, on which data, with how many patients and events.
    sections
        Its parts.
    warnings
        Shown first.
    """
    template = page_environment().get_template("report.html")
    html = template.render(title=title, subtitle=subtitle, sections=sections, warnings=list(warnings))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def picture(figure: Figure, stem: Path, caption: str) -> Picture:
    """Save a figure as SVG and PNG and return it for the page, as SVG."""
    svg, _ = save_picture(figure, stem)
    content = svg.read_bytes()
    # The drawing is cropped to what it holds, so its width is in the file and not in the figure.
    found = re.search(rb'width="([\d.]+)pt"', content)
    width = float(found.group(1)) * 4 / 3 if found else figure.get_size_inches()[0] * 96
    return Picture(caption=caption, address=data_uri(content, "image/svg+xml"), width=round(width))

"""Self-contained HTML reports made of sections with text, tables and figures."""

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
    """A value with its confidence interval below."""

    value: str
    ci: str = ""


class Table(Record):
    """A table of cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Picture(Record):
    """An embedded figure."""

    caption: str
    address: str
    width: int
    """Width in CSS pixels."""


class Section(Record):
    """A section of the report."""

    heading: str
    text: str = ""
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    note: str = ""


def write_report(
    path: Path, title: str, subtitle: str, sections: Sequence[Section], *, warnings: Sequence[str] = ()
) -> None:
    """Write the report.

    Parameters
    ----------
    path
        Output file.
    title, subtitle
        Heading: the analysis, the data, and the number of patients and events.
    sections
        Sections, in order.
    warnings
        Warnings, shown first.

    Examples
    --------
    >>> section = Section(heading="Methods", text="What was done.")
    >>> write_report(folder / "report.html", "A report", "Two patients", [section])
    """
    template = page_environment().get_template("report.html")
    html = template.render(title=title, subtitle=subtitle, sections=sections, warnings=list(warnings))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def picture(figure: Figure, stem: Path, caption: str) -> Picture:
    """Save a figure as SVG and PNG, and return the SVG for embedding."""
    svg, _ = save_picture(figure, stem)
    content = svg.read_bytes()
    # The drawing is cropped to its content, so its width is in the file, not in the figure.
    found = re.search(rb'width="([\d.]+)pt"', content)
    width = float(found.group(1)) * 4 / 3 if found else figure.get_size_inches()[0] * 96
    return Picture(caption=caption, address=data_uri(content, "image/svg+xml"), width=round(width))

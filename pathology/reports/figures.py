"""Style and file formats of report figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pathology.errors import OutputError

__all__ = ["save_picture"]


def save_picture(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as SVG and PNG (200 dots per inch).

    Parameters
    ----------
    figure
        The figure to save.
    stem
        Path without extension.

    Returns
    -------
    tuple of Path
        The two files.

    Raises
    ------
    OutputError
        The files cannot be written.
    """
    svg, png = stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(FIGURE_STYLE):
            figure.savefig(svg, bbox_inches="tight", metadata={"Date": None})
            figure.savefig(png, bbox_inches="tight", dpi=200, metadata={"Software": None})
    except OSError as error:
        raise OutputError(f"the figure cannot be written ({error})", where=stem) from error
    return svg, png


# matplotlib types the keys as one long literal.
FIGURE_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    # With a fixed salt and no date the same data give the same file.
    "svg.hashsalt": "pathology",
}

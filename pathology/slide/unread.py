"""Slides of formats that are not read, so that a folder of them does not look empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from os import walk
from pathlib import Path
from typing import Final

__all__ = ["UNREAD_SUFFIXES", "describe_unread"]

UNREAD_SUFFIXES: Final = {
    ".vsi": "Olympus",
    ".isyntax": "Philips",
    ".i2syntax": "Philips",
    ".zvi": "Zeiss",
    ".lif": "Leica",
    ".nd2": "Nikon",
    ".oir": "Olympus",
    ".mds": "Motic",
    ".mdsx": "Motic",
    ".kfb": "KFBio",
    ".sdpc": "SQRAY",
    ".tmap": "UNIC",
    ".jp2": "JPEG 2000",
    ".jpx": "JPEG 2000",
    ".jxl": "JPEG XL",
    ".bmp": "bitmap",
    ".dzi": "Deep Zoom",
}
"""File name endings of slides and pictures of slides that no reader opens, with their source."""


def describe_unread(folders: Iterable[Path]) -> str:
    """Return one line about the slides of unread formats in folders, at any depth; empty if there are none.

    Examples
    --------
    >>> for name in ("a.vsi", "b.vsi", "c.isyntax"):
    ...     (folder / name).touch()
    >>> describe_unread([folder])
    '3 files are slides of formats that are not read: 2 .vsi (Olympus), 1 .isyntax (Philips); convert them to OME-TIFF'
    """
    counts: Counter[str] = Counter()
    for folder in {path.resolve() for path in folders if path.is_dir()}:
        for _, inner, files in walk(folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            endings = (Path(name).suffix.lower() for name in files if not name.startswith("."))
            counts.update(ending for ending in endings if ending in UNREAD_SUFFIXES)
    if not counts:
        return ""
    total = counts.total()
    listed = ", ".join(f"{count} {ending} ({UNREAD_SUFFIXES[ending]})" for ending, count in counts.most_common())
    verb, noun, object_ = ("is a slide", "file", "it") if total == 1 else ("are slides", "files", "them")
    kinds = "a format that is" if total == 1 else "formats that are"
    return f"{total} {noun} {verb} of {kinds} not read: {listed}; convert {object_} to OME-TIFF"

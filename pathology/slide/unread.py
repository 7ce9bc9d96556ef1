"""Slides in unsupported formats, so that a folder of them does not look empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pathology.input_files import walk_folder
from pathology.slide.readers.outside import outside_readers

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
"""Suffixes of slide formats that no reader opens, with their vendor."""


def describe_unread(folders: Iterable[Path]) -> str:
    """Return one line about the slides in unsupported formats in folders, at any depth; empty if there are none.

    Examples
    --------
    >>> for name in ("a.vsi", "b.vsi", "c.isyntax"):
    ...     (folder / name).touch()
    >>> describe_unread([folder])
    '3 slides are in unsupported formats: 2 .vsi (Olympus), 1 .isyntax (Philips); convert them to OME-TIFF'
    """
    counts: Counter[str] = Counter()
    unread = UNREAD_SUFFIXES.keys() - frozenset().union(*(reader.suffixes for reader in outside_readers()))
    for folder in {path.resolve() for path in folders if path.is_dir()}:
        for content in walk_folder(folder, enter=lambda inner: not inner.name.startswith(".")):
            endings = (entry.suffix.lower() for entry in content.entries if not entry.name.startswith("."))
            counts.update(ending for ending in endings if ending in unread)
    if not counts:
        return ""
    total = counts.total()
    listed = ", ".join(f"{count} {ending} ({UNREAD_SUFFIXES[ending]})" for ending, count in counts.most_common())
    subject = "1 slide is in an unsupported format" if total == 1 else f"{total} slides are in unsupported formats"
    return f"{subject}: {listed}; convert {'it' if total == 1 else 'them'} to OME-TIFF"

"""The public osteosarcoma tile data set: folders, classes, cases and slides.

Osteosarcoma-Tumor-Assessment (Leavey et al. 2019, The Cancer Imaging Archive, CC BY 3.0): H&E tiles of
1024 x 1024 px at 10x, about 1 µm per pixel.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pathology.errors import InputTableError
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles, read_tiles

__all__ = ["OSTEOSARCOMA_CLASSES", "OSTEOSARCOMA_FOLDERS", "OSTEOSARCOMA_MPP", "read_osteosarcoma"]

OSTEOSARCOMA_CLASSES: Final = ("non-tumour", "non-viable tumour", "viable tumour")
OSTEOSARCOMA_FOLDERS: Final = ("Non-Tumor", "Non-Viable-Tumor", "Viable")
"""One folder per class, in class order."""
OSTEOSARCOMA_MPP: Final = 1.0
"""Micrometres per pixel, from the nominal 10x magnification."""


def read_osteosarcoma(folder: Path) -> LabelledTiles:
    """Read the tiles, with case and slide from their file names, such as ``Case-48-P5-C18-17610-25605_104.jpg``.

    Parameters
    ----------
    folder
        Contains one folder per class, named as in :data:`OSTEOSARCOMA_FOLDERS`.

    Raises
    ------
    InputTableError
        If a folder has no tiles or a file name does not start with case and block.
    """
    paths: list[Path] = []
    labels: list[int] = []
    cases: list[str] = []
    slides: list[str] = []
    for label, name in enumerate(OSTEOSARCOMA_FOLDERS):
        found = sorted((folder / name).glob("*.jpg"))
        if not found:
            raise InputTableError(f"no tiles in {name}", where=folder, remedy="Pass its parent folder")
        for path in found:
            match = re.match(r"(Case-\d+|P\d+)(?:-P\d+)?-([A-Z]\d+)-", path.name)
            if match is None:
                raise InputTableError("the file name does not start with case and block", where=path)
            paths.append(path)
            labels.append(label)
            cases.append(match[1])
            slides.append(f"{match[1]} {match[2]}")
    return read_tiles(paths, labels, OSTEOSARCOMA_CLASSES, cases, slides)

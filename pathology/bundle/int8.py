"""The bundle files with the network in 8-bit integers, in OpenVINO's format.

A graph of layers and its constants: OpenVINO runs only its own operations, so such a file contains no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathology.bundle.weights import check_weights
from pathology.errors import BundleError

if TYPE_CHECKING:
    from pathology.bundle.card import Int8

__all__ = ["INT8_NAMES", "int8_graph"]

INT8_NAMES: Final = ("int8.xml", "int8.bin")
"""The graph, and its constants beside it."""


def int8_graph(directory: Path, int8: Int8) -> Path:
    """Return the graph's file after comparing both files with the card.

    Parameters
    ----------
    directory
        The bundle's folder.
    int8
        Of its card.

    Raises
    ------
    WeightsHashError
        If a file's hash differs from the card's.
    BundleError
        If one is missing.
    """
    for name, sha256 in zip(INT8_NAMES, (int8.graph_sha256, int8.constants_sha256), strict=True):
        if not (directory / name).is_file():
            raise BundleError(f"the bundle has no {name}", where=directory, remedy="Copy the complete bundle again")
        check_weights(directory / name, sha256)
    return directory / INT8_NAMES[0]

"""Scoring of whole-slide images of soft tissue sarcomas.  Research use only.

The names most scripts need are here; they are imported on first use, so that ``import pathology`` stays
fast and pulls in no deep-learning library::

    from pathology import load_bundle, open_results, open_slide, score
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathology.bundle.catalogue import load_bundle
    from pathology.outputs.results.results_folder import open_results
    from pathology.scoring.batch import score
    from pathology.slide.slide import open_slide
    from pathology.tiling.store import PatchStore

__all__ = ["PatchStore", "__version__", "load_bundle", "open_results", "open_slide", "score"]

try:
    __version__ = version("sarcoma-pathology")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "PatchStore": "pathology.tiling.store",
    "load_bundle": "pathology.bundle.catalogue",
    "open_results": "pathology.outputs.results.results_folder",
    "open_slide": "pathology.slide.slide",
    "score": "pathology.scoring.batch",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pathology' has no attribute {name!r}")

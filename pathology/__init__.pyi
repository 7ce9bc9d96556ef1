from . import (
    bundle,
    cohorts,
    encoders,
    errors,
    evaluation,
    features,
    findings,
    omics,
    outputs,
    patient,
    radiology,
    settings,
    slide,
    stats,
    survival,
    systems,
    tiling,
    training,
)
from ._version import __version__
from .bundle.catalogue import Bundle, list_bundles, load_bundle
from .errors import PathologyError
from .outputs.results.results_folder import Results, open_results
from .outputs.results.tables import read_results
from .scoring.batch import score
from .scoring.tile import tile
from .settings import GridSettings, ScoreSettings
from .slide.open import find_slides
from .slide.slide import Slide, open_slide
from .tiling.store import PatchStore

__all__ = [
    "Bundle",
    "GridSettings",
    "PatchStore",
    "PathologyError",
    "Results",
    "ScoreSettings",
    "Slide",
    "__version__",
    "bundle",
    "cohorts",
    "encoders",
    "errors",
    "evaluation",
    "features",
    "find_slides",
    "findings",
    "list_bundles",
    "load_bundle",
    "omics",
    "open_results",
    "open_slide",
    "outputs",
    "patient",
    "radiology",
    "read_results",
    "score",
    "settings",
    "slide",
    "stats",
    "survival",
    "systems",
    "tile",
    "tiling",
    "training",
]

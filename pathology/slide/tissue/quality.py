"""Slide quality: pen, blur, folds, bubbles and dark dirt, each as a mask over the whole slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.memory import give_back_freed_memory
from pathology.settings import QualitySettings
from pathology.slide.readers.base import SlideReader
from pathology.slide.thumbnail import Thumbnail
from pathology.slide.tissue.artefacts import Artefacts, find_artefacts
from pathology.slide.tissue.detect import ExclusionReason, TissueMask
from pathology.slide.tissue.focus import FocusMap, find_focus

__all__ = ["ARTEFACTS", "SlideQuality", "find_quality"]

ARTEFACTS = ("pen", "blur", "fold", "bubble", "dark")
"""Names of the artefacts, in the order in which they are listed."""


@dataclass(frozen=True, slots=True)
class SlideQuality:
    """Quality of one slide.

    Attributes
    ----------
    tissue
        Its tissue.
    artefacts
        Folds, bubbles and dirt, at the scale of the tissue mask.
    focus
        Focus, in squares of about 64 µm.
    """

    tissue: TissueMask
    artefacts: Artefacts
    focus: FocusMap

    @property
    def masks(self) -> Mapping[str, NDArray[np.bool_]]:
        """One mask for each of :data:`ARTEFACTS`, ``(h, w)`` bool over the whole slide, each at its own scale."""
        return {
            "pen": self.tissue.excluded == ExclusionReason.PEN,
            "blur": self.focus.blurred,
            "fold": self.artefacts.fold,
            "bubble": self.artefacts.bubble,
            "dark": self.artefacts.dark,
        }

    def tissue_shares(self) -> dict[str, float | None]:
        """Return the fraction of the slide's tissue that each artefact covers, 0 to 1.

        Pen marks are not tissue, so their area is given as a fraction of tissue and pen together.  ``None`` if the
        slide has no tissue, and for blur if the slide is too coarse to judge it.
        """
        mask = self.tissue.mask
        area = np.count_nonzero(mask)
        result: dict[str, float | None] = {}
        for name, found in self.masks.items():
            if name == "blur":
                judged = np.count_nonzero(np.isfinite(self.focus.ratio))
                result[name] = int(np.count_nonzero(found)) / int(judged) if judged else None
                continue
            covered = np.count_nonzero(found if name == "pen" else found & mask)
            total = area + covered if name == "pen" else area
            result[name] = int(covered) / int(total) if total else None
        return result


def find_quality(
    reader: SlideReader,
    mpp_of_level0: float,
    thumbnail: Thumbnail,
    tissue: TissueMask,
    settings: QualitySettings | None = None,
) -> SlideQuality:
    """Detect all artefacts on a slide.

    Focus needs a finer scale than the thumbnail's, so the tissue is read once more.

    Parameters
    ----------
    reader
        The slide.
    mpp_of_level0
        Its scale in µm/px.
    thumbnail
        The slide at the scale of the tissue mask.
    tissue
        The tissue detected in it.
    settings
        Scales and thresholds.

    Returns
    -------
    SlideQuality
        All masks.
    """
    settings = settings or QualitySettings()
    artefacts = find_artefacts(thumbnail.pixels, tissue, settings)
    give_back_freed_memory()
    return SlideQuality(tissue, artefacts, find_focus(reader, mpp_of_level0, tissue, settings))

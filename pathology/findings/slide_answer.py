"""What a classifier gives for a slide beside the probabilities of its patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass

__all__ = ["SlideAnswer"]


@dataclass(frozen=True, eq=False)
class SlideAnswer:
    """What a classifier gives for a slide beside its patches' probabilities.

    Attributes
    ----------
    probabilities
        ``(C,)`` of the slide by another aggregator than the mean over patches; ``None``: the mean.
    aggregator
        Name of the aggregator.
    attention
        ``(N,)`` weight of each patch in a learned aggregator's answer, NaN where it could not be read.
    domain_scores
        ``(N,)`` out-of-domain score of each patch, NaN where it could not be read.
    """

    probabilities: NDArray[np.floating] | None = None
    aggregator: str = "mean"
    attention: NDArray[np.floating] | None = None
    domain_scores: NDArray[np.floating] | None = None

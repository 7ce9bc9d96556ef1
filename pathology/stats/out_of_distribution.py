"""A score for slides that are unlike anything the model was trained on.

A patch's score is the squared Mahalanobis distance of features of the network (its last or its first) from the nearest
class mean of the training patches, with one covariance for all classes (Lee et al. 2018, NeurIPS, "A simple unified
framework for detecting out-of-distribution samples", without input perturbation), shrunk as of Ledoit and Wolf (2004,
Journal of Multivariate Analysis), and divided by the number of features: about 1 for a training patch.  A slide's score
is the median over its patches, so that a fold or a pen mark does not decide.  The limit is the conformal quantile of
the scores of calibration slides: a slide like those exceeds it with the stated false-alarm rate at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.conformal import conformal_quantile, one_per_patient

__all__ = ["FeatureDomain", "OutOfDomainRule", "fit_domain", "fit_limit", "slide_score"]

Floats = npt.NDArray[np.floating]


class OutOfDomainRule(Record):
    """When a slide counts as outside what the model was trained on."""

    limit: float | None
    """Slide score above which it does; ``None``: too few calibration slides to state a limit at this rate."""
    false_alarm: Annotated[float, Field(gt=0, lt=1)]
    """Stated chance that a slide like the calibration slides exceeds the limit."""
    n: Annotated[int, Field(ge=0)]
    """Calibration slides the limit was found on."""
    unit: str
    """What was counted: patients, or slides where there were too few patients."""
    features: Annotated[int, Field(ge=1)]
    """Number of features."""
    layer: Literal["penultimate", "stem"] = "penultimate"
    """Which: those that the classes are told by, or mean and deviation of the network's first layers
    (:class:`pathology.networks.stem.StemFeatures`), which keep what classes forget."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64
    """SHA-256 of the file with the class means and the covariance; set when the bundle is written."""
    data: str = ""
    """Which data the limit was found on, and what that means for the rate."""


@dataclass(frozen=True, eq=False)
class FeatureDomain:
    """Where a network's penultimate features lie for its training patches.

    Attributes
    ----------
    centres : numpy.ndarray
        ``(C, F)`` float32 class means, whitened.
    whitening : numpy.ndarray
        ``(F, F)`` float32; features times it have the identity as covariance.
    """

    centres: npt.NDArray[np.float32]
    whitening: npt.NDArray[np.float32]

    def scores(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the score of each patch.

        Parameters
        ----------
        features
            ``(N, F)``.

        Returns
        -------
        numpy.ndarray
            ``(N,)`` squared distance from the nearest class mean, divided by ``F``.
        """
        white = np.asarray(features, np.float64) @ self.whitening.astype(np.float64)
        squared = np.stack([((white - centre) ** 2).sum(axis=1) for centre in self.centres.astype(np.float64)])
        result: npt.NDArray[np.float64] = squared.min(axis=0) / self.centres.shape[1]
        return result


def fit_domain(features: Floats, labels: Sequence[int] | npt.NDArray[np.integer]) -> FeatureDomain:
    """Fit class means and the shared, shrunk covariance.

    Parameters
    ----------
    features
        ``(N, F)`` penultimate features of training patches.
    labels
        Class numbers, length N; a class without patches has no mean and is nobody's nearest.

    Raises
    ------
    UsageError
        If shapes do not fit, a feature is not finite, or there are fewer than two patches of a class.
    """
    from sklearn.covariance import LedoitWolf

    values, truth = np.asarray(features, np.float64), np.asarray(labels, np.int64)
    if values.ndim != 2 or len(values) != len(truth) or not np.isfinite(values).all():
        raise UsageError(f"features: expected ({len(truth)}, F), all finite, got {values.shape}")
    classes, sizes = np.unique(truth, return_counts=True)
    if not len(classes) or sizes.min() < 2:
        raise UsageError("features: expected two patches of each class at least")
    means = np.stack([values[truth == k].mean(axis=0) for k in classes])
    covariance = LedoitWolf(assume_centered=True).fit(values - means[np.searchsorted(classes, truth)]).covariance_
    variances, axes = np.linalg.eigh(covariance)
    # A feature that never varies (a dead unit) would get an infinite weight; shrinkage keeps variances above this.
    variances = np.maximum(variances, variances.max() * 1e-9)
    whitening = axes / np.sqrt(variances)
    return FeatureDomain((means @ whitening).astype(np.float32), whitening.astype(np.float32))


def slide_score(patch_scores: Floats) -> float:
    """Return a slide's score: the median over its patches, those that could not be read (NaN) left out."""
    values = np.asarray(patch_scores, np.float64)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def fit_limit(
    scores: Floats,
    *,
    features: int,
    patients: Sequence[str] | None = None,
    false_alarm: float = 0.05,
    layer: Literal["penultimate", "stem"] = "penultimate",
    data: str = "",
    seed: int = 0,
) -> OutOfDomainRule:
    """Find the limit on slides that trained nothing.

    Parameters
    ----------
    scores
        ``(N,)`` slide scores; see :func:`slide_score`.
    features
        Number of features behind them.
    patients
        Patient of each slide; one slide a patient is drawn, and the rate then holds for new patients.  ``None``: every
        slide counts, and the rate holds for further slides of the same patients only.
    false_alarm
        Wanted rate.
    layer
        Where the features are from.
    data
        Said in the rule.
    seed
        Of the draw.
    """
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise UsageError("scores: some are not finite", remedy="Leave out slides without readable patches")
    rows = np.arange(len(values)) if patients is None else one_per_patient(patients, seed=seed)
    return OutOfDomainRule(
        limit=conformal_quantile(values[rows], false_alarm),
        false_alarm=false_alarm,
        n=len(rows),
        unit="slides" if patients is None else "patients",
        features=features,
        layer=layer,
        data=data,
    )

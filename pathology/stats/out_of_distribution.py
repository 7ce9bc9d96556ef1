"""Out-of-distribution score for slides unlike the training data.

A patch's score is the squared Mahalanobis distance of network features (last or first layers) from the nearest class
mean of the training patches, with one covariance for all classes (Lee et al. 2018, NeurIPS, "A simple unified framework
for detecting out-of-distribution samples", without input perturbation), shrunk according to Ledoit and Wolf (2004,
Journal of Multivariate Analysis), and divided by the number of features: about 1 for a training patch.  A slide's score
is the median over its patches, which is robust to a fold or a pen mark.  The limit is the conformal quantile of the
scores of calibration slides: a slide like those exceeds it at most at the stated false-alarm rate.
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
    """Rule for when a slide counts as out of distribution."""

    limit: float | None
    """Slide score above which it does; ``None``: too few calibration slides for a limit at this rate."""
    false_alarm: Annotated[float, Field(gt=0, lt=1)]
    """Probability that a slide like the calibration slides exceeds the limit."""
    n: Annotated[int, Field(ge=0)]
    """Number of calibration slides (or patients) behind the limit."""
    unit: str
    """Unit of the count: patients, or slides if there were too few patients."""
    features: Annotated[int, Field(ge=1)]
    """Number of features."""
    layer: Literal["penultimate", "stem"] = "penultimate"
    """Which features: the penultimate ones, or mean and deviation of the network's first layers
    (:class:`pathology.networks.stem.StemFeatures`), which keep what the last layers discard."""
    cell: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels of the squares into which a patch is divided; the patch's score is the median over its squares
    with tissue.  For models trained on crops smaller than a patch.  ``None``: the patch is described whole."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64
    """SHA-256 of the file with the class means and the covariance; set when the bundle is written."""
    data: str = ""
    """Data the limit was fitted on, and its implications for the rate."""


@dataclass(frozen=True, eq=False)
class FeatureDomain:
    """Distribution of a network's penultimate features on its training patches.

    Attributes
    ----------
    centres : numpy.ndarray
        ``(C, F)`` float32 class means, whitened.
    whitening : numpy.ndarray
        ``(F, F)`` float32; features multiplied by it have identity covariance.
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
        Class numbers, length N; a class without patches has no mean and is never the nearest.

    Raises
    ------
    UsageError
        If shapes do not match, a feature is not finite, or a class has fewer than two patches.
    """
    from sklearn.covariance import LedoitWolf

    values, truth = np.asarray(features, np.float64), np.asarray(labels, np.int64)
    if values.ndim != 2 or len(values) != len(truth) or not np.isfinite(values).all():
        raise UsageError(f"features: expected ({len(truth)}, F), all finite, got {values.shape}")
    classes, sizes = np.unique(truth, return_counts=True)
    if not len(classes) or sizes.min() < 2:
        raise UsageError("features: expected at least two patches of each class")
    means = np.stack([values[truth == k].mean(axis=0) for k in classes])
    covariance = LedoitWolf(assume_centered=True).fit(values - means[np.searchsorted(classes, truth)]).covariance_
    variances, axes = np.linalg.eigh(covariance)
    # A feature that never varies (a dead unit) would get an infinite weight; shrinkage keeps variances above this.
    variances = np.maximum(variances, variances.max() * 1e-9)
    whitening = axes / np.sqrt(variances)
    return FeatureDomain((means @ whitening).astype(np.float32), whitening.astype(np.float32))


def slide_score(patch_scores: Floats) -> float:
    """Return a slide's score: the median over its readable patches (NaN excluded)."""
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
    cell: int | None = None,
    data: str = "",
    seed: int = 0,
) -> OutOfDomainRule:
    """Fit the limit on slides not used in training.

    Parameters
    ----------
    scores
        ``(N,)`` slide scores; see :func:`slide_score`.
    features
        Number of features behind them.
    patients
        Patient of each slide; one slide per patient is drawn, and the rate then holds for new patients.  ``None``:
        every slide counts, and the rate only holds for further slides of the same patients.
    false_alarm
        Target false-alarm rate.
    layer
        Layer of the features.
    cell
        Side in pixels of the squares described; ``None``: whole patches.
    data
        Description of the data, stored in the rule.
    seed
        Seed of the draw.
    """
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise UsageError("scores: some are not finite", remedy="Exclude slides without readable patches")
    rows = np.arange(len(values)) if patients is None else one_per_patient(patients, seed=seed)
    return OutOfDomainRule(
        limit=conformal_quantile(values[rows], false_alarm),
        false_alarm=false_alarm,
        n=len(rows),
        unit="slides" if patients is None else "patients",
        features=features,
        layer=layer,
        cell=cell,
        data=data,
    )

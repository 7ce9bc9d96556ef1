"""Colour baseline for tile classifiers: colour statistics, no morphology."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2hed
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pathology.training.tile_classifier.fit import Rows
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles

__all__ = ["colour_features", "colour_probabilities"]

_BINS = 16


def colour_features(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Compute the colour features of a tile.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.

    Returns
    -------
    numpy.ndarray
        60 features: mean and standard deviation of R, G, B (0 to 1) and of haematoxylin, eosin and DAB
        (``skimage.color.rgb2hed``), then normalised 16-bin histograms of R, G and B.
    """
    rgb = pixels.reshape(-1, 3) / 255.0
    hed = rgb2hed(pixels).reshape(-1, 3)
    moments = [rgb.mean(axis=0), rgb.std(axis=0), hed.mean(axis=0), hed.std(axis=0)]
    histograms = [np.histogram(rgb[:, c], bins=_BINS, range=(0, 1))[0] / len(rgb) for c in range(3)]
    return np.concatenate([*moments, *histograms])


def colour_probabilities(
    features: npt.NDArray[np.float64], tiles: LabelledTiles, train: Rows, test: Rows
) -> npt.NDArray[np.float64]:
    """Classify tiles by logistic regression on colour features.

    Standardised features, L2 penalty with C = 1, inverse-frequency class weights: scikit-learn's
    defaults, with nothing tuned on these data.

    Parameters
    ----------
    features
        ``(N, F)``, :func:`colour_features` of every tile.
    tiles
        Labelled tiles.
    train, test
        Tile indices to fit on and to classify.

    Returns
    -------
    numpy.ndarray
        ``(len(test), C)``; 0 for classes without training tiles.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000))
    model.fit(features[train], tiles.labels[train])
    result = np.zeros((len(test), len(tiles.classes)))
    result[:, model.classes_] = model.predict_proba(features[test])
    return result

"""Colour baseline for slide classifiers: patch colour statistics, no morphology."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pathology.tiling.store import PatchStore
from pathology.training.classifier.patches import SlidePatches
from pathology.training.tile_classifier.colour_baseline import colour_features

__all__ = ["colour_baseline", "slide_colours"]

Rows = NDArray[np.int64]

_PATCHES = 16
"""Patches sampled per slide; colours vary little within a slide."""


def slide_colours(patches: SlidePatches, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the mean colour features of sampled patches for each slide.

    Parameters
    ----------
    patches
        All slides.
    seed
        Seed for patch sampling.

    Returns
    -------
    numpy.ndarray
        ``(S, 60)``; see :func:`pathology.training.tile_classifier.colour_baseline.colour_features`.
    """
    result = []
    for number, (path, keep) in enumerate(zip(patches.stores, patches.keep, strict=True)):
        places = np.flatnonzero(keep)
        if len(places) > _PATCHES:
            places = np.sort(np.random.default_rng((seed, number)).choice(places, _PATCHES, replace=False))
        with PatchStore.open(path) as store:
            found = store.read(places)
        result.append(np.mean([colour_features(pixels) for pixels in found.pixels[found.readable]], axis=0))
    return np.stack(result)


def colour_baseline(
    colours: NDArray[np.float64], labels: Rows, classes: int, train: Rows, test: Rows
) -> NDArray[np.float64]:
    """Classify slides by logistic regression on colour features.

    Standardised features, L2 penalty with C = 1, inverse-frequency class weights: scikit-learn's defaults,
    with nothing tuned on these data.

    Parameters
    ----------
    colours
        ``(S, F)``.
    labels
        Class index of each slide.
    classes
        Number of classes.
    train, test
        Rows to fit on and to classify.

    Returns
    -------
    numpy.ndarray
        ``(len(test), C)``.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000))
    model.fit(colours[train], labels[train])
    result = np.zeros((len(test), classes))
    result[:, model.classes_] = model.predict_proba(colours[test])
    return result

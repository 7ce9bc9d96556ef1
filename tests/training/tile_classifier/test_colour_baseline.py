"""The colour baseline: what it sees, what it cannot see."""

import numpy as np
import pytest
from skimage.color import rgb2hed

from pathology.training.tile_classifier.colour_baseline import colour_features, colour_probabilities
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles


def tiles_of(pixels: np.ndarray, labels: list[int], classes: int) -> LabelledTiles:
    names = tuple(str(i) for i in range(len(labels)))
    return LabelledTiles(pixels, np.array(labels), tuple("abc"[:classes]), names, names, names)


def test_features_are_moments_and_histograms():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    features = colour_features(pixels)
    assert features.shape == (60,)
    np.testing.assert_allclose(features[:3], pixels.mean(axis=(0, 1)) / 255)
    np.testing.assert_allclose(features[3:6], pixels.std(axis=(0, 1)) / 255)
    np.testing.assert_allclose(features[6:9], rgb2hed(pixels).mean(axis=(0, 1)))
    histogram = np.histogram(pixels[..., 1] / 255, bins=16, range=(0, 1))[0] / 600
    np.testing.assert_allclose(features[28:44], histogram)
    assert features[12:].reshape(3, 16).sum(axis=1) == pytest.approx(1)


def test_places_do_not_matter():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    shuffled = rng.permutation(pixels.reshape(-1, 3)).reshape(16, 16, 3)
    np.testing.assert_allclose(colour_features(pixels), colour_features(shuffled))


def test_it_tells_colours_apart():
    rng = np.random.default_rng(0)
    labels = [0, 1, 2] * 6
    middle = np.array([[200, 120, 180], [150, 80, 150], [230, 200, 220]])
    pixels = np.stack([rng.normal(middle[label], 8, (16, 16, 3)).clip(0, 255) for label in labels]).astype(np.uint8)
    features = np.stack([colour_features(tile) for tile in pixels])
    tiles = tiles_of(pixels, labels, 3)
    probabilities = colour_probabilities(features, tiles, range(12), range(12, 18))
    assert probabilities.argmax(axis=1).tolist() == labels[12:]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_class_it_has_not_seen_gets_nothing():
    rng = np.random.default_rng(0)
    labels = [0, 2] * 4 + [1]
    pixels = rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    features = np.stack([colour_features(tile) for tile in pixels])
    probabilities = colour_probabilities(features, tiles_of(pixels, labels, 3), range(8), [8])
    assert probabilities.shape == (1, 3)
    assert probabilities[0, 1] == 0
    assert probabilities.sum() == pytest.approx(1)

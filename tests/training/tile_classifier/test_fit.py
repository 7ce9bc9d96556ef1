"""Fitting: it learns, it can be repeated, it looks at its own tiles only."""

import numpy as np
import pytest
import torch
from torch import nn

from pathology.training.tile_classifier.batch_augmentation import AugmentationSettings
from pathology.training.tile_classifier.fit import TileFitSettings, _pick, _pools, fit_network, tile_probabilities
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles

CPU = torch.device("cpu")
RECIPE = TileFitSettings(patch=32, stride=16, steps=80, batch=8, learning_rate=1e-2, label_smoothing=0.0)


def make_tiles(count: int = 8, side: int = 96) -> LabelledTiles:
    """Two textures of one mean colour: coarse and fine stripes, which no colour rule can tell apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    rows = np.arange(side)
    pixels = np.empty((count, side, side, 3), np.uint8)
    for number, label in enumerate(labels):
        stripes = (rows // (4 if label else 1)) % 2 * 80 + 80 + rng.integers(-5, 6, side)
        pixels[number] = stripes[:, None, None]
    return LabelledTiles(
        pixels,
        labels.astype(np.int64),
        ("fine", "coarse"),
        tuple(f"p{i // 2}" for i in range(count)),
        tuple(f"p{i // 2} s{i}" for i in range(count)),
        tuple(f"{i}.png" for i in range(count)),
    )


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def test_it_learns_and_classifies_tiles_it_has_not_seen():
    tiles = make_tiles()
    fitted = fit_network(small_network(), tiles, range(6), RECIPE, device=CPU, seed=0)
    assert len(fitted.losses) == RECIPE.steps
    assert np.mean(fitted.losses[-5:]) < 0.5 * np.mean(fitted.losses[:5])
    probabilities = tile_probabilities(fitted.network, tiles, [6, 7], RECIPE, device=CPU)
    assert probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities.argmax(axis=1).tolist() == tiles.labels[[6, 7]].tolist()


def test_the_same_seed_gives_the_same_network():
    tiles = make_tiles()
    recipe = RECIPE.model_copy(update={"steps": 6})
    states = [
        fit_network(small_network(), tiles, range(6), recipe, device=CPU, seed=seed).network.state_dict()
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_pixels_and_labels_of_other_tiles_do_not_matter():
    tiles = make_tiles()
    changed = LabelledTiles(
        tiles.pixels.copy(), tiles.labels.copy(), tiles.classes, tiles.patients, tiles.slides, tiles.names
    )
    changed.pixels[6:] = 0
    changed.labels[6:] = 1 - changed.labels[6:]
    recipe = RECIPE.model_copy(update={"steps": 6})
    first, second = (
        fit_network(small_network(), t, range(6), recipe, device=CPU, seed=0).network.state_dict()
        for t in (tiles, changed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_progress_is_reported_at_the_end():
    seen = []
    recipe = RECIPE.model_copy(update={"steps": 6})
    fitted = fit_network(
        small_network(),
        make_tiles(),
        range(6),
        recipe,
        device=CPU,
        seed=0,
        progress=lambda *report: seen.append(report),
    )
    assert seen == [(6, pytest.approx(fitted.losses[-1]))]
    assert not fitted.network.training


def test_each_class_is_drawn_as_often_and_within_it_each_patient():
    tiles = LabelledTiles(
        np.zeros((10, 8, 8, 3), np.uint8),
        np.array([0] * 9 + [1]),
        ("a", "b"),
        ("p",) * 8 + ("q", "q"),
        ("s",) * 10,
        tuple("abcdefghij"),
    )
    draw = np.random.default_rng(0)
    pools = _pools(tiles, np.arange(10))
    picked = np.array([_pick(pools, draw) for _ in range(8000)])
    assert (picked == 9).mean() == pytest.approx(1 / 2, abs=0.02)
    assert (picked == 8).mean() == pytest.approx(1 / 4, abs=0.02)
    assert np.bincount(picked[picked < 8]) / 8000 == pytest.approx(np.full(8, 1 / 32), abs=0.01)


def test_patches_of_glass_are_neither_trained_on_nor_counted():
    tiles = make_tiles()
    tiles.pixels[:, :, 48:] = 245
    seen = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            seen.append(batch.detach())
            return self.inner(batch)

    plain = AugmentationSettings(resampled=0, scale=0, stain=0, stain_shift=0, contrast=0, brightness=0)
    recipe = RECIPE.model_copy(update={"steps": 6, "min_tissue": 1.0, "augmentation": plain})
    network = fit_network(Watching(), tiles, range(6), recipe, device=CPU, seed=0).network
    tile_probabilities(network, tiles, [7], recipe, device=CPU)
    glass = (245 / 255 - np.array(recipe.mean)) / np.array(recipe.std)
    for batch in seen:
        shares = (batch[:, 0] > glass[0] - 0.01).float().mean(dim=(1, 2))
        assert float(shares.max()) == 0
    # Starts 0, 16, ... 64 down, 0 and 16 across: the others hold glass.
    assert len(seen[-1]) == 5 * 2


def test_a_tile_of_glass_alone_still_gets_an_answer():
    tiles = make_tiles()
    tiles.pixels[7] = 245
    assert np.isfinite(tile_probabilities(small_network(), tiles, [7], RECIPE, device=CPU)).all()


def test_a_tiles_prediction_is_the_mean_of_its_patches():
    tiles = make_tiles()
    network = small_network().eval()
    recipe = RECIPE.model_copy(update={"stride": 32})
    tile = torch.from_numpy(tiles.pixels[0] / 255.0).float().permute(2, 0, 1)
    patches = torch.stack([tile[:, y : y + 32, x : x + 32] for y in (0, 32, 64) for x in (0, 32, 64)])
    mean, std = torch.tensor(recipe.mean).view(3, 1, 1), torch.tensor(recipe.std).view(3, 1, 1)
    with torch.inference_mode():
        expected = torch.softmax(network((patches - mean) / std), dim=1).mean(dim=0)
    found = tile_probabilities(network, tiles, [0], recipe, device=CPU)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_a_schedule_without_a_rise_is_refused():
    with pytest.raises(ValueError, match=r"warm_up: expected more than one step, got 0\.2 of 5 steps"):
        TileFitSettings(steps=5)
